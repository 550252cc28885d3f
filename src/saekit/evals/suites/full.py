"""Full: standard, and what latents do when they are changed inside the model."""

from typing import ClassVar, final

from saekit.evals.suites.base import Part, StudyResults, Suite, registry
from saekit.evals.suites.standard import StandardSuite

PACKAGED, HUB = {"source": "packaged"}, {"source": "auto"}
LATENTS = (2, 5, 10, 20, 50, 100, 500)
ALL = {**HUB, "latents": LATENTS, "n_train": 1000, "n_test": 1000}


@final
@registry.register
class FullSuite(Suite):
    """All of standard, interventions on latents, other texts, and studies that lie in the run."""

    name: ClassVar[str] = "full"
    parts: ClassVar[tuple[Part, ...]] = (
        *StandardSuite.parts,
        Part("tpp", {**PACKAGED, "latents": (20,), "n_train": 400, "n_test": 400}, ALL),
        Part("scr", {**PACKAGED, "latents": (20,)}, {**HUB, "latents": LATENTS}),
        Part("disentanglement", {"n_pairs": 16, "latents": (4, 32, 256)}, {"n_pairs": 96}),
        # Floors are changed and asked as SAEs are, so a small tier tries few settings of each.
        Part("unlearning", {**PACKAGED, "shares": (0.01,), "latents": (20,), "n_ctx": 64}, HUB),
        Part("steering", {**PACKAGED, "strengths": (1.0, 2.0), "n_prompts": 8}, HUB),
        Part("cross_data", {"corpora": ("stdlib",)}, {"n_tokens": 2**17, "ce_tokens": 2**16}),
    )
    floors: ClassVar[tuple[str, ...]] = ("untrained", "pca", "raw", "shuffled")
    studies: ClassVar[tuple[StudyResults, ...]] = (
        StudyResults("sensitivity", "sensitivity/result.json", ("sensitivity", "balanced")),
        StudyResults(
            "explain", "explain/scores/*/result.json", ("detection", "fuzzing", "simulation")
        ),
    )
