"""Models over several devices or with few bits: what is asked for, and what is lacking."""

import importlib.util

import pytest
import torch

from saekit.core.errors import ConfigError, MissingExtraError
from saekit.models.hf import load
from saekit.models.placement import spread_settings
from saekit.models.sites import Site
from saekit.models.tiny import save_tiny

TOKENS = torch.arange(12)[None]
has_accelerate = importlib.util.find_spec("accelerate") is not None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"device_map": "everywhere"}, "`device_map` must be auto"),
        ({"quantisation": "2bit"}, "`quantisation` must be 8bit or 4bit"),
        ({"quantisation": "4bit", "processing": "transformer_lens"}, "cannot be processed"),
    ],
)
def test_what_is_none_of_the_ways_is_refused(tmp_path, settings, says):
    with pytest.raises(ConfigError, match=says):
        load(str(save_tiny(tmp_path)), **settings)


@pytest.mark.parametrize("settings", [{"device_map": "auto"}, {"quantisation": "8bit"}])
def test_libraries_that_are_missing_are_named(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"accelerate.*saekit\[large\]"):
        load(str(save_tiny(tmp_path)), **settings)


def test_settings_are_those_of_transformers(monkeypatch):
    import transformers

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    asked = []
    monkeypatch.setattr(transformers, "BitsAndBytesConfig", lambda **how: asked.append(how) or how)
    found = spread_settings(transformers, {"": "cpu"}, "4bit", torch.bfloat16)
    assert found["device_map"] == {"": "cpu"}
    four = {"bnb_4bit_compute_dtype": torch.bfloat16, "bnb_4bit_quant_type": "nf4"}
    assert asked == [{"load_in_4bit": True} | four]
    assert spread_settings(transformers, None, None, torch.float32) == {}


SPREAD = {
    name: "cpu" for name in ("model.embed_tokens", "model.layers.0", "model.norm", "lm_head")
} | {"model.rotary_emb": "cpu", "model.layers.1": "disk"}


@pytest.mark.skipif(not has_accelerate, reason="accelerate is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("places", [{"": "cpu"}, "auto", SPREAD], ids=["one", "auto", "disk"])
def test_a_map_of_devices_gives_the_same_model(tmp_path, places):
    """On disk, the weights of a layer come and go with hooks of accelerate, as between GPUs."""
    folder = str(save_tiny(tmp_path))
    plain, lm = load(folder, dtype="float32"), load(folder, dtype="float32", device_map=places)
    assert lm.sites() == plain.sites()
    for name in ("L1.z", "L0.resid_mid", "L1.mlp_acts", "L1.mlp_normalized"):
        assert torch.equal(lm.read(TOKENS, name), plain.read(TOKENS, name))
    steered = {Site(1, "resid_mid"): lambda x: x + 1}
    assert torch.equal(lm.logits(TOKENS, steered), plain.logits(TOKENS, steered))
    prompt = [[1, 2, 3]]
    assert lm.generate(prompt, 4, stop=[]) == plain.generate(prompt, 4, stop=[])
