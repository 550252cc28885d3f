"""Gradients of inputs through frozen linear layers, and models run from changed embeddings."""

import pytest
import torch

from saekit.models.fast_gradients.linear import freeze_linears
from saekit.models.hf import new_module
from saekit.models.sites import EMBED, Site
from saekit.models.tiny import tiny
from tests.world import FAMILIES

TOKENS = torch.randint(0, 256, (2, 11), generator=torch.Generator().manual_seed(0))
LAST = Site(1, "resid_post")


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_plain_model(family):
    lm = tiny(family)
    plain = type(lm.module)(lm.module.config).eval().requires_grad_(False)
    plain.load_state_dict(lm.module.state_dict())
    seed = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(1))
    for sparse in (False, True):
        direction = seed.clone()
        if sparse:  # one position of one row, as for a latent
            direction[:] = 0
            direction[1, 7] = seed[1, 7]
        found = lm.read(TOKENS, [EMBED, LAST], grad=True)
        got = torch.autograd.grad(found[LAST], found[EMBED], direction)[0]
        x = found[EMBED].detach()
        if family.startswith("gemma"):
            x = x / 32**0.5  # the module of the embedding scales what it gives
        embed = plain.get_input_embeddings()
        leaves = []

        def leaf(_m, _a, out, leaves=leaves):
            leaves.append(out.detach().requires_grad_())
            return leaves[0]

        handle = embed.register_forward_hook(leaf)
        out = plain(input_ids=TOKENS, output_hidden_states=True, use_cache=False).hidden_states
        handle.remove()
        y = out[2] if len(out) > 3 else None
        del x
        if y is None:  # the last hidden state has passed the final norm: take it before
            y = plain_last(plain, leaves, leaf)
        want = torch.autograd.grad(y, leaves[-1], direction)[0]
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def plain_last(plain, leaves, leaf):
    """Return what the second block of a plain model gives."""
    leaves.clear()
    kept = []
    decoder = plain.get_decoder()
    blocks = decoder.layers if hasattr(decoder, "layers") else decoder.h
    handles = [
        blocks[1].register_forward_hook(
            lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out)
        ),
        plain.get_input_embeddings().register_forward_hook(leaf),
    ]
    plain(input_ids=TOKENS, use_cache=False)
    for handle in handles:
        handle.remove()
    return kept[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_with_a_graph_changes_no_value(family):
    lm = tiny(family)
    sites = lm.sites()
    plain, graph = lm.read(TOKENS, sites), lm.read(TOKENS, sites, grad=True)
    for site in sites:
        assert (plain[site] - graph[site]).abs().max() <= 1e-5 * plain[site].abs().max(), site
    assert graph[EMBED].is_leaf and graph[EMBED].requires_grad
    assert not any(p.requires_grad for p in lm.module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_replaces_the_embedding_is_what_the_model_reads(family):
    lm = tiny(family)
    other = TOKENS.flip(1)
    there = lm.read(other, [EMBED, LAST])
    given = there[EMBED].clone().requires_grad_()
    found = lm.read(TOKENS, [EMBED, LAST], replace={EMBED: lambda _: given}, grad=True)
    assert (found[LAST] - there[LAST]).abs().max() <= 1e-5 * there[LAST].abs().max()
    assert torch.autograd.grad(found[LAST].sum(), given)[0].abs().max() > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.module.modules())


def test_weights_that_are_thawed_get_their_gradients():
    module = new_module(
        "llama",
        {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "vocab_size": 30,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
    )
    freeze_linears(module)
    module(input_ids=TOKENS % 30).logits.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_shuffled_weights_keep_their_entries_and_leave_the_model_alone():
    lm = tiny()
    before = lm.logits(TOKENS)
    other = lm.shuffled(0)
    assert torch.equal(lm.logits(TOKENS), before)
    assert not torch.allclose(other.logits(TOKENS), before)
    assert torch.equal(other.logits(TOKENS), lm.shuffled(0).logits(TOKENS))
    for name, weight in lm.module.named_parameters():
        mixed = dict(other.module.named_parameters())[name]
        assert torch.equal(weight.flatten().sort().values, mixed.flatten().sort().values)
        assert torch.equal(weight, mixed) == (weight.ndim == 1)
