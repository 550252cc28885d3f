"""Models that no family has: maps found from structure, proved on every type and place."""

import copy
import os
import re
from pathlib import Path

import pytest
import torch

from saekit.core.errors import ConfigError, FormatError, UnknownNameError
from saekit.models import structure
from saekit.models.family import family_of
from saekit.models.generation import Sampling
from saekit.models.selfcheck import check
from saekit.models.sites import EMBED, POINTS, Site, parse_site
from saekit.models.tiny import model_types, tiny
from tests.models.kinds import ALL, FOUND, generates, model, row
from tests.models.test_generation import assert_anew

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
kinds = pytest.mark.parametrize("kind", FOUND)
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_table_of_the_docs_is_what_the_models_say():
    """SAEKIT_RENEW_MODELS=1 renews it."""
    rows = "\n".join(row(kind) for kind in ALL)
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split("|---|---|---|---|\n")
    after = re.sub(r"\A(\|.*\n)*", "", rest)
    renewed = f"{head}|---|---|---|---|\n{rows}\n{after}"
    if os.environ.get("SAEKIT_RENEW_MODELS"):
        PAGE.write_text(renewed, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == renewed


@pytest.mark.parametrize("kind", model_types())
def test_structure_finds_what_families_know(kind):
    lm = tiny(kind)
    found = structure.find(lm.module, lm.module.config.get_text_config())
    family = family_of(kind)
    assert family is not None
    assert found.layers == lm.layers
    assert (found.embed, found.final_norm) == (family.embed, family.final_norm)


@kinds
def test_the_stream_is_the_hidden_states_of_transformers(kind):
    lm = model(kind)
    assert {Site(i, p) for i in (0, 1) for p in ("resid_pre", "resid_post")} <= set(lm.sites())
    with torch.no_grad():
        try:
            out = lm.module(input_ids=TOKENS, output_hidden_states=True, use_cache=False)
        except Exception:  # RecurrentGemma and others cannot say
            pytest.skip("its transformers model gives no hidden states")
    if kind == "gemma3n_text" or out.hidden_states is None:
        pytest.skip("hidden states are of all streams")
    # Those of recurrent models begin with what the first block gives.
    point = "resid_post" if kind in ("mamba", "mamba2", "falcon_mamba", "rwkv") else "resid_pre"
    for i in (0, 1):
        assert torch.equal(lm.read(TOKENS, Site(i, point)), out.hidden_states[i])


@kinds
def test_every_site_is_left_out_with_a_reason_or_reads_and_writes(kind):
    lm = model(kind)
    plain = lm.logits(TOKENS)
    for i in range(lm.n_layers):
        for point in POINTS:
            site = Site(i, point)
            assert (site in lm.sites()) != (str(site) in lm.left_out)
            if site not in lm.sites():
                with pytest.raises(UnknownNameError, match=f"no site `{site}`: "):
                    lm.read(TOKENS, site)
    for site in lm.sites():
        value = lm.read(TOKENS, site)
        assert value.shape == (2, 9, lm.width(site))
        back = lm.logits(TOKENS, {site: lambda _, value=value: value.clone()})
        if site.point == "mlp_normalized":  # multiplied and added to anew
            torch.testing.assert_close(back, plain, rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(back, plain), site
        assert not torch.allclose(lm.logits(TOKENS, {site: lambda x: x * 0.5 + 1}), plain), site


@pytest.mark.parametrize("kind", ALL)
def test_unembed_and_logit_effects_are_the_models_own(kind):
    """Norm, scaling, bias, soft cap: measured on what the model makes of a direction."""
    lm = model(kind)
    final = lm.final(TOKENS)
    torch.testing.assert_close(lm.unembed(final[1]), lm.logits(TOKENS)[1], rtol=1e-4, atol=1e-4)
    if kind == "gemma3n_text":
        with pytest.raises(ConfigError, match="more than a norm"):
            lm.logit_effects(torch.ones(1, 32))
        return
    site = Site(1, "resid_post")
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(2)).repeat(1, 9, 1)
    basis = torch.linalg.qr(torch.stack([x[0, 0], torch.ones(32)], 1)).Q
    d = torch.randn(32, generator=torch.Generator().manual_seed(3))
    d -= basis @ (basis.T @ d)  # leaves mean and, to first order, length
    size = 0.02
    low, high = (
        lm.logits(TOKENS[:1], {site: lambda _, s=s: x + s * d})[0, 0] for s in (-size, size)
    )
    config = lm.module.config.get_text_config()
    for name in ("final_logit_softcapping", "logits_soft_cap"):
        if cap := getattr(config, name, None):
            low, high = cap * torch.atanh(low / cap), cap * torch.atanh(high / cap)
    norm = lm._final_norm()
    centred = x[0, 0] - x[0, 0].mean() if norm is not None and norm.centred else x[0, 0]
    length = centred.square().mean().sqrt() if norm is not None else 1.0
    wanted = (high - low) / (2 * size) * length
    got = lm.logit_effects(d[None])[0]
    assert (got - wanted).norm() < 5e-3 * wanted.norm()


@kinds
def test_the_cache_changes_nothing(kind):
    lm = model(kind)
    prompts = [[1, 5, 9], [2, 7, 3], [4]]
    if generates(lm) == "no":
        with pytest.raises(ConfigError, match="cannot generate here"):
            lm.generate(prompts, 4)
        return
    site = Site(1, "resid_post")
    sampling = Sampling(temperature=0.8, seed=3)
    for replace in (None, {site: lambda x: x + torch.linspace(-1, 1, 32)}):
        found = lm.generate(prompts, 6, temperature=0.8, seed=3, stop=[11, 12], replace=replace)
        for i, (prompt, tokens) in enumerate(zip(prompts, found, strict=True)):
            assert_anew(lm, prompt, tokens, sampling, i, replace, {11, 12}, 6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "falcon", "deepseek_v3", "opt"])
