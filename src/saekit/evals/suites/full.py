"""Full: standard, and what latents do when they are changed inside the model."""

from typing import ClassVar, final

from saekit.evals.suites.base import Lying, Part, Suite, registry
from saekit.evals.suites.standard import StandardSuite


@final
@registry.register
class FullSuite(Suite):
    """All of standard, interventions on latents, other texts, and studies that lie in the run."""

    name: ClassVar[str] = "full"
    parts: ClassVar[tuple[Part, ...]] = (
        *StandardSuite.parts,
        Part("tpp"),
        Part("scr"),
        Part("disentanglement"),
        Part("unlearning"),
        Part("steering"),
        Part("cross_data", {"corpora": ("stdlib",)}, {"n_tokens": 2**17, "ce_tokens": 2**16}),
    )
    floors: ClassVar[tuple[str, ...]] = ("untrained", "pca", "raw", "shuffled")
    lying: ClassVar[tuple[Lying, ...]] = (
        Lying("sensitivity", "sensitivity/result.json", ("sensitivity", "balanced")),
        Lying("explain", "explain/scores/*/result.json", ("detection", "fuzzing", "simulation")),
    )
