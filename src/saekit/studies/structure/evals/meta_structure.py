"""Meta-structure: is there a smaller dictionary that a dictionary's directions are made of?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor
from typing_extensions import override

from saekit.core.result import Result, Score
from saekit.core.seeds import derive
from saekit.evals.base import SharedEval, Subject, Tools, made_from, registry
from saekit.studies.structure import meta
from saekit.studies.structure.meta import Explained, MetaFit

LEAST_HELD_OUT = 20  # fewer give no interval: docs/intervals.md
FITTED = "no interval: the meta-SAE was fitted to these rows"


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class MetaStructure(SharedEval):
    """How much of the variance of decoder directions a small dictionary of them explains.

    The directions, brought to length 1, are the data: a BatchTopK SAE with a quarter as many
    latents, 4 on per direction, is fitted to nine tenths of them. `explained` is of the directions
    that it was fitted to, as published; `explained_held_out` of the others. The same is done with
    as many random directions (`_random`), which any meta-SAE explains in part, the more the more
    of them there are for a dimension; and with the dictionary's own, each turned by itself
    (`_rotated`): signs of its coordinates on the principal axes are drawn anew, so that the
    variance along each axis stays and what directions share goes. `above_rotated` is what is left
    of structure: held-out variance explained, less that of the turned ones.

    Shared parts may be concepts that are made of others, or one concept split among latents. So no
    score is better in either direction, and no SAE is called better by it.

    Intervals leave out each held-out direction in turn (jackknife); they do not say how far another
    start of the meta-SAE would move the number.

    Args:
        fit: how the meta-SAE is fitted.
        floors: measure the random and the turned directions too.

    Raises:
        ConfigError: a number is out of range, or the SAE codes several sites or positions jointly.
        DataError: it has fewer than 8 directions.

    Cost:
        Three fits on as many vectors as there are latents; no language model.

    Reads:
        Weights of the decoder alone.

    Source:
        Leask et al. 2025, arXiv:2502.04878 (meta-SAEs); SAEBench meta_structure (explained variance
        of a BatchTopK meta-SAE, a quarter of the width, k = 4, 1,500 steps).
        Differs: directions of length 1; held-out directions; coded with exactly 4 latents each;
        floors; intervals.
    """

    name: ClassVar[str] = "meta_structure"
    version: ClassVar[int] = 2  # axes of turned directions
    headline: ClassVar[tuple[str, ...]] = ("explained_held_out", "above_rotated")
    ranks: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False

    fit: MetaFit = MetaFit()
    floors: bool = True

    @classmethod
    @override
    def example(cls) -> "MetaStructure":
        return cls(fit=MetaFit(steps=15, batch_rows=64))

    @override
    def run_checked(self, subjects: Sequence[Subject], tools: Tools) -> list[Result]:
        """Measure SAEs; those with as many directions of one width share the random ones."""
        shared: dict[tuple[int, ...], Explained] = {}
        return [self._measured(subject, tools, shared) for subject in subjects]

    def _measured(
        self, subject: Subject, tools: Tools, shared: dict[tuple[int, ...], Explained]
    ) -> Result:
        began = time.monotonic()
        every = subject.sae.directions()
        rows = meta.unit_rows(every)
        seed = derive(tools.seed, self.name)

        def fitted(part: Tensor) -> Explained:
            return meta.explained(part, self.fit, seed, shown=tools.shown)

        found = {"": fitted(rows)}
        if self.floors:
            key = tuple(rows.shape)
            if key not in shared:
                shared[key] = fitted(meta.random_rows(rows, seed))
            found |= {
                "random": shared[key],
                "rotated": fitted(meta.rotated_rows(rows, self.fit, seed)),
            }
        scores: dict[str, Score] = {}
        for name, one in found.items():
            scores |= _of(name, one)
        if "rotated" in found:
            scores["above_rotated"] = _apart(found[""], found["rotated"])
        notes = (
            [f"{len(every) - len(rows)} latents have a direction of length 0 and are left out"]
            if len(rows) < len(every)
            else []
        )
        details: dict[str, Any] = {
            "directions": len(rows),
            "held_out": len(found[""].held_out),
            "meta_latents": self.fit.latents(len(rows)),
            "seed": tools.seed,
            "notes": notes,
        }
        made = made_from(subject, tools.seed, began) | {"notes": notes}
        return self.result(scores, details, made)


SAID = {"": "", "random": "random directions: ", "rotated": "directions turned one by one: "}


def _of(name: str, one: Explained) -> dict[str, Score]:
    end, head = f"_{name}" if name else "", SAID[name]
    n_fitted = len(one.missed) - len(one.held_out)
    return {
        f"explained{end}": Score(
            value=one.share(held_out=False),
            n=n_fitted,
            unit="share of variance",
            better="neither",
            reason=FITTED,
            label=f"{head}explained, directions fitted to",
        ),
        f"explained_held_out{end}": _score(
            one.share(held_out=True),
            one.without(),
            "share of variance",
            f"{head}explained, held-out directions",
        ),
    }


def _apart(own: Explained, rotated: Explained) -> Score:
    value = own.share(held_out=True) - rotated.share(held_out=True)
    return _score(
        value,
        own.without() - rotated.without(),
        "share of variance",
        "explained above turned directions, held-out",
    )


def _score(value: float, without: Any, unit: str, label: str) -> Score:
    n = len(without)
    low = high = None
    reason = ""
    if n < LEAST_HELD_OUT:
        reason = f"no interval: {n} held-out directions; {LEAST_HELD_OUT} are needed"
    else:
        low, high = meta.ends(value, without)
    return Score(
        value=value,
        low=low,
        high=high,
        n=n,
        unit=unit,
        better="neither",
        reason=reason,
        label=label,
    )
