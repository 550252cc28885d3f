"""Untrained: random directions in the place of those that were trained."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.errors import DataError
from saekit.evals.base import Subject
from saekit.evals.floors.base import BATCH_ROWS, Floor, Ground, check_single, registry
from saekit.studies.faithful.sequences import Padded
from saekit.studies.faithful.untrained import untrained


@final
@registry.register
class Untrained(Floor):
    """An untrained TopK as wide as the SAE, with as many latents on per token.

    Its decoder is its encoder turned round, as a frozen decoder or encoder is at its start.
    """

    name: ClassVar[str] = "untrained"
    label: ClassVar[str] = "untrained SAE"
    version: ClassVar[int] = 1

    @override
    def make(self, subject: Subject, ground: Ground) -> Subject:
        check_single(subject)
        first = next(iter(ground.rows(BATCH_ROWS)), None)
        if first is None or not len(first.tokens):
            raise DataError("the training text does not fill a row")
        few = Padded(first.tokens, torch.ones_like(first.tokens, dtype=torch.bool))
        (made,) = untrained([subject], few, BATCH_ROWS, ground.seed)
        return self.stands_for(subject, made.sae)
