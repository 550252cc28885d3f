"""Rows of text whose activations were read once are not read again, within bounds.

Evaluations of a suite read the same first rows, labelled texts and noise at the same sites, and an
index the rows that its SAE was trained on. What the model gives for a row is kept, and is given to
whoever reads that row next. A row that is read again in another batch may differ by the rounding of
a batch.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saekit.core import machine
from saekit.models.base import LanguageModel, Look, Replace
from saekit.models.sites import Site

MOST_BYTES, SHARE = 2**30, 4  # kept at most, and not more than one part in so many of what is free


class Memo:
    """Activations of rows, by site.

    Args:
        most_bytes: what is kept, at most; None: 1 GiB, or a quarter of the free memory where that
            is less.
    """

    def __init__(self, most_bytes: int | None = None):
        if most_bytes is None:
            free = machine.free_memory("cpu")
            most_bytes = MOST_BYTES if free is None else min(MOST_BYTES, free // SHARE)
        self._left = most_bytes
        self._of: dict[bytes, dict[Site, Tensor]] = {}
        self.n_read = self.n_known = 0  # rows that the model read, and that it did not have to

    def model(self, lm: LanguageModel) -> LanguageModel:
        """Return a model, with the same weights, that looks here before it reads."""
        found = copy.copy(lm)

        def read(
            tokens: Tensor,
            sites: Sequence[Site],
            *,
            replace: Mapping[Site, Replace] | None = None,
            grad: bool = False,
        ) -> dict[Site, Tensor]:
            if replace or grad or found.edits or not len(tokens):
                # Of the copy itself, whose splices are its own.
                return type(lm)._read(found, tokens, sites, replace=replace, grad=grad)
            return self._read(lm, tokens, list(dict.fromkeys(sites)))

        def final(tokens: Tensor, replace: Mapping[Site, Replace] | None = None) -> Tensor:
            out = type(lm).final(found, tokens, replace)
            looks = {s: r for s, r in (replace or {}).items() if isinstance(r, Look)}
            if not found.edits and looks and len(looks) == len(replace or {}):
                self._keep(tokens, {s: r.acts for s, r in looks.items() if r.acts is not None})
            return out

        # What makes another model of it makes it of the one that is not watched.
        own: dict[str, Any] = {"separated": lm.separated, "shuffled": lm.shuffled}
        vars(found).update(own | {"_read": read, "final": final})
        return found

    def _read(self, lm: LanguageModel, tokens: Tensor, sites: list[Site]) -> dict[Site, Tensor]:
        known = [self._of.get(_key(row), {}) for row in tokens]
        lacking = [i for i, of in enumerate(known) if any(site not in of for site in sites)]
        self.n_read += len(lacking)
        self.n_known += len(tokens) - len(lacking)
        fresh: dict[Site, Tensor] = {}
        if lacking:
            some = tokens if len(lacking) == len(tokens) else tokens[lacking]
            fresh = lm._read(some, sites)
            self._keep(some, fresh)
        if len(lacking) == len(tokens):
            return fresh
        found = {}
        for site in sites:
            like = next(of[site] for of in known if site in of)
            out = like.new_empty((len(tokens), *like.shape), device=lm.device)
            if lacking:
                out[lacking] = fresh[site]
            for i, of in enumerate(known):
                if i not in lacking:
                    out[i] = of[site]
            found[site] = out
        return found

    def _keep(self, tokens: Tensor, acts: Mapping[Site, Tensor]) -> None:
        for i, row in enumerate(tokens):
            key = _key(row)
            for site, values in acts.items():
                size = values[i].numel() * values.element_size()
                if site not in self._of.get(key, {}) and size <= self._left:
                    # A copy: the batch that it is a part of is not held by it.
                    self._of.setdefault(key, {})[site] = values[i].detach().to("cpu", copy=True)
                    self._left -= size


def _key(row: Tensor) -> bytes:
    return row.detach().to("cpu", torch.int64).contiguous().numpy().tobytes()
