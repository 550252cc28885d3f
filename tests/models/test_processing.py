"""Weights processed as TransformerLens does: the same predictions, the same stream but centred."""

import pytest
import torch

from saekit.core.errors import ConfigError
from saekit.models.hf import load
from saekit.models.processing import process
from saekit.models.selfcheck import check
from saekit.models.sites import EMBED, Site
from saekit.models.tiny import save_tiny, tiny

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
HOLDS = ["gpt2", "gpt_neox", "gpt_neo", "gptj", "opt", "phi", "falcon"]


def centred(x):
    return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize("kind", HOLDS)
def test_logits_differ_by_a_number_a_position_and_the_stream_by_its_mean(kind):
    plain, lm = tiny(kind), tiny(kind)
    process(lm)
    check(lm)
    moved = lm.logits(TOKENS) - plain.logits(TOKENS)
    torch.testing.assert_close(moved, moved[..., :1].expand_as(moved), rtol=0, atol=2e-4)
    assert lm.logits(TOKENS).mean(-1).abs().max() < 1e-4  # the unembedding is centred
    for site in plain.sites():
        if site == EMBED or site.point.startswith("resid") or site.point.endswith("_out"):
            old, new = plain.read(TOKENS, site), lm.read(TOKENS, site)
            torch.testing.assert_close(new, centred(old), rtol=1e-3, atol=1e-3)
            assert not torch.allclose(new, old, atol=1e-3)
    site = Site(1, "mlp_in")
    normalised = plain.read(TOKENS, Site(1, "mlp_normalized"))
    torch.testing.assert_close(lm.read(TOKENS, site), normalised, rtol=1e-3, atol=1e-3)
    old, new = (m.read(TOKENS, "L0.mlp_acts") for m in (plain, lm))
    torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-3)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    effects, old = lm.logit_effects(x), plain.logit_effects(x)
    torch.testing.assert_close(effects, centred(old), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt"])
def test_z_lacks_the_bias_of_values(kind):
    plain, lm = tiny(kind), tiny(kind)
    process(lm)
    lost = plain.read(TOKENS, "L0.z") - lm.read(TOKENS, "L0.z")
    torch.testing.assert_close(lost, lost[:1, :1].expand_as(lost), rtol=0, atol=1e-4)
    assert lost.abs().max() > 1e-2


def test_it_is_asked_for_on_loading_and_recorded(tmp_path):
    folder = str(save_tiny(tmp_path, "gpt2"))
    lm = load(folder, dtype="float32", processing="transformer_lens")
    assert lm.provenance()["processing"] == "transformer_lens"
    assert "processing" not in load(folder, dtype="float32").provenance()
    with pytest.raises(ConfigError, match="must be transformer_lens"):
        load(folder, processing="lens")
    with pytest.raises(ConfigError, match="changed on loading"):
        lm.shuffled(0)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("llama", "subtract no mean"), ("gemma2", "subtract no mean"), ("bloom", "does not hold")],
)
def test_where_it_does_not_hold_it_is_refused(kind, says):
    with pytest.raises(ConfigError, match=says):
        process(tiny(kind))
