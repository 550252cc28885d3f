"""What every analysis keeps: a value, documented, independent of shards, one length."""

import dataclasses
import inspect
import json

import pytest
import torch

import saekit
from saekit.activations.latents import LatentStoreWriter
from saekit.analysis.base import Analysis, registry
from saekit.cli.main import main
from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.data import table_files
from saekit.data.tokenise import Rows

N_ROWS, N_CTX, D_SAE = 24, 8, 16


def store(folder, shard_tokens, sign=1):
    g = torch.Generator().manual_seed(5)
    values, latents = torch.rand(N_ROWS * N_CTX, D_SAE, generator=g).topk(3)
    values[:, 2] = 0.0  # kept by number, but off
    tokens = torch.randint(0, 99, (N_ROWS, N_CTX), generator=g)
    row = torch.arange(N_ROWS).repeat_interleave(N_CTX)
    writer = LatentStoreWriter(folder, n_ctx=N_CTX, d_sae=D_SAE, meta={}, shard_tokens=shard_tokens)
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
        assert (
            ours == pytest.approx(theirs, nan_ok=True)
            if isinstance(ours[0], float)
            else (ours == theirs)
        ), name


def silent(folder):
    """A store of some tokens, of which none has a latent on."""
    writer = LatentStoreWriter(folder, n_ctx=N_CTX, d_sae=D_SAE, meta={})
    rows = Rows(torch.full((1, N_CTX), 9), torch.zeros(1, N_CTX).long(), 0)
    codes = Codes.from_dense(torch.zeros(N_CTX, D_SAE))
    writer.add(rows, torch.zeros(N_CTX).long(), torch.arange(N_CTX), codes)
    return writer.close()


def single(folder):
    """A store of one token that counts, with two latents on."""
    writer = LatentStoreWriter(folder, n_ctx=N_CTX, d_sae=D_SAE, meta={})
    rows = Rows(torch.full((1, N_CTX), 9), torch.zeros(1, N_CTX).long(), 0)
    dense = torch.zeros(1, D_SAE)
    dense[0, [3, 7]] = torch.tensor([0.5, -2.0])
    writer.add(rows, torch.tensor([0]), torch.tensor([2]), Codes.from_dense(dense))
    return writer.close()


@pytest.mark.parametrize("make", [silent, single])
def test_the_smallest_stores_are_no_error(analysis, make, tmp_path):
    table = analysis.run(make(tmp_path / "store"))
    assert table.columns and "latent" in table.columns
    assert {len(c) for c in table.columns.values()} == {len(table)}
    # Never NaN in the guise of a latent, and no latent that the store does not have.
    assert all(isinstance(n, int) and 0 <= n < D_SAE for n in table.columns["latent"])
    assert str(table) and table.rows() is not None
    table.write_csv(tmp_path / "t.csv")
    assert len(list(table_files.rows(tmp_path / "t.csv"))) == len(table)


def same(ours, theirs):
    assert ours.columns.keys() == theirs.columns.keys()
    for name, column in ours.columns.items():
        assert [str(v) for v in column] == [str(v) for v in theirs.columns[name]], name


def test_it_runs_from_python_and_from_the_command_line(analysis, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "index").mkdir(parents=True)
    wanted = analysis.run(store(run / "index", 10**6))
    for place in (run, run / "index", str(run)):
        same(saekit.analyse(place, analysis.name), wanted)
    with pytest.raises(SystemExit) as ended:
        main(["analyse", analysis.name, str(run), "--json"])
    assert not ended.value.code
    record = json.loads(capsys.readouterr().out)
    path = run / "analysis" / f"{analysis.name}.csv"
    assert record["table"] == str(path) and record["rows"] == len(wanted)
    assert Analysis.from_dict(record["settings"]) == analysis
    wanted.write_csv(tmp_path / "wanted.csv")
    assert path.read_bytes() == (tmp_path / "wanted.csv").read_bytes()


def test_each_setting_is_one_of_the_command_line(analysis, tmp_path, capsys):
    folder = store(tmp_path / "index", 10**6).folder
    words = ["analyse", analysis.name, str(folder), "--json"]
    for field in dataclasses.fields(analysis):
        words += ["--set", f"{field.name}={json.dumps(field.default)}"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    assert Analysis.from_dict(json.loads(capsys.readouterr().out)["settings"]) == analysis
    with pytest.raises(SystemExit) as ended:
        main([*words, "--set", "no_such_setting=1"])
    assert ended.value.code == 2 and "no_such_setting" in capsys.readouterr().err
