"""Saving and loading: the same bits back, and damage named."""

import json
import resource

import pytest
import torch

from saekit.activations.pairs import Pair
from saekit.activations.rules import FittedRule, TokenRule
from saekit.core.errors import DataError, FormatError
from saekit.core.files import read_tensors, sha256_of, write_tensors
from saekit.hub.card import Card
from saekit.hub.native import load, save
from saekit.saes.base import registry


def card():
    return Card(
        model={"name": "tiny", "revision": "abc", "dtype": "float32"},
        pair=Pair(read=("L1.resid_post",)),
        rules={"L1.resid_post": FittedRule(TokenRule(), (1, 2), 3.5)},
        corpus={"name": "files"},
        n_ctx=32,
        bos=True,
        tokens=1000,
    )


def built(name):
    return registry.get(name).example().build(torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", registry.names())
def test_what_is_saved_comes_back(name, tmp_path):
    sae = built(name)
    save(sae, card(), tmp_path / "sae")
    again, its_card = load(tmp_path)  # a run's folder holds it in `sae`
    assert again.cfg == sae.cfg and its_card == card()
    x = torch.randn(5, *[3] * len(sae.cfg.event), sae.cfg.d_in)
    assert torch.equal(sae(x), again(x))


def test_damaged_weights_are_refused(tmp_path):
    save(built("topk"), card(), tmp_path)
    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(bytes(data))
    with pytest.raises(FormatError, match="SHA-256"):
        load(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path):
    save(built("topk"), card(), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["sae"] = registry.get("jumprelu").example().to_dict()
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(FormatError, match="threshold"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"), [({"format": "other"}, "not of a saekit SAE"), ({"version": 99}, "Upgrade")]
)
def test_other_formats_are_refused(tmp_path, change, said):
    save(built("topk"), card(), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(FormatError, match=said):
        load(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FormatError, match="no folder"):
        load(tmp_path / "nowhere")


def test_nan_is_never_saved(tmp_path):
    sae = built("topk")
    sae.W_dec.data[0, 0] = float("nan")
    with pytest.raises(DataError, match="W_dec"):
        save(sae, card(), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_weights_that_are_not_finite_are_refused_on_loading(tmp_path):
    save(built("topk"), card(), tmp_path)
    weights = read_tensors(tmp_path / "weights.safetensors")
    weights["W_dec"][3, 1] = float("nan")
    write_tensors(tmp_path / "weights.safetensors", weights)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["weights_sha256"] = sha256_of(tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(FormatError, match="`W_dec`.*not finite"):
        load(tmp_path)


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("size", ["d_in", "d_out", "d_sae"])
def test_a_config_of_a_larger_sae_than_its_weights_takes_no_memory(name, size, tmp_path):
    """Seen: 7.9 GB from 25 kB."""
    sae = built(name)
    save(sae, card(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def enlarge(raw):
        raw |= {size: raw[size] * 100_000}
        if isinstance(raw.get("inner"), dict):
            enlarge(raw["inner"])

    enlarge(config["sae"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError):
        load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
