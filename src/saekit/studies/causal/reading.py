"""What texts look like at a site: one activation and one code a text, for SAEs and their floors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import ConfigError
from saekit.core.result import Result, Score
from saekit.evals.base import Eval, Subject, Tools, made_from
from saekit.models.hf import about_parameters
from saekit.studies.causal.dictionaries import Dictionary
from saekit.studies.faithful.coding import model_of
from saekit.studies.faithful.probing.features import check_memory, padded, with_floors
from saekit.studies.faithful.sequences import Shape

BILLION = 10**9


class Read(NamedTuple):
    """Texts as an SAE's site has them, and the SAE and an untrained one as dictionaries of it."""

    x: Float[Tensor, "n d"]  # mean activation of each text
    own: Dictionary
    untrained: Dictionary


def read_texts(
    subjects: Sequence[Subject], texts: Sequence[str], shape: Shape, tools: Tools, batch_rows: int
) -> list[Read]:
    """Return texts as each SAE and an untrained one in its place have them: one pass for all.

    Args:
        subjects: SAEs of one language model.
        texts: in any order.
        shape: how texts become rows.
        tools: of the evaluation.
        batch_rows: the most texts of a pass.

    Raises:
        DataError: activations are not finite, or the rules leave no token of the first texts.
        ResourceError: the codes do not fit in memory.
    """
    rows = padded(texts, model_of(subjects), shape)
    check_memory(subjects, len(texts))
    found = []
    each = with_floors(subjects, rows, "mean", tools, batch_rows=batch_rows, name="texts")
    for subject, (own, floor, other) in zip(subjects, each, strict=True):
        mine, theirs = (s.sae.directions().detach().float().cpu() for s in (subject, floor))
        found.append(Read(own.baseline, Dictionary(own.sae, mine), Dictionary(other.sae, theirs)))
    return found


def too_small(subject: Subject, what: str) -> tuple[str, ...]:
    """Return a caution where a model is below a billion weights.

    Args:
        subject: what is evaluated.
        what: what such models can hardly do.
    """
    lm = subject.lm
    n = BILLION if lm is None else about_parameters(lm)
    if n >= BILLION:
        return ()
    return (
        f"the model has about {n / 1e6:.0f} million weights; below a billion it can hardly {what}, "
        f"and numbers lie near their floors for every SAE",
    )


def too_narrow(subject: Subject, latents: int, share: float = 0.05) -> tuple[str, ...]:
    """Return a caution where the largest number of latents is a large share of the dictionary."""
    d_sae = subject.sae.cfg.d_sae
    if latents <= share * d_sae:
        return ()
    return (
        f"{min(latents, d_sae):,} of {d_sae:,} latents are "
        f"{min(latents, d_sae) / d_sae:.0%} of the dictionary; over {share:.0%} a choice of "
        f"latents is hardly one, so read the scores of fewer",
    )


def check_named(field: str, names: Sequence[str], other: str, numbers: Sequence[float]) -> None:
    """Refuse settings that name nothing, or a thing twice, or have no number to try.

    Args:
        field: of an evaluation, which names things.
        names: what they are called in scores.
        other: the field of numbers.
        numbers: what it has.

    Raises:
        ConfigError: it is so.
    """
    if not names or len(set(names)) < len(names) or not numbers:
        raise ConfigError(
            f"`{field}` has at least one name, and names that differ, and `{other}` a number; got "
            f"{', '.join(names) or 'no name'} and {list(numbers)}."
        )


def result_of(  # noqa: PLR0913 - all that a result says
    config: Eval,
    subject: Subject,
    found: tuple[dict[str, Score], dict[str, Any]],
    notes: Sequence[str],
    seed: int,
    began: float,
) -> Result:
    """Return scores and details of a subject as a result, with the cautions among its notes."""
    scores, details = found
    said = [*notes, *config.cautions(subject)]
    made = made_from(subject, seed, began) | {"site": str(subject.read), "notes": said}
    return config.result(scores, {"seed": seed, "notes": said} | details, made)
