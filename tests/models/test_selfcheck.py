import pytest
import torch

from saekit.core.errors import FormatError
from saekit.models.family import Tap
from saekit.models.selfcheck import check
from saekit.models.tiny import model_types, tiny

CASES = [(family, torch.float32) for family in model_types()]
CASES += [("gpt_neox", torch.bfloat16), ("gemma2", torch.bfloat16), ("llama", torch.float16)]


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_every_family_passes(family: str, dtype: torch.dtype) -> None:
    found = check(tiny(family, n_layers=5, dtype=dtype))
    assert "L2.attn_out" in found["sites"]
    assert "L3.resid_pre" in found["sites"]
    assert "L3.attn_out" not in found["sites"]


NORM = "layers.{i}.post_attention_layernorm"
WRONG = [
    ("llama", "attn_out", Tap("layers.{i}.input_layernorm", "output"), "L0.resid_mid"),
    ("llama", "mlp_out", Tap("layers.{i}.mlp.up_proj", "output"), "L0.mlp_out"),
    ("llama", "resid_post", Tap("layers.{i}.mlp", "output"), "L0.resid_post"),
    ("llama", "resid_pre", Tap("layers.{i}.self_attn.q_proj", "input"), "L0.resid_mid"),
    ("llama", "resid_mid", Tap("layers.{i}.post_attention_layernorm", "input"), "L0.resid_post"),
    ("llama", "mlp_in", Tap("layers.{i}.nothing", "input"), "L0.mlp_in"),
    ("llama", "mlp_in", Tap("layers.{i}.mlp.down_proj", "input"), "L0.mlp_in"),
    ("gpt2", "attn_out", Tap("h.{i}.attn.c_attn", "output"), "L0.attn_out"),
    ("gpt_neox", "mlp_out", Tap("layers.{i}.attention", "output"), "L0.resid_post"),
    ("gemma2", "attn_out", Tap("layers.{i}.self_attn", "output"), "L0.resid_mid"),
    ("gemma3", "mlp_out", Tap("layers.{i}.mlp", "output"), "L0.resid_post"),
    ("qwen3", "resid_mid", Tap("layers.{i}", "input"), "L0.resid_mid"),
    ("llama", "z", Tap("layers.{i}.self_attn.o_proj", "output"), "L0.z"),
    ("llama", "mlp_acts", Tap("layers.{i}.mlp.gate_proj", "output"), "L0.mlp_acts"),
    (
        "llama",
        "mlp_normalized",
        Tap("layers.{i}.self_attn.q_proj", "input", norm=NORM),
        "L0.mlp_normalized",
    ),
]


@pytest.mark.parametrize(("family", "point", "tap", "blamed"), WRONG)
def test_a_wrong_map_is_caught_and_the_site_named(family, point, tap, blamed, monkeypatch) -> None:
    model = tiny(family, n_layers=3)
    monkeypatch.setitem(model.layers[0], point, tap)  # one map of all layers
    with pytest.raises(FormatError, match=f"`{blamed}`"):
        check(model)


def test_a_site_no_pass_reaches_is_caught(monkeypatch) -> None:
    model = tiny()
    model._decoder.layers[0].idle = torch.nn.Linear(32, 32)  # type: ignore[union-attr]
    model._decoder.layers[1].idle = torch.nn.Linear(32, 32)  # type: ignore[union-attr]
    monkeypatch.setitem(model.layers[0], "mlp_in", Tap("layers.{i}.idle", "input"))
    with pytest.raises(FormatError, match="`L0.mlp_in` is not reached"):
        check(model)


def test_weights_that_overflow_are_caught() -> None:
    model = tiny()
    model.module.lm_head.weight.fill_(float("inf"))
    with pytest.raises(FormatError, match="not finite"):
        check(model)
