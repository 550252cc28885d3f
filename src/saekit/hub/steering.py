"""Steering: what a language model writes with one latent moved, by how far it is moved."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saekit.core.errors import ConfigError, FormatError
from saekit.data.parquet import ParquetFile
from saekit.hub.index_manifest import INSIDE, LATENTS, checked_file, read_manifest, sites_in
from saekit.hub.splicing import Splice, check_order, splice
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.base import LanguageModel

SHOWN_TOKENS = 8  # whose chance of coming next rose or fell most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dose:
    """What one strength does.

    Args:
        add: what is added to the latent's activation at every token, act units.
        texts: what the model writes after the prompt, one a seed.
        loss: mean loss of what it writes under the model alone, nats/token: how strange its text
            is. None: it wrote nothing.
        act: the latent's mean activation on that text, read by the model alone, act units.
        kl: how far the next token's distribution after the prompt moves, KL(alone || moved), nats.
        promoted: tokens whose chance of coming next rose most, with the change in nats.
        suppressed: tokens whose chance fell most.
    """

    add: float
    texts: list[str]
    loss: float | None
    act: float | None
    kl: float
    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steering:
    """A text continued from the same draws at several strengths of one latent. `print` shows it.

    Args:
        latent: which.
        prompt: the text that was continued.
        alone: the model without any change, in the same words as a dose of 0.
        doses: one a strength, in the order asked for.
    """

    latent: int
    prompt: str
    alone: Dose
    doses: list[Dose]

    def __str__(self) -> str:
        lines = [
            f"latent {self.latent}, after {self.prompt!r}",
            f"{'added':>9}  {'KL next':>8}  {'loss':>6}  {'act':>7}  text",
        ]
        for dose in (self.alone, *self.doses):
            numbers = (f"{dose.kl:8.3f}", _cell(dose.loss, 6), _cell(dose.act, 7))
            lines += [
                f"{dose.add:+9.4g}  {'  '.join(numbers)}  {text!r}"
                if i == 0
                else f"{'':9}  {'':8}  {'':6}  {'':7}  {text!r}"
                for i, text in enumerate(dose.texts)
            ]
        for dose in self.doses:
            lines.append(f"next token, log-probability at {dose.add:+.4g}:")
            lines.append(f"  up    {_listed(dose.promoted)}")
            lines.append(f"  down  {_listed(dose.suppressed)}")
        return "\n".join(lines)

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return dataclasses.asdict(self)


def _cell(value: float | None, width: int) -> str:
    return f"{'' if value is None else f'{value:.2f}':>{width}}"


def _listed(tokens: list[tuple[str, float]]) -> str:
    return ", ".join(f"{token!r} {change:+.1f}" for token, change in tokens)


@torch.no_grad()
def steer(  # noqa: PLR0913 - what is steered, how far, and how the text is drawn
    lm: LanguageModel,
    sae: TrainedSAE,
    latent: int,
    *,
    prompt: str,
    scale: float | Iterable[float] | None = None,
    add: float | Iterable[float] | None = None,
    n: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    seeds: int = 1,
    index: Path | str | None = None,
) -> Steering:
    """Continue a text with one latent moved at every token, prompt and answer alike.

    Args:
        lm: the language model.
        sae: whose latent it is.
        latent: its number.
        prompt: the text to continue.
        scale: how far, in multiples of the latent's largest activation in the index of the SAE;
            several for a dose-response.
        add: how far, in act units of its code; one or several. Give this or `scale`.
        n: tokens to write.
        temperature: 0 takes the likeliest token.
        seed: decides every draw; texts of one seed draw alike at every strength.
        seeds: texts at each strength, from `seed` on; more than one needs a temperature above 0.
        index: the folder that `saekit index` made, for `scale`; None: ``index`` in the SAE's run.

    Raises:
        ConfigError: neither or both of `scale` and `add` were given, there is no index to look
            the largest activation up in, the latent is never on there, or several texts were asked
            for that would all be the same.
        UnknownNameError: there is no such latent.
    """
    check_order(lm, sae)
    if not isinstance(prompt, str):
        raise ConfigError(f"`prompt` is one text; got {type(prompt).__name__}. Call it for each.")
    if (scale is None) == (add is None):
        which = "got neither" if add is None else "got both"
        raise ConfigError(
            f"Say how far to steer, by `scale` (times its largest activation) or `add` (act "
            f"units); {which}. On a command line: --scale 2 or --add 8."
        )
    if seeds < 1 or (seeds > 1 and not temperature):
        why = "of several, all would be the same at temperature 0; raise `temperature`"
        raise ConfigError(
            f"`seeds` is the number of texts at each strength, at least 1"
            f"{f' ({why})' if seeds > 1 else ''}; got {seeds}."
        )
    with splice(lm, sae) as spliced:
        latent = spliced.parts[0].number_of(latent)
        strengths = _strengths(scale if add is None else add)
        unit = 1.0 if add is not None else _largest(sae, latent, index)
        bench = _Bench(lm, spliced, latent, prompt, n, temperature, range(seed, seed + seeds))
        alone = bench.dose(0.0)
        doses = [bench.dose(unit * strength) for strength in strengths]
    return Steering(latent=latent, prompt=prompt, alone=alone, doses=doses)


def _strengths(asked: Any) -> list[float]:
    """Return strengths from a number, or from several in a list, an array or a tensor.

    Raises:
        ConfigError: there is none, or one is no finite number.
    """
    several = [asked] if isinstance(asked, int | float | str) else list(asked)
    if not several:
        raise ConfigError("No strength was given. Name one or several: scale=[1, 2, 4].")
    for one in several:
        if isinstance(one, str | bytes | bool) or not math.isfinite(float(one)):
            raise ConfigError(f"A strength is a finite number; got {one!r}.")
    return [float(one) for one in several]


class _Bench:
    """One prompt and latent, at any strength."""

    def __init__(  # noqa: PLR0913 - the words of `steer`
        self,
        lm: LanguageModel,
        spliced: Splice,
        latent: int,
        prompt: str,
        n: int,
        temperature: float,
        seeds: range,
    ):
        self.lm, self.spliced, self.latent, self.n = lm, spliced, latent, n
        self.temperature, self.seeds = temperature, seeds
        bos = spliced.parts[0].sae.card.bos_id(lm.tokenizer) is not None
        self.prompt = lm.tokens(prompt, bos=bos)
        self.before = self._next()

    def _next(self) -> Tensor:
        """Return log-probabilities of the token after the prompt, ``[vocab]``."""
        return self.lm.logits(self.prompt)[0, -1].float().log_softmax(-1)

    def dose(self, add: float) -> Dose:
        """Return what adding `add` to the latent does; 0 is the model alone."""
        self.spliced.clear()
        if add:
            self.spliced.edit(self.latent, add=add)
        after = self._next()
        ids = [
            self.lm.continue_tokens(
                self.prompt.tolist(), self.n, temperature=self.temperature, seed=seed
            )[0]
            for seed in self.seeds
        ]
        self.spliced.clear()
        change = after - self.before
        ends = [change.topk(SHOWN_TOKENS, largest=largest) for largest in (True, False)]
        promoted, suppressed = (
            list(zip(self.lm.tokenizer.pieces(i.tolist()), v.tolist(), strict=True))
            for v, i in ends
        )
        read = [self._read(new) for new in ids if new]
        losses, acts = zip(*read, strict=True) if read else ((), ())
        return Dose(
            add=add,
            texts=[self.lm.tokenizer.decode(new) for new in ids],
            loss=sum(losses) / len(losses) if losses else None,
            act=sum(acts) / len(acts) if acts else None,
            kl=float((self.before.exp() * -change).sum()),
            promoted=promoted,
            suppressed=suppressed,
        )

    def _read(self, new: list[int]) -> tuple[float, float]:
        """Return loss and the latent's mean activation of what was written, by the model alone."""
        row = torch.cat([self.prompt, torch.tensor([new])], 1)
        start = self.prompt.shape[1]
        logits = self.lm.logits(row)[0, start - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(new, device=logits.device))
        latent = torch.tensor([self.latent], device=self.spliced.codes.latents.device)
        return float(loss), float(self.spliced.codes.columns(latent)[0, start:].mean())


