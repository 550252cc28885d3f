"""Shared: one forward pass for everybody who reads the same rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.models.base import LanguageModel, Replace
from saekit.models.generation import Sampling
from saekit.models.sites import Site

FIRST_BYTES = 2**28  # of activations of the first passes that are kept for who begins anew


class SharedPasses(LanguageModel):
    """A language model that remembers the passes it just made, for several readers in step.

    A read is one pass over all `sites`, whichever of them are asked for: activations are the
    same bits, and who asks for the same rows next gets them without a pass. The first passes
    are kept, up to 256 MB: rules and scalings are fitted on the first rows, and training then
    begins with them. A reader that is too far from the others makes a pass of its own.

    Args:
        model: the language model.
        sites: all that will be read.
        recent: passes remembered beside the first ones.
    """

    def __init__(self, model: LanguageModel, sites: Sequence[Site], recent: int = 4):
        self.model, self._sites, self._recent_passes = model, list(sites), recent
        for name in LanguageModel.__annotations__:
            setattr(self, name, getattr(model, name))
        self._first: list[tuple[Tensor, dict[Site, Tensor]]] = []
        self._recent: list[tuple[Tensor, dict[Site, Tensor]]] = []
        self._room = FIRST_BYTES
        self.passes = 0  # forward passes made

    @override
    def sites(self) -> list[Site]:
        return self.model.sites()

    @override
    def model_at(self, site: Site) -> LanguageModel:
        return self.model.model_at(site)

    @override
    def check_site(self, site: Site) -> Site:
        return self.model.check_site(site)

    @override
    def width(self, site: Site) -> int:
        return self.model.width(site)

    @override
    def _read(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        sites: Sequence[Site],
        *,
        replace: Mapping[Site, Replace] | None = None,
        grad: bool = False,
    ) -> dict[Site, Float[Tensor, "batch n_ctx width"]]:
        if grad or replace or not set(sites) <= set(self._sites):
            return self.model.read(tokens, sites, replace=replace, grad=grad)
        for known, acts in (*self._recent, *self._first):
            if torch.equal(known, tokens):
                return {site: acts[site] for site in sites}
        self.passes += 1
        acts = self.model.read(tokens, self._sites)
        self._remember(tokens, acts)
        return {site: acts[site] for site in sites}

    def _remember(self, tokens: Tensor, acts: dict[Site, Tensor]) -> None:
        size = sum(a.nbytes for a in acts.values())
        if size <= self._room:
            self._first.append((tokens, acts))
            self._room -= size
        else:
            self._room = 0  # the first passes are those in a row from the beginning
            self._recent = [*self._recent, (tokens, acts)][-self._recent_passes :]

    @override
    def separated(self) -> LanguageModel:
        return SharedPasses(self.model.separated(), self._sites, self._recent_passes)

    @override
    def shuffled(self, seed: int) -> LanguageModel:
        return SharedPasses(self.model.shuffled(seed), self._sites, self._recent_passes)

    @override
    def _logits(
        self,
        tokens: Int[Tensor, "batch n_ctx"],
        replace: Mapping[Site, Replace] | None = None,
        *,
        grad: bool = False,
    ) -> Float[Tensor, "batch n_ctx vocab"]:
        return self.model.logits(tokens, replace, grad=grad)

    @override
    def final(
        self, tokens: Int[Tensor, "batch n_ctx"], replace: Mapping[Site, Replace] | None = None
    ) -> Float[Tensor, "batch n_ctx d_model"]:
        return self.model.final(tokens, replace)

    @override
    def unembed(self, final: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        return self.model.unembed(final)

    @override
    def stream_decides(self, site: Site) -> bool:
        return self.model.stream_decides(site)

    @override
    def attention_bytes(self, n_ctx: int) -> int:
        return self.model.attention_bytes(n_ctx)

    @override
    def continue_tokens(
        self, prompts: Sequence[Sequence[int]], n: int, **how: Any
    ) -> list[list[int]]:
        return self.model.continue_tokens(prompts, n, **how)

    @override
    def sequences(
        self, prompts: Iterable[tuple[int, Sequence[int]]], n: int, sampling: Sampling, **how: Any
    ) -> Iterator[tuple[int, list[int]]]:
        return self.model.sequences(prompts, n, sampling, **how)

    @override
    def logit_effects(self, directions: Float[Tensor, "m d_model"]) -> Float[Tensor, "m vocab"]:
        return self.model.logit_effects(directions)

    @override
    def unembedding(self) -> Float[Tensor, "vocab d_model"]:
        return self.model.unembedding()

    @override
    def provenance(self) -> dict[str, Any]:
        return self.model.provenance()
