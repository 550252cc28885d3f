"""A model with an edit built in: transformers loads it, and it writes what steering writes."""

import pytest
import torch

import saekit
from saekit.core.errors import ConfigError
from saekit.models.tiny import save_tiny, tiny
from tests.hub.test_splicing import TOKENS, a_crosscoder, an_sae


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("site", ["L0.resid_post", "L0.mlp_out", "L0.attn_out"])
def test_it_computes_what_the_spliced_model_does(family, site, tmp_path):
    lm = saekit.load_model(str(save_tiny(tmp_path / "lm", family)), dtype="float32")
    sae = an_sae(lm, site)
    with saekit.splice(lm, sae).edit(3, add=4.0).edit(5, add=-2.0) as spliced:
        wanted = lm.logits(TOKENS)
        text = lm.generate("abc", 8, temperature=0)
        spliced.save_model(tmp_path / "steered")
    again = saekit.load_model(str(tmp_path / "steered"), dtype="float32")
    torch.testing.assert_close(again.logits(TOKENS), wanted, atol=1e-4, rtol=1e-4)
    assert again.generate("abc", 8, temperature=0) == text
    assert not torch.allclose(lm.logits(TOKENS), wanted)


def test_what_is_no_bias_is_refused(tmp_path):
    lm = tiny("llama")
    sae = an_sae(lm)
    for edit, match in (
        ({"scale": 2.0}, "got scale"),
        ({"add": 1.0, "where": [1]}, "at some tokens"),
    ):
        with pytest.raises(ConfigError, match=match):
            saekit.splice(lm, sae).edit(3, **edit).save_model(tmp_path / "a")
    with pytest.raises(ConfigError, match="no edit"):
        saekit.splice(lm, sae).save_model(tmp_path / "a")
    with pytest.raises(ConfigError, match="one site"):
        saekit.splice(lm, a_crosscoder(lm)).edit(3, add=1.0).save_model(tmp_path / "a")
    with pytest.raises(ConfigError, match="writes at L0"):
        saekit.splice(lm, an_sae(lm, "L0.mlp_in")).edit(3, add=1.0).save_model(tmp_path / "a")
    qwen = tiny("qwen3")
    with pytest.raises(ConfigError, match="none to switch on"):
        saekit.splice(qwen, an_sae(qwen)).edit(3, add=1.0).save_model(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("")
    with pytest.raises(ConfigError, match="in use"):
        saekit.splice(lm, sae).edit(3, add=1.0).save_model(tmp_path / "b")
    assert not (tmp_path / "a").exists()
