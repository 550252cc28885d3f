"""What the weights alone say about an SAE, before any text is read."""

from torch import Tensor

from saekit.evals.verify.verdict import Line
from saekit.evals.verify.ways import ALIGNED, aligned, cosine, turned_encoders
from saekit.saes.base import SAE
from saekit.saes.jumprelu import JumpReLU


def look(sae: SAE, *, transcodes: bool) -> list[Line]:
    """Return what the weights say: encoder against decoder, thresholds, biases."""
    found = []
    if not transcodes and (alignment := aligned(sae)) is not None:
        found.append(_alignment(sae, alignment))
    if isinstance(sae.cfg, JumpReLU):
        found.append(_thresholds(sae))
    return found


def _alignment(sae: SAE, alignment: float) -> Line:
    says = f"encoder and decoder of a latent have mean cosine {alignment:.2f}"
    numbers = {"cosine": alignment}
    if alignment >= ALIGNED:
        return Line(name="weights", status="fits", says=says, numbers=numbers)
    encoder, decoder = sae.get_parameter("W_enc"), sae.get_parameter("W_dec")
    how, other = max(
        ((how, cosine(turned, decoder)) for how, turned in turned_encoders(encoder)),
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


def _thresholds(sae: SAE) -> Line:
    levels: Tensor = sae.threshold  # type: ignore[assignment]
    negative = float((levels < 0).float().mean())
    if negative:
        return Line(
            name="thresholds",
            status="wrong",
            says=f"{negative:.0%} of the thresholds are below 0, where JumpReLU has none",
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
