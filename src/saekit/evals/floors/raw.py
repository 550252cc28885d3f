"""Raw: the activation itself as a code."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.seeds import generator
from saekit.evals.base import Subject
from saekit.evals.floors.base import Floor, Ground, check_autoencoder, registry
from saekit.saes.relu import ReLU


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
        d = subject.sae.cfg.d_in
        sae = ReLU(d_in=d, d_out=d, d_sae=2 * d).build(generator(0, "raw"))
        both = torch.cat([torch.eye(d), -torch.eye(d)])
        sae.W_enc.data.copy_(both.T)
        sae.W_dec.data.copy_(both)
        sae.b_enc.data.zero_()
        sae.b_dec.data.zero_()
        return self.stands_for(subject, sae)
