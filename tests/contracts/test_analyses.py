"""What every analysis keeps: a value, documented, independent of shards, one length."""

import dataclasses
import inspect
import json

import pytest
import torch

from saekit.activations.latents import LatentStoreWriter
from saekit.analysis.base import Analysis, registry
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.data.tokenise import Rows

N_ROWS, N_CTX, D_SAE = 24, 8, 16


def store(folder, shard_tokens, sign=1):
    g = torch.Generator().manual_seed(5)
    values, latents = torch.rand(N_ROWS * N_CTX, D_SAE, generator=g).topk(3)
    values[:, 2] = 0.0  # kept by number, but off
    tokens = torch.randint(0, 99, (N_ROWS, N_CTX), generator=g)
    row = torch.arange(N_ROWS).repeat_interleave(N_CTX)
    writer = LatentStoreWriter(
        folder, n_ctx=N_CTX, d_sae=D_SAE, meta={}, shard_tokens=shard_tokens
    )
    codes = Codes.fixed(sign * values, latents, D_SAE)
    writer.add(Rows(tokens, tokens // 50, 0), row, torch.arange(N_CTX).repeat(N_ROWS), codes)
    return writer.close()


@pytest.fixture(params=registry.names())
def analysis(request):
    return registry.get(request.param)()


def test_config_round_trip(analysis):
    raw = json.loads(json.dumps(analysis.to_dict()))
    assert Analysis.from_dict(raw) == analysis
    with pytest.raises(ConfigError):
        Analysis.from_dict(raw | {"no_such_field": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        analysis.name = "x"


def test_documented(analysis):
    text = inspect.getdoc(type(analysis)) or ""
    assert text and text.partition("\n")[0].endswith(".")
    for field in dataclasses.fields(analysis):
        assert f"\n    {field.name}: " in text


def test_columns_have_one_length_and_known_units(analysis, tmp_path):
    table = analysis.run(store(tmp_path, 10**6))
    assert len(table) > 0
    assert {len(c) for c in table.columns.values()} == {len(table)}
    assert table.units.keys() <= table.columns.keys()
    assert "latent" in table.columns
    table.write_csv(tmp_path / "t.csv")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == len(table) + 1


def test_shards_change_nothing(analysis, tmp_path):
    whole, cut = (analysis.run(store(tmp_path / str(n), n)) for n in (10**6, 24))
    assert whole.columns.keys() == cut.columns.keys()
    for name, column in whole.columns.items():
        if not isinstance(column[0], str):
            column = pytest.approx(column, rel=1e-12, nan_ok=True)
        assert cut.columns[name] == column


def test_the_sign_of_activations_changes_signs_alone(analysis, tmp_path):
    """A latent is on where it is not 0, and as strong as its size: so is every analysis."""
    plain = analysis.run(store(tmp_path / "plain", 10**6)).columns
    turned = analysis.run(store(tmp_path / "turned", 10**6, sign=-1)).columns
    assert plain.keys() == turned.keys()
    for name, column in plain.items():
        ours, theirs = column, turned[name]
        if name in ("value", "mean", "max"):  # where an activation is shown it keeps its sign
            theirs = [-v for v in theirs]
        assert ours == pytest.approx(theirs, nan_ok=True) if isinstance(ours[0], float) else (
            ours == theirs
        ), name
