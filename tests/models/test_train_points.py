"""SAEs on what is inside attention and MLP, whose width is another than the stream's."""

import pytest

import saekit
from saekit.models.tiny import tiny
from tests import world


@pytest.mark.parametrize("site", ["L1.z", "L1.z.h2", "L1.mlp_acts", "L1.mlp_normalized"])
def test_an_sae_is_trained_and_measured_there(tmp_path, site):
    lm = tiny("llama")
    sae = saekit.train(
        lm,
        site=site,
        sae=saekit.TopK(k=4, d_sae=48),
        corpus=world.text_file(tmp_path),
        tokens=2000,
        n_ctx=32,
        batch_tokens=128,
        buffer_tokens=512,
        out=tmp_path / "run",
        warm_up_steps=2,
        checkpoint_tokens=1000,
        shown=False,
    )
    width = {"L1.z": 32, "L1.z.h2": 8, "L1.mlp_acts": 64, "L1.mlp_normalized": 32}[site]
    assert sae.cfg.d_in == lm.width(lm.site(site)) == width
    assert str(sae.site) == site
    result = saekit.evaluate(sae, lm, shown=False)
    assert 0 < result.scores["fvu"].value < 2
