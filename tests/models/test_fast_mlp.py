"""MLPs in blocks and batches that hold rows several times give the gradients of the plain ones."""

import pytest
import torch

from saekit.models.fast_gradients import mlp as frozen_mlp
from saekit.models.fast_gradients.linear import Products, Reuse, reusing
from saekit.models.sites import EMBED, Site
from saekit.models.tiny import tiny
from tests.world import FAMILIES

LAST = Site(1, "resid_post")
TOKENS = torch.randint(0, 256, (2, 11), generator=torch.Generator().manual_seed(0))


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(lm, seeds, reuse=None):
    """Return the gradient of each seed, ``[windows, copies, n_ctx, d]``: all in one pass, or each
    in one of its own."""
    if reuse is None:
        found = lm.read(TOKENS, [EMBED, LAST], grad=True)
        each = [
            torch.autograd.grad(found[LAST], found[EMBED], seed, retain_graph=True)[0]
            for seed in seeds.unbind(1)
        ]
        return torch.stack(each, 1)
    with reusing(reuse):
        found = lm.read(TOKENS.repeat_interleave(reuse.copies, 0), [EMBED, LAST], grad=True)
    gradient = torch.autograd.grad(found[LAST], found[EMBED], seeds.flatten(0, 1))[0]
    return gradient.view(seeds.shape)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", [4, 24, 256])
def test_copies_of_rows_give_what_rows_alone_give(family, block, monkeypatch):
    monkeypatch.setattr(frozen_mlp, "BLOCK_ROWS", block)
    lm = tiny(family)
    dense, sparse = drawn(2, 5, 11, 32), torch.zeros(2, 5, 11, 32)
    sparse[:, :, 7] = drawn(2, 5, 32, seed=1)
    for seeds in (dense, sparse):
        want = gradients(lm, seeds)
        for room in (0, 10**9):
            got = gradients(lm, seeds, Reuse(10, 5, Products(room_bytes=room)))
            assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    assert not got.flatten(0, 1)[0].equal(got.flatten(0, 1)[1])


def test_what_is_made_within_stays_without():
    lm = tiny()
    with reusing(Reuse(10, 5)):
        pass
    found = lm.read(TOKENS.repeat(5, 1), [EMBED, LAST], grad=True)  # not rows of one kind
    plain = lm.read(TOKENS.repeat(5, 1), [LAST])
    assert (found[LAST] - plain[LAST]).abs().max() <= 1e-5 * plain[LAST].abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_mlp_is_known(family):
    lm = tiny(family)
    known = [m for m in lm.module.modules() if "_Parts" in str(m.__dict__.get("forward", ""))]
    assert len(known) == lm.n_layers
    x = drawn(1, 3, 32).requires_grad_()
    assert "_MLP" in type(known[0](x).grad_fn).__name__
    known[0].requires_grad_(True)
    assert "_MLP" not in type(known[0](x).grad_fn).__name__


@pytest.mark.parametrize("room", [0, 10**9])
def test_products_in_bfloat16_are_near_and_are_not_the_same(room):
    lm, seeds = tiny(), drawn(2, 5, 11, 32)
    want = gradients(lm, seeds)
    got = gradients(lm, seeds, Reuse(10, 5, Products("bfloat16", room)))
    off = (got - want).norm() / want.norm()
    assert got.dtype == torch.float32 and 1e-4 < off < 1e-2


def test_weights_are_packed_once_and_within_their_room(monkeypatch):
    products = Products("bfloat16", room_bytes=2 * 6 * 4)
    x, one, other = drawn(3, 6), drawn(6, 4, seed=1), drawn(6, 4, seed=2)
    for weight in (one, other, one):
        want = x.bfloat16().float() @ weight.bfloat16().float()
        assert torch.allclose(products(x, weight, False).float(), want, rtol=1e-2, atol=1e-2)
    assert len(products.packed) == 1 and products.room_bytes == 0
