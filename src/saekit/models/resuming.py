"""Passes that begin after a block, where the stream there is given whole."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saekit.models import structure
from saekit.models.base import LanguageModel, Replace, Whole
from saekit.models.sites import Site

Form = Callable[[Tensor], Any]  # what a block gives, of the stream alone
_FORMS: tuple[Form, ...] = (lambda x: x, lambda x: (x,))
_N_TOKENS = 5
# How far passes that should agree may be apart, as a share of the spread of what they give.
_APART = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def blocks_before(site: Site) -> int:
    """Return how many blocks need not run where the stream at a site is given; 0 if all must."""
    if site.layer is None or site.head is not None:
        return 0
    return {"resid_pre": site.layer, "resid_post": site.layer + 1}.get(site.point, 0)


def given(replace: Mapping[Site, Replace] | None) -> Site | None:
    """Return the last site whose stream is given whole, if nothing before it is replaced too."""
    whole = [s for s, r in (replace or {}).items() if isinstance(r, Whole) and blocks_before(s)]
    if not whole:
        return None
    site = max(whole, key=blocks_before)
    before = [s for s in replace or {} if s.layer is None or s.layer < blocks_before(site)]
    return site if before == [site] or not before else None


@contextlib.contextmanager
def standing_in(blocks: Sequence[nn.Module], form: Form) -> Iterator[None]:
    """Let blocks pass the stream on as it is, without computing anything."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return form(structure.taken(args, kwargs))

    own = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block, mine in zip(blocks, own, strict=True):
            del block.forward
            if mine is not None:
                block.forward = mine


@torch.no_grad()
def form_of(
    lm: LanguageModel, site: Site, shorter: Callable[[Tensor, dict[Site, Replace], Form], Tensor]
) -> Form | None:
    """Return how the blocks before a site can be stood in for, or None if they cannot, as tried.

    Two rows of unlike tokens are given the same stream. They must agree afterwards, or what
    follows depends on more than the stream; and the pass without the blocks must give the same.

    Args:
        lm: the language model.
        site: where the stream is given.
        shorter: runs the pass with stand-ins: tokens, replacements and the form of a block.
    """
    tokens = (torch.arange(2 * _N_TOKENS) * 7919 % lm.vocab_size).view(2, _N_TOKENS)
    acts = lm.read(tokens, site)[:1].expand(2, -1, -1)
    # Not a `Whole`, which would begin after the blocks.
    full = lm.final(tokens, {site: lambda _: acts}).float()
    most = _APART.get(lm.dtype, 1e-4) * float(full.std())
    if not float((full[0] - full[1]).abs().max()) <= most:
        return None
    for form in _FORMS:
        try:
            found = shorter(tokens, {site: Whole(acts)}, form).float()
        except Exception:  # whatever blocks raise that get another thing than they gave
            continue
        if float((found - full).abs().max()) <= most:
            return form
    return None
