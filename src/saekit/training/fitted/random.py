"""Random: an untrained SAE, the floor of what any dictionary finds."""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from saekit.core.seeds import generator
from saekit.saes.base import SAEConfig
from saekit.saes.topk import TopK
from saekit.training.fitted.base import (
    DEFAULT_K,
    EXPANSION,
    Acts,
    Fitted,
    Method,
    projecting,
    registry,
    topk,
)


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Random unit directions that read and write, with the mean and size of activations removed.

    The weights that training of a `topk` begins with, but for the length of encoder columns,
    which is that of decoder rows.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532; arXiv:2602.14111 (untrained SAEs as floors).
        Differs: nothing is trained.
    """

    name: ClassVar[str] = "random"
    reads: ClassVar[bool] = False

    @classmethod
    @override
    def example(cls) -> "Random":
        return cls()

    @override
    def sae(self, width: int, d_sae: int | None, k: int | None) -> TopK:
        d_sae = d_sae or EXPANSION * width
        return topk(width, d_sae, min(DEFAULT_K, d_sae) if k is None else k)

    @override
    def fit(self, cfg: SAEConfig, acts: Acts, seed: int) -> Fitted:
        sae = cfg.build(generator(seed, self.name))
        assert isinstance(cfg, TopK)
        return Fitted(projecting(cfg, sae.directions().detach()), {})
