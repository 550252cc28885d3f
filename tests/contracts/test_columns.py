"""What every group of columns keeps: names, units, a value for each latent, no shard seen."""

import inspect

import numpy as np
import pytest
import torch

import saekit
from saekit.activations.latents import LatentStoreWriter
from saekit.analysis.columns.base import Made, registry
from saekit.analysis.index_folder import Index
from saekit.analysis.query import WORDS
from saekit.core.codes import Codes
from saekit.data.tokenise import Rows
from saekit.models.sites import parse_site
from tests import world

SITE = "L1.resid_post"


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    return saekit.train(
        world.model(),
        site=SITE,
        sae=saekit.TopK(k=4, expansion=2),
        corpus=world.text_file(folder),
        tokens=2000,
        n_ctx=16,
        out=folder / "run",
        shown=False,
    )


@pytest.fixture(scope="module")
def index(sae):
    return saekit.index(sae, world.model(), tokens=1500, shown=False)


@pytest.fixture(params=registry.names())
def group(request):
    return registry.get(request.param)()


def made(sae, folder, shard_tokens):
    """Codes of a text that is cut into shards; latents 60 and over are never on."""
    g = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 99, (24, 16), generator=g)
    dense = torch.rand(24 * 16, 64, generator=g) * (torch.rand(24 * 16, 64, generator=g) < 0.05)
    dense[:, 60:] = 0
    writer = LatentStoreWriter(folder, n_ctx=16, d_sae=64, meta={}, shard_tokens=shard_tokens)
    docs = torch.arange(24 * 16).div(11, rounding_mode="floor").view(24, 16)
    row = torch.arange(24).repeat_interleave(16)
    rows = Rows(tokens, docs, 0)
    writer.add(rows, row, torch.arange(16).repeat(24), Codes.from_dense(dense))
    return Made(writer.close(), sae, world.model(), parse_site(SITE))


def test_documented(group):
    assert (inspect.getdoc(type(group)) or "").partition("\n")[0].endswith(".")
    assert group.columns
    for name, (label, unit, about) in group.columns.items():
        assert name.isidentifier() and name not in WORDS and name != "latent"
        assert label and about.endswith(".") and isinstance(unit, str)


def test_a_value_for_each_latent_and_no_other_column(group, sae, tmp_path):
    found = group.run(made(sae, tmp_path, 10**6))
    assert found.keys() <= group.columns.keys()
    for values in found.values():
        assert len(values) == 64
        if not isinstance(values, torch.Tensor):
            kinds = {type(v) for v in values if v is not None}
            assert kinds <= {str} or kinds <= {int, float}


def test_shards_change_nothing(group, sae, tmp_path):
    whole, cut = (group.run(made(sae, tmp_path / str(n), n)) for n in (10**6, 48))
    assert whole.keys() == cut.keys()
    for name, values in whole.items():
        if isinstance(values, torch.Tensor):
            np.testing.assert_allclose(values.numpy(), cut[name].numpy(), rtol=1e-9)
        else:
            assert str(values) == str(cut[name])


def test_they_are_in_the_index_without_another_edit(group, index):
    for name, (label, unit, about) in group.columns.items():
        assert index.columns[name] == (label, unit, about)
        assert name in index.record(3)["values"] and name in index.latents.columns
        assert len(index.query(f"missing {name} or not missing {name}")) == 64
        assert name in Index(index.folder).query(f"sort -{name} limit 2").columns