def test_one_head_is_its_slice_of_z_and_changes_that_alone(kind):
    lm = model(kind)
    whole = Site(1, "z")
    n, z = lm.n_heads(whole), lm.read(TOKENS, whole)
    assert n == 4
    width = lm.width(Site(1, "z", head=2))
    assert width * n == lm.width(whole)
    head = lm.read(TOKENS, "L1.z.h2")
    assert torch.equal(head, z[..., 2 * width : 3 * width])
    both = lm.read(TOKENS, whole, replace={"L1.z.h2": lambda x: x + 1})
    changed = z.clone()
    changed[..., 2 * width : 3 * width] += 1
    assert torch.equal(both, changed)
    one, all_heads = (
        lm.logits(TOKENS, change)
        for change in ({"L1.z.h2": lambda x: x + 1}, {whole: lambda _: changed})
    )
    assert torch.equal(one, all_heads)
    assert parse_site("L1.z.h2") not in lm.sites()
    with pytest.raises(UnknownNameError, match=r"heads 0\.\.3"):
        lm.read(TOKENS, "L1.z.h4")


def test_heads_that_subtract_from_each_other_are_no_sites():
    with pytest.raises(UnknownNameError, match="no heads"):
        model("diffllama").read(TOKENS, "L1.z.h0")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "olmo", "nemotron", "cohere", "gemma2"])
def test_mlp_normalized_is_the_stream_over_its_length(kind):
    lm = model(kind)
    point = "resid_pre" if kind == "cohere" else "resid_mid"
    x, got = (lm.read(TOKENS, Site(1, p)) for p in (point, "mlp_normalized"))
    if kind in ("gpt2", "olmo", "nemotron", "cohere"):
        x = x - x.mean(-1, keepdim=True)
    wanted = x / x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    written = lm.read(
        TOKENS, Site(1, "mlp_in"), replace={Site(1, "mlp_normalized"): lambda x: x * 0}
    )
    path = lm.layers[1]["mlp_normalized"].norm.format(i=1)
    bias = getattr(lm.module.get_decoder().get_submodule(path), "bias", None)
    wanted = torch.zeros(32) if bias is None else bias
    torch.testing.assert_close(written, wanted.expand_as(written))


def test_a_gain_of_zero_cannot_be_undone():
    module = tiny("llama").module
    module.model.layers[1].post_attention_layernorm.weight.data[3] = 0
    from saekit.models.hf import HFModel
    from saekit.models.tiny import ByteTokenizer

    lm = HFModel(module, ByteTokenizer(), name="it", revision="")
    assert Site(0, "mlp_normalized") in lm.sites()
    assert "by 0" in lm.left_out["L1.mlp_normalized"]
    check(lm)


