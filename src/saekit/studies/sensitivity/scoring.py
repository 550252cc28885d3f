"""Scoring: the largest activation of some latents on each of many texts."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.core.progress import Progress
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel

MOST_TOKENS = 128  # of a text, BOS included
PASS_TOKENS = 4096


def largest_acts(
    sae: TrainedSAE,
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    latents: Sequence[int],
    *,
    shown: bool = False,
) -> Float[Tensor, "texts latents"]:
    """Return the largest activation of each latent on each text, act units, float32.

    Each text is read by itself, with BOS in front if the SAE's training rows had it, cut at
    `MOST_TOKENS`. Tokens that the SAE's rule leaves out, as BOS, do not count; a text without any
    other has 0. Passes stop at the SAE's site, and texts of one length go together, so that nothing
    is padded.

    Args:
        sae: the SAE.
        lm: its language model.
        texts: token ids of each, without BOS.
        latents: numbers.
        shown: show progress on stderr.

    Raises:
        ConfigError: the SAE codes several sites or windows jointly.
    """
    _refuse_joint(sae)
    out = torch.zeros(len(texts), len(latents))
    for part, found, _ in _passes(sae, lm, texts, latents, shown):
        out[part] = found.amax(1).clamp(min=0).cpu()
    return out


def token_acts(
    sae: TrainedSAE,
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    latents: Sequence[int],
    *,
    shown: bool = False,
) -> list[Float[Tensor, "_tokens"]]:
    """Return the activations of one latent on every token of each text, act units, float32.

    Texts are read as by `largest_acts`; tokens that the rule leaves out, and those beyond
    `MOST_TOKENS`, have 0.

    Args:
        sae: the SAE.
        lm: its language model.
        texts: token ids of each, without BOS.
        latents: the latent of each text.
        shown: show progress on stderr.

    Raises:
        ConfigError: the SAE codes several sites or windows jointly.
    """
    _refuse_joint(sae)
    distinct = sorted(set(latents))
    column = {latent: i for i, latent in enumerate(distinct)}
    out = [torch.zeros(len(text)) for text in texts]
    for part, found, head in _passes(sae, lm, texts, distinct, shown):
        for i, acts in zip(part, found, strict=True):
            own = acts[head:, column[latents[i]]].clamp(min=0).cpu()
            out[i][: len(own)] = own
    return out


def _refuse_joint(sae: TrainedSAE) -> None:
    if sae.cfg.event:
        raise ConfigError(
            f"`{sae.cfg.name}` codes {' and '.join(sae.cfg.event)} jointly; texts are scored by "
            f"SAEs of single tokens."
        )


class _Part(NamedTuple):
    """Texts of one length that were read."""

    places: list[int]
    x: Float[Tensor, "n d_in"]  # activations of all their tokens
    kept: Bool[Tensor, "part length"]


@torch.no_grad()
def _passes(
    sae: TrainedSAE,
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    latents: Sequence[int],
    shown: bool,
) -> Iterator[tuple[list[int], Float[Tensor, "part length latents"], int]]:
    """Yield the places of some texts, the latents' activations on them, and how many BOS lead."""
    bos = sae.card.bos_id(lm.tokenizer)
    head = [] if bos is None else [bos]
    rows = [[*head, *ids][:MOST_TOKENS] for ids in texts]
    if not len(latents):
        return
    wanted = torch.tensor(list(latents), device=sae.device)
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if row:
            by_length.setdefault(len(row), []).append(i)
    site, sites = sae.site, sae.card.sites_of(sae.site)
    bar = Progress("score", len(rows), "texts", shown=shown)
    waiting: list[_Part] = []

    def encoded() -> Iterator[tuple[list[int], Tensor, int]]:
        # Texts of one length are few: several passes are encoded at once.
        every = torch.cat([part.x for part in waiting])
        acts = sae.encode(every).columns(wanted)
        each = acts.split([len(part.x) for part in waiting])
        for part, own in zip(waiting, each, strict=True):
            found = own.view(*part.kept.shape, len(latents))
            yield (
                part.places,
                found.masked_fill(~part.kept.to(found.device)[..., None], 0.0),
                len(head),
            )
            bar.add(len(part.places))
        waiting.clear()

    for length, places in sorted(by_length.items()):
        step = max(1, PASS_TOKENS // length)
        for first in range(0, len(places), step):
            part = places[first : first + step]
            tokens = torch.tensor([rows[i] for i in part])
            acts = lm.read(tokens, sites)
            kept = sae.card.keep(site, tokens.to(acts[site].device), acts)
            waiting.append(_Part(part, acts[site].flatten(0, 1), kept))
            if sum(len(one.x) for one in waiting) >= PASS_TOKENS:
                yield from encoded()
    if waiting:
        yield from encoded()
    bar.close()
