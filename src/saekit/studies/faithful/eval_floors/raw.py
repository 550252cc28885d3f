"""Raw: the activation itself as a code."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.evals.base import Subject
from saekit.evals.floors.base import Floor, Ground, check_autoencoder, registry
from saekit.training.fitted.base import Acts
from saekit.training.fitted.identity import Identity


@final
@registry.register
class Raw(Floor):
    """The activation itself: two latents a dimension, one for each sign, and nothing lost.

    Of what an SAE keeps it is the ceiling, of what a code is good for the floor.
    """

    name: ClassVar[str] = "raw"
    label: ClassVar[str] = "raw activation"
    version: ClassVar[int] = 1

    @override
    def make(self, subject: Subject, ground: Ground) -> Subject:
        check_autoencoder(subject)
        fit, d = Identity(), subject.sae.cfg.d_in
        made = fit.fit(fit.sae(d, None, None), Acts(lambda: (), d, 0), ground.seed)
        return self.stands_for(subject, made.sae)
