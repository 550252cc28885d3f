"""The change of basis: the whole inverse, the right translator, clear errors."""

import pytest
import torch

from saekit.core.errors import ConfigError, FormatError, ShapeError
from saekit.core.files import write_tensors
from saekit.models.sites import parse_site
from saekit.models.tiny import tiny
from saekit.studies.layers.lens import Lens


def lens(n=2, d=32):
    g = torch.Generator().manual_seed(0)
    weights = {i: 0.1 * torch.randn(d, d, generator=g) for i in range(n)}
    return Lens(weights, {i: torch.randn(d, generator=g) for i in range(n)})


def test_undo_is_the_whole_inverse():
    one, site = lens(), parse_site("L0.resid_post")
    h = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(1))
    there = one.apply(site, h)
    torch.testing.assert_close(one.undo(site, there), h, rtol=1e-4, atol=1e-4)
    inverse = torch.linalg.inv(torch.eye(32) + one.weights[1])
    diagonal = (there - one.biases[1]) * inverse.diagonal()
    assert (diagonal - h).abs().max() > 0.05  # what only the diagonal would give


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("embed", 0),
        ("L0.resid_pre", 0),
        ("L0.resid_post", 1),
        ("L1.resid_pre", 1),
        ("L1.resid_post", 2),
    ],
)
def test_translators_are_numbered_as_hidden_states(name, number):
    assert lens().number(parse_site(name)) == number


def test_translators_and_hidden_states_agree():
    """hidden_states[i] of transformers is the stream that translator i belongs to."""
    lm = tiny()
    tokens = torch.arange(20)[None]
    states = lm.module(input_ids=tokens, output_hidden_states=True).hidden_states
    for name in ("embed", "L0.resid_pre", "L0.resid_post", "L1.resid_pre"):
        site = parse_site(name)
        torch.testing.assert_close(lm.read(tokens, [site])[site], states[lens().number(site)])


def test_the_last_output_stays_as_it_is():
    h = torch.randn(5, 32)
    assert torch.equal(lens().apply(parse_site("L1.resid_post"), h), h)


def test_sites_without_a_translator_are_refused():
    with pytest.raises(ConfigError, match=r"between blocks.*got L0.mlp_out"):
        lens().number(parse_site("L0.mlp_out"))
    with pytest.raises(ConfigError, match="2 translators and reaches stream 2"):
        lens().number(parse_site("L2.resid_post"))


def test_files(tmp_path):
    one = lens()
    tensors = {f"A_{i}": w for i, w in one.weights.items()}
    tensors |= {f"b_{i}": b for i, b in one.biases.items()}
    write_tensors(tmp_path / "lens.safetensors", tensors)
    again = Lens.read(tmp_path / "lens.safetensors")
    assert torch.equal(again.weights[1], one.weights[1]) and again.sha256
    again.check(tiny())
    with pytest.raises(ShapeError, match="2 translators of width 32.*3 layers"):
        again.check(tiny(n_layers=3))
    write_tensors(tmp_path / "odd.safetensors", {"A_0": one.weights[0], "bias": one.biases[0]})
    with pytest.raises(FormatError, match="got `bias`"):
        Lens.read(tmp_path / "odd.safetensors")
    with pytest.raises(FormatError, match=r"A of \[0, 1\] and b of \[1\]"):
        Lens(one.weights, {1: one.biases[1]})
