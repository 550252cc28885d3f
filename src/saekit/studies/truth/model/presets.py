"""Presets: published truths by name."""

from collections.abc import Callable

from saekit.core.errors import UnknownNameError, nearest
from saekit.studies.truth.model.base import TruthConfig
from saekit.studies.truth.model.correlation import LowRank
from saekit.studies.truth.model.firing import Zipf
from saekit.studies.truth.model.hierarchy import Grown
from saekit.studies.truth.model.magnitudes import ReluNormal
from saekit.studies.truth.model.profiles import FoldedNormal, Linear
from saekit.studies.truth.model.spread import Spread


def synth_sae_bench_16k() -> TruthConfig:
    """SynthSAEBench-16k: 16,384 features in 768 dimensions.

    About 34 features are on at a token. It is the published distribution, drawn by us: the
    same laws and numbers, not the same directions. Rates of children are compensated as
    published, which misses them; `Truth.rates` has what they are.

    Source:
        arXiv:2602.14687; huggingface.co/decoderesearch/synth-sae-bench-16k-v2.
    """
    return TruthConfig(
        n_features=16_384,
        d_model=768,
        dictionary=Spread(steps=100, sharpen_steps=0, lr=3e-4),
        firing=Zipf(exponent=0.5, highest=0.4, lowest=5e-4),
        magnitudes=ReluNormal(mean=Linear(start=5.0, end=4.0), std=FoldedNormal(mean=0.5, std=0.5)),
        correlation=LowRank(rank=25, scale=0.1),
        hierarchy=Grown(
            roots=128,
            branching=4,
            depth=3,
            exclusive_share=1.0,
            scaled=True,
            compensate="published",
        ),
        bias=0.5,
        seed=42,
    )


PRESETS: dict[str, Callable[[], TruthConfig]] = {"synth_sae_bench_16k": synth_sae_bench_16k}


def preset(name: str) -> TruthConfig:
    """Return a published configuration by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PRESETS:
        raise UnknownNameError(
            f"There is no truth `{name}`; there are {', '.join(PRESETS)}.{nearest(name, PRESETS)}"
        )
    return PRESETS[name]()
