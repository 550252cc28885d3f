"""What the weights alone say of an SAE, before any text is read."""

import torch
from torch import Tensor

from saekit.evals.verify.verdict import Line
from saekit.evals.verify.ways import turned_encoders
from saekit.saes.base import SAE
from saekit.saes.jumprelu import JumpReLU

LOOKED_AT = 4096  # latents, spread over all
ALIGNED = 0.1  # mean cosine of a latent's encoder and decoder below which they look unrelated


def look(sae: SAE, *, transcodes: bool) -> list[Line]:
    """Return what the weights say: encoder against decoder, thresholds, biases."""
    found = []
    if not transcodes and (alignment := aligned(sae)) is not None:
        found.append(_alignment(sae, alignment))
    if isinstance(sae.cfg, JumpReLU):
        found.append(_thresholds(sae))
    return [line for line in found if line is not None]


def aligned(sae: SAE) -> float | None:
    """Return the mean cosine of latents' encoder columns and decoder rows; None: they have none.

    Training brings them near each other; of unrelated directions it is about 0.
    """
    encoder, decoder = getattr(sae, "W_enc", None), getattr(sae, "W_dec", None)
    if not isinstance(encoder, Tensor) or not isinstance(decoder, Tensor):
        return None
    if encoder.ndim != 2 or decoder.ndim != 2 or encoder.T.shape != decoder.shape:
        return None
    return _cosine(encoder, decoder)


def _cosine(encoder: Tensor, decoder: Tensor) -> float:
    some = slice(None, None, max(1, len(decoder) // LOOKED_AT))
    cosines = torch.cosine_similarity(encoder.T[some].float(), decoder[some].float(), dim=-1)
    return float(cosines.mean())


def _alignment(sae: SAE, alignment: float) -> Line:
    says = f"encoder and decoder of a latent have mean cosine {alignment:.2f}"
    numbers = {"cosine": alignment}
    if alignment >= ALIGNED:
        return Line(name="weights", status="fits", says=says, numbers=numbers)
    encoder, decoder = sae.get_parameter("W_enc"), sae.get_parameter("W_dec")
    how, other = max(
        ((how, _cosine(turned, decoder)) for how, turned in turned_encoders(encoder)),
        key=lambda pair: pair[1],
    )
    if other > max(2 * alignment, ALIGNED):
        return Line(
            name="weights",
            status="wrong",
            says=f"{says}; {other:.2f} if its matrix was {how}",
            fix="the axes of the encoder's matrix are mixed up: turn it before reading",
            numbers=numbers | {"cosine_turned": other},
        )
    return Line(
        name="weights",
        status="doubt",
        says=f"{says}: they look unrelated",
        fix="trained SAEs have 0.2 or more, frozen random ones about 0: see how it was made",
        numbers=numbers,
    )


def _thresholds(sae: SAE) -> Line | None:
    levels: Tensor = sae.threshold  # type: ignore[assignment]
    negative = float((levels < 0).float().mean())
    if negative:
        return Line(
            name="thresholds",
            status="wrong",
            says=f"{negative:.0%} of the thresholds are below 0, which none of JumpReLU is",
            fix="they look like logarithms (log_threshold): exponentiate them",
            numbers={"negative": negative},
        )
    if not levels.any():
        return Line(
            name="thresholds",
            status="doubt",
            says="every threshold is 0: it is a plain ReLU",
            fix="a BatchTopK that lost its threshold looks like this: compare L0 with its paper",
        )
    middle = float(levels.median())
    return Line(
        name="thresholds",
        status="fits",
        says=f"thresholds are positive, median {middle:.3g}",
        numbers={"median": middle},
    )