def test_scaled_residuals_are_left_out_and_the_stream_is_not():
    lm = model("granite")
    assert "multiplied by 0.5" in lm.left_out["L0.attn_out"]
    assert "multiplied by 0.5" in lm.left_out["L1.mlp_out"]
    assert Site(0, "resid_mid") in lm.sites()


def test_a_model_that_sees_what_comes_is_refused():
    lm = tiny("bert")
    with pytest.raises(FormatError, match="tokens that come later"):
        check(lm)


def test_what_no_structure_is_found_of_is_refused_by_name():
    module = tiny("mixtral").module
    config = copy.copy(module.config)
    config.num_hidden_layers = 5
    with pytest.raises(UnknownNameError, match="type `mixtral`.*no list of 5 blocks.*Looked for"):
        structure.find(module, config)
    module.model.layers[1] = module.model.layers[0]
    with pytest.raises(UnknownNameError, match="are one module"):
        structure.find(module, module.config)
    module = tiny("mixtral").module
    module.model.forward = lambda **_: 1 // 0
    with pytest.raises(UnknownNameError, match="does not read text alone.*ZeroDivision"):
        structure.find(module, module.config)


VARIANTS = [
    ("falcon", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 2}, "resid_mid"),
    ("falcon", {"parallel_attn": False}, ""),
    ("falcon", {"alibi": True}, "resid_mid"),
    ("stablelm", {"use_parallel_residual": True}, "resid_mid"),
    (
        "bloom",
        {"apply_residual_connection_post_layernorm": True},
        "z attn_out resid_mid mlp_normalized mlp_in mlp_acts mlp_out",
    ),
    (
        "opt",
        {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
        "mlp_normalized mlp_in mlp_acts mlp_out",
    ),
    ("gemma4_text", {"hidden_size_per_layer_input": 0}, ""),
    (
        "gemma4_text",
        {
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
        },
        "mlp_normalized mlp_in mlp_acts mlp_out",
    ),
    ("granite", {"residual_multiplier": 1.0}, ""),
]


@pytest.mark.parametrize(("kind", "settings", "left_out"), VARIANTS)
def test_settings_change_what_a_block_adds(kind, settings, left_out, monkeypatch):
    from saekit.models import tiny as making

    small = making._small
    monkeypatch.setattr(making, "_small", lambda of, sizes: small(of, sizes) | settings)
    lm = tiny(kind)
    check(lm)
    assert set(left_out.split()) == {p for p in POINTS if Site(1, p) not in lm.sites()}
    assert lm.read(TOKENS, EMBED).shape[-1] == lm.width(EMBED)


def test_a_block_that_adds_more_keeps_what_can_be_proved():
    lm = tiny("mixtral")
    block = lm.module.model.layers[1]
    forward = block.forward
    block.forward = lambda *a, **k: forward(*a, **k) * 1.5
    found = structure.find(lm.module, lm.module.config)
    assert "mlp_out" in found.layers[0] and "mlp_out" not in found.layers[1]
    assert "attn_out" in found.layers[1]
    assert "not resid_mid plus" in found.left_out["L1.mlp_out"]


def test_grad_reaches_the_embedding_through_new_points():
    lm = tiny("llama", dtype=torch.float64)
    for name in ("L1.z", "L1.mlp_acts", "L1.mlp_normalized", "L1.z.h1"):
        acts = lm.read(TOKENS, [EMBED, name], grad=True)
        (grad,) = torch.autograd.grad(acts[name].sum(), acts[EMBED])
        assert grad.abs().max() > 0


@kinds
def test_documents_of_a_row_are_read_alone_or_it_is_refused(kind):
    lm = model(kind)
    try:
        apart = lm.separated()
    except ConfigError as error:
        assert "cannot read each document" in str(error)
        return
    docs = [[3, 8, 9, 257], [1, 257], [7, 2, 5, 4, 257]]
    site = Site(1, "resid_post")
    packed = apart.read([sum(docs, [])], site)[0]
    alone = torch.cat([lm.read([doc], site)[0] for doc in docs])
    assert (packed - alone).abs().max() < 1e-4 * alone.abs().max()
