"""What the files of other libraries do not say is filled in from a model and a text."""

import dataclasses

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.cli.evaluate import measure
from saekit.core.errors import ConfigError
from saekit.data.corpora.files import Files
from saekit.evals.core import Core
from saekit.hub.formats.base import FormatHints, registry
from saekit.hub.native import load
from saekit.hub.opening import complete, text_of
from saekit.saes.topk import TopK
from tests import world
from tests.hub.test_native import card


@pytest.fixture
def folder(tmp_path):
    """Return an SAE of the tiny model as sparsify writes it, which says neither model nor rule."""
    sae = TopK(d_in=32, d_out=32, d_sae=64, k=4).build(torch.Generator().manual_seed(2))
    out = tmp_path / "layers.1"
    return registry.get("sparsify")().write(sae.eval(), card(), out)


def test_a_published_sae_is_measured_with_the_usual_rule(folder, tmp_path):
    lm, corpus = world.model(), Files(paths=(str(world.text_file(tmp_path)),))
    loaded = load(folder)
    with pytest.raises(ConfigError, match="--corpus"):
        text_of(loaded, None)
    done = complete(loaded, lm, corpus)
    assert done.card.rules["L1.resid_post"].median_norm > 0
    assert done.card.provenance["filled"]["n_ctx"] == done.card.n_ctx == 128
    assert done.card.model["name"] == lm.name
    assert complete(done, lm, corpus) is done
    short = done._replace(card=dataclasses.replace(done.card, n_ctx=32))
    config = Core(n_tokens=1024, ce_tokens=256)
    result = measure(short, lm, config, corpus=corpus.paths[0], shown=False)
    assert result.scores["l0"].value == pytest.approx(4, abs=0.1)


def test_an_unknown_site_must_be_named(folder, tmp_path):
    place = folder.rename(tmp_path / "somewhere")
    lm, corpus = world.model(), Files(paths=(str(world.text_file(tmp_path)),))
    with pytest.raises(ConfigError, match="which site"):
        complete(load(place), lm, corpus)
    named = complete(load(place, site="L0.resid_post"), lm, corpus)
    assert named.card.pair == Pair(read=("L0.resid_post",))
    told = load(place, hints=FormatHints(read=("L0.mlp_in",), write=("L0.mlp_out",)))
    assert set(complete(told, lm, corpus).card.rules) == {"L0.mlp_in", "L0.mlp_out"}
