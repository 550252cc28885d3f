"""The same weights and inputs in saekit and in a peer, and the comparison of what both make.

saekit's weights are written as differentiable functions of the peer's own parameters. Every
gradient below is therefore taken with respect to those parameters, on both sides, and the
chain rule of the mapping (b_dec subtracted from the input, decoder norms folded into
activations) is autograd's affair and not a formula of these tests.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from saekit.kernels.sparse import latent_major
from saekit.saes.base import Step

TOLERANCE = 1e-5  # relative, and of the largest entry where one is near 0
SEEDS = (0, 1, 2)
D, D_SAE, N = 24, 256, 128


def peer(name):
    """Return a module of a peer, or skip the test where the peer is not installed.

    What a peer warns of when it is imported is its own affair.
    """
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name.partition('.')[0]} is not installed")
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _hide_a_broken_torchvision()
        return importlib.import_module(name)


def _hide_a_broken_torchvision():
    """Make an unusable torchvision look absent.

    nnsight asks for torchvision and gets one built for CUDA beside a torch for CPUs; no peer
    uses it, but transformers imports it wherever it finds it.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for part in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[part]
        sys.modules["torchvision"] = None


class World(NamedTuple):
    """Inputs, and weights as a trained SAE has them, of which some latents are dead."""

    x: Tensor  # [N, D]
    W_enc: Tensor  # [D, D_SAE]
    b_enc: Tensor
    W_dec: Tensor  # [D_SAE, D]
    b_dec: Tensor
    dead: Tensor  # [D_SAE], bool

    def double(self):
        """Return the same world in float64."""
        return World(*(t.double() if t.is_floating_point() else t for t in self))


def world(seed, *, unit=True, n_dead=80, dead_bias=0.0, n=N):
    """Draw a world.

    Args:
        seed: decides everything.
        unit: decoder rows of length 1; else of 0.5 to 1.5.
        n_dead: latents whose encoder is too weak to compete.
        dead_bias: their bias; 0 gives pre-activations of either sign.
        n: tokens.
    """
    g = torch.Generator().manual_seed(seed)
    W_dec = nn.functional.normalize(torch.randn(D_SAE, D, generator=g), dim=-1)
    W_enc = W_dec.t() + 0.1 * torch.randn(D, D_SAE, generator=g)
    if not unit:
        W_dec = W_dec * (0.5 + torch.rand(D_SAE, 1, generator=g))
    b_dec = 0.5 * torch.randn(D, generator=g)
    b_enc = 0.1 * torch.randn(D_SAE, generator=g)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[torch.randperm(D_SAE, generator=g)[:n_dead]] = True
    W_enc[:, dead] *= 0.1
    b_enc[dead] = dead_bias
    on = torch.rand(n, D_SAE, generator=g) < 0.03
    strength = 1 + torch.randn(n, D_SAE, generator=g).abs()
    x = b_dec + (on * strength) @ W_dec + 0.2 * torch.randn(n, D, generator=g)
    return World(x, W_enc, b_enc, W_dec, b_dec, dead)


def fill(tensors):
    """Copy values into parameters, given as pairs."""
    with torch.no_grad():
        for place, value in tensors:
            place.copy_(value)


def affine(W_enc, b_enc, W_dec, b_dec, *, centred, by_norm=False):
    """Return saekit's weights as functions of a peer's.

    Args:
        W_enc: [d_in, d_sae].
        b_enc: of the peer.
        W_dec: [d_sae, d_out].
        b_dec: of the peer.
        centred: the peer subtracts b_dec from its input; saekit keeps that in b_enc.
        by_norm: the peer multiplies pre-activations by decoder norms and divides them out
            again when it decodes; saekit has unit rows instead.
    """
    b_enc = b_enc - b_dec @ W_enc if centred else b_enc
    if by_norm:
        norm = W_dec.norm(dim=-1)
        W_enc, b_enc, W_dec = W_enc * norm, b_enc * norm, W_dec / norm[:, None]
    return {"W_enc": latent_major(W_enc), "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}


class _LossOf(nn.Module):
    def __init__(self, sae):
        super().__init__()
        self.sae = sae

    def forward(self, x, y, step):
        return self.sae.loss(x, y, step)


def our_loss(cfg, weights, x, y=None, *, dead=None):
    """Return saekit's loss with given weights, differentiable in whatever made them.

    The loss is that of the end of training, when every warm-up and annealing is over.
    """
    sae = cfg.build(torch.Generator().manual_seed(0))
    dead = torch.zeros(cfg.d_sae, dtype=torch.bool) if dead is None else dead
    given = {f"sae.{name}": value for name, value in weights.items()}
    both = (x, x if y is None else y, Step(1000, 1.0, dead))
    return torch.func.functional_call(_LossOf(sae), given, both, strict=False)


def our_sae(cfg, weights, **buffers):
    """Return saekit's SAE with given weights."""
    sae = cfg.build(torch.Generator().manual_seed(0))
    state = {k: v.detach() for k, v in weights.items()} | buffers
    missing = sae.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    return sae


def assert_close(found, wanted, what="", tolerance=TOLERANCE):
    """Assert equality to a share of each entry, and of the largest."""
    atol = tolerance * float(wanted.detach().abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(
        found.detach(),
        wanted.detach(),
        rtol=tolerance,
        atol=atol,
        check_dtype=False,
        msg=lambda text: f"{what}: {text}",
    )


def grads(value, params):
    """Return the gradient for each named parameter; 0 where nothing reaches it."""
    if not value.requires_grad:
        return {name: torch.zeros_like(p) for name, p in params.items()}
    found = torch.autograd.grad(value, list(params.values()), retain_graph=True, allow_unused=True)
    pairs = zip(params.items(), found, strict=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in pairs}


def assert_same_term(ours, theirs, params, *, but=(), what="", tolerance=TOLERANCE):
    """Assert that two numbers are equal, and their gradients for each parameter.

    Args:
        ours: saekit's, already multiplied by the stated constant.
        theirs: the peer's.
        params: the peer's parameters by name.
        but: names whose gradient is compared by the caller.
        what: shown when it fails.
        tolerance: of both.
    """
    assert_close(ours, theirs, f"{what} value", tolerance)
    mine, wanted = grads(ours, params), grads(theirs, params)
    assert any(g.abs().max() > 0 for g in wanted.values()), f"{what}: no gradient to compare"
    for name in params:
        if name not in but:
            assert_close(mine[name], wanted[name], f"{what} d/d{name}", tolerance)


def tangent(grad, rows):
    """Return a gradient without its part along unit rows, which both sides drop."""
    return grad - (grad * rows).sum(-1, keepdim=True) * rows
