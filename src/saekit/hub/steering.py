"""Steering: what a language model writes with one latent moved, and what it writes alone."""

import dataclasses
from pathlib import Path

import torch

from saekit.activations.latents import LatentStore
from saekit.core.errors import ConfigError
from saekit.hub.splicing import splice
from saekit.hub.trained import TrainedSAE, weights_digest
from saekit.models.base import LanguageModel

SHOWN_TOKENS = 8  # whose chance of coming next rose or fell most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steering:
    """A text continued twice from the same draws: by the model alone, and with a latent moved.

    Args:
        latent: which.
        add: what was added to its activation at every token, act units.
        prompt: the text that was continued.
        plain: what the model wrote alone.
        steered: what it wrote with the latent moved.
        promoted: tokens whose chance of coming next rose most, with the change in nats.
        suppressed: tokens whose chance fell most.
    """

    latent: int
    add: float
    prompt: str
    plain: str
    steered: str
    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]

    def __str__(self) -> str:
        def listed(tokens: list[tuple[str, float]]) -> str:
            return ", ".join(f"{token!r} {change:+.1f}" for token, change in tokens)

        return (
            f"latent {self.latent}, {self.add:+.4g} at every token\n"
            f"  alone    {self.prompt}{self.plain}\n"
            f"  steered  {self.prompt}{self.steered}\n"
            f"  next token, log-probability up:   {listed(self.promoted)}\n"
            f"  next token, log-probability down: {listed(self.suppressed)}"
        )

    __repr__ = __str__


@torch.no_grad()
def steer(  # noqa: PLR0913 - what is steered, how far, and how the text is drawn
    lm: LanguageModel,
    sae: TrainedSAE,
    latent: int,
    *,
    prompt: str,
    scale: float | None = None,
    add: float | None = None,
    n: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    index: Path | str | None = None,
) -> Steering:
    """Continue a text with one latent moved at every token, prompt and answer alike.

    Args:
        lm: the language model.
        sae: whose latent it is.
        latent: its number.
        prompt: the text to continue.
        scale: how far, in multiples of the latent's largest activation in the index of the SAE.
        add: how far, in act units of its code; give this or `scale`.
        n: tokens to write.
        temperature: 0 takes the likeliest token.
        seed: decides every draw.
        index: the folder that `saekit index` made, for `scale`; None: ``index`` in the SAE's run.

    Raises:
        ConfigError: neither or both of `scale` and `add` were given, there is no index to look
            the largest activation up in, or the latent is never on there.
        UnknownNameError: there is no such latent.
    """
    if not isinstance(prompt, str):
        raise ConfigError(f"`prompt` is one text; got {type(prompt).__name__}. Call it for each.")
    if (scale is None) == (add is None):
        raise ConfigError("Say how far to steer: scale= (times its largest activation) or add=.")
    with splice(lm, sae) as spliced:
        latent = spliced.parts[0].number_of(latent)
        moved = float(add) if add is not None else scale * _largest(sae, latent, index)  # type: ignore[operator]
        how = {"temperature": temperature, "seed": seed}
        plain = lm.generate(prompt, n, **how)
        before = lm.logits(prompt)[0, -1].float().log_softmax(-1)
        spliced.edit(latent, add=moved)
        steered = lm.generate(prompt, n, **how)
        change = lm.logits(prompt)[0, -1].float().log_softmax(-1) - before
    ends = [change.topk(SHOWN_TOKENS, largest=largest) for largest in (True, False)]
    promoted, suppressed = (
        list(zip(lm.tokenizer.pieces(i.tolist()), v.tolist(), strict=True)) for v, i in ends
    )
    return Steering(
        latent=latent, add=moved, prompt=prompt, plain=plain, steered=steered,
        promoted=promoted, suppressed=suppressed,
    )  # fmt: skip


def _check_own(store: LatentStore, sae: TrainedSAE, folder: Path) -> None:
    """Refuse an index that was made of another SAE, or at another of its sites.

    Raises:
        ConfigError: it was.
    """
    site = sae.card.pair.label if sae.cfg.event else str(sae.site)
    made = store.meta.get("site")
    weights = store.meta.get("weights")  # not in indexes of earlier versions
    if store.d_sae != sae.d_sae or made not in (None, site) or (
        weights is not None and weights != weights_digest(sae.sae)
    ):  # fmt: skip
        raise ConfigError(
            f"The index in {folder} is of another SAE, {store.d_sae:,} latents at {made}; this one "
            f"has {sae.d_sae:,} at {site}. Make one with saekit.index(sae, lm), or give add=."
        )


def _largest(sae: TrainedSAE, latent: int, index: Path | str | None) -> float:
    """Return the activation of largest size that an index holds of a latent."""
    folder = Path(index) if index is not None else sae.folder and sae.folder / "index"
    if folder is None or not folder.is_dir():
        raise ConfigError(
            f"`scale` is in multiples of the latent's largest activation, which an index knows; "
            f"there is none{f' at {folder}' if folder else ''}. Make one: saekit.index(sae, lm), "
            f"name it with index=, or give add= in act units."
        )
    store = LatentStore.open(folder)
    _check_own(store, sae, folder)
    found = float(store.maxima[latent])
    if not found:
        raise ConfigError(
            f"Latent {latent} is never on in {folder}, so `scale` says nothing. Give add=."
        )
    return found
