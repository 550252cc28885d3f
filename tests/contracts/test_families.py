"""Every family of language models: its types load from a tiny config, and every site is proved."""

import inspect

import pytest
import torch

from saekit.models.families.llama import Llama
from saekit.models.family import Family, Tap, family_of, registry
from saekit.models.hf import load
from saekit.models.selfcheck import check
from saekit.models.sites import EMBED, POINTS, Site
from saekit.models.tiny import save_tiny, tiny

N_LAYERS = 3  # of which the self-check looks at each
TYPES = [(name, kind) for name in registry.names() for kind in registry.get(name).model_types]


@pytest.fixture(params=TYPES, ids="-".join)
def one(request) -> tuple[type[Family], str]:
    return registry.get(request.param[0]), request.param[1]


@pytest.mark.parametrize("name", registry.names())
def test_it_says_what_it_is(name):
    family = registry.get(name)
    assert family.model_types and family.tiny_type in ("", *family.model_types)
    assert (inspect.getdoc(family) or "").partition("\n")[0]
    assert family.__module__.rpartition(".")[2] == name
    assert tiny(name).family == name


def test_no_type_is_of_two_families():
    kinds = [kind for _, kind in TYPES]
    assert len(set(kinds)) == len(kinds)


def test_every_site_is_proved(one):
    family, kind = one
    assert family_of(kind) is family
    lm = tiny(kind, n_layers=N_LAYERS)
    assert (lm.family, lm.n_layers, lm.d_model) == (family.name, N_LAYERS, 32)
    points = family.points(lm.module.config.get_text_config())
    assert set(points) <= set(POINTS) and {"resid_pre", "resid_post"} <= set(points)
    every = {str(EMBED), *(str(Site(i, p)) for i in range(N_LAYERS) for p in points)}
    assert set(check(lm)["sites"]) == every


def test_it_loads_from_a_folder_as_the_same_model(one, tmp_path):
    family, kind = one
    saved = load(str(save_tiny(tmp_path, kind)), dtype="float32")
    tokens = torch.arange(12)[None]
    assert saved.family == family.name
    assert torch.equal(saved.logits(tokens), tiny(kind).logits(tokens))


def test_the_logit_lens_uses_the_final_norm_as_the_model_does(one):
    """`final_norm` and `gain_offset`: what the norm makes of a direction, less its length."""
    family, kind = one
    lm = tiny(kind)
    norm = lm._decoder.get_submodule(family.final_norm)
    x = 5 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    centred = x - x.mean(-1, keepdim=True) if isinstance(norm, torch.nn.LayerNorm) else x
    length = centred.square().mean(-1, keepdim=True).sqrt()
    with torch.no_grad():
        rows = (norm(x) - (0 if getattr(norm, "bias", None) is None else norm.bias)) * length
        wanted = rows @ lm.module.get_output_embeddings().weight.T
    torch.testing.assert_close(lm.logit_effects(x), wanted, rtol=1e-3, atol=1e-3)
    assert isinstance(lm._decoder.get_submodule(family.embed), torch.nn.Embedding)


def test_a_wrong_map_does_not_pass(monkeypatch):
    """The contract holds a family that names another module than it says."""
    right = Llama.points
    wrong = {"mlp_out": Tap("layers.{i}.self_attn", "output")}
    monkeypatch.setattr(Llama, "points", staticmethod(lambda config: right(config) | wrong))
    with pytest.raises(Exception, match="map of sites of llama is wrong"):
        test_every_site_is_proved((Llama, "llama"))
