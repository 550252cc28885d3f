"""PCA: principal components of the activation, as many on per token as the SAE has latents on."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.evals.base import Subject
from saekit.evals.floors.base import Floor, Ground, check_autoencoder, kept_acts, mean_l0, registry
from saekit.training.fitted.base import Acts
from saekit.training.fitted.pca import PCA as Fit

TOKENS, A_DIMENSION = 2**14, 16  # read for the covariance: the first, or as many a dimension


@final
@registry.register
class PCA(Floor):
    """Principal components of the training text's activations, the largest of each token kept.

    Two latents a component, one for each sign; as many on per token as the SAE has latents on.
    """

    name: ClassVar[str] = "pca"
    label: ClassVar[str] = "PCA"
    version: ClassVar[int] = 1

    @override
    def make(self, subject: Subject, ground: Ground) -> Subject:
        check_autoencoder(subject)
        fit, d = Fit(), subject.sae.cfg.d_in
        n = max(TOKENS, A_DIMENSION * d)
        k = mean_l0(subject, next(kept_acts(subject, ground, 1)))
        acts = Acts(lambda: kept_acts(subject, ground, n), d, n)
        made = fit.fit(fit.sae(d, None, min(k, d)), acts, ground.seed)
        return self.stands_for(subject, made.sae)