def _check_own(manifest: dict[str, Any], sae: TrainedSAE, folder: Path) -> None:
    """Refuse an index that was made of another SAE, or at another of its sites.

    Raises:
        ConfigError: it was.
    """
    site = sae.card.pair.label if sae.cfg.event else str(sae.site)
    d_sae, made = manifest["d_sae"], manifest["site"]
    if d_sae != sae.d_sae or made != site or manifest["weights"] != weights_digest(sae.sae):
        raise ConfigError(
            f"The index in {folder} is of another SAE, {d_sae:,} latents at {made}; this one "
            f"has {sae.d_sae:,} at {site}. Make one with saekit.index(sae, lm), or give add=."
        )


def _index_of(sae: TrainedSAE, index: Path | str | None) -> Path | None:
    """Return the folder of an SAE's index: that of its site where there is one for each."""
    folder = Path(index) if index is not None else sae.folder and sae.folder / INSIDE
    if folder is not None and str(sae.site) in sites_in(folder):
        return folder / str(sae.site)
    return folder


def _largest(sae: TrainedSAE, latent: int, index: Path | str | None) -> float:
    """Return the activation of largest size that an index holds of a latent."""
    folder = _index_of(sae, index)
    if folder is None or not folder.is_dir():
        raise ConfigError(
            f"`scale` is in multiples of the latent's largest activation, which an index knows; "
            f"there is none{f' at {folder}' if folder else ''}. Make one: saekit.index(sae, lm), "
            f"name it with index=, or give add= in act units."
        )
    manifest = read_manifest(folder)
    _check_own(manifest, sae, folder)
    maxima = ParquetFile(checked_file(folder, manifest, LATENTS)).read(["max"])["max"]
    if not isinstance(maxima, np.ndarray) or len(maxima) != sae.d_sae:
        raise FormatError(
            f"{folder / LATENTS} is damaged: it has no column of maxima. Index the SAE again, or "
            f"give add= in act units."
        )
    found = float(maxima[latent])
    if math.isnan(found):
        raise ConfigError(
            f"Latent {latent} is never on in {folder}, so `scale` says nothing. Give add=."
        )
    return found
