"""PCA: principal components of the activation, as many on per token as the SAE has latents on."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.seeds import generator
from saekit.evals.base import Subject
from saekit.evals.floors.base import Floor, Ground, check_autoencoder, kept_acts, mean_l0, registry
from saekit.saes.topk import TopK

TOKENS, A_DIMENSION = 2**14, 16  # read for the covariance: the first, or so many a dimension


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
        d, l0, n = subject.sae.cfg.d_in, None, 0
        total = torch.zeros(d, dtype=torch.float64)
        squares = torch.zeros(d, d, dtype=torch.float64)
        for x in kept_acts(subject, ground, max(TOKENS, A_DIMENSION * d)):
            l0 = mean_l0(subject, x) if l0 is None and len(x) else l0
            wide = x.double().cpu()
            n += len(wide)
            total += wide.sum(0)
            squares += wide.T @ wide
        mean = total / n
        _, vectors = torch.linalg.eigh(squares / n - torch.outer(mean, mean))
        both = torch.cat([vectors.T, -vectors.T]).float()
        cfg = TopK(d_in=d, d_out=d, d_sae=2 * d, k=min(l0 or 1, d))
        sae = cfg.build(generator(0, "pca"))
        sae.W_enc.data.copy_(both.T)
        sae.W_dec.data.copy_(both)
        sae.b_enc.data.copy_(-(both @ mean.float()))
        sae.b_dec.data.copy_(mean)
        return self.stands_for(subject, sae)
