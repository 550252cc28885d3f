"""Standard: core, and what latents are good for, without changing what the model does."""

from typing import ClassVar, final

from saekit.evals.suites.base import Part, Suite, registry
from saekit.evals.suites.core import CoreSuite

HUB_TASKS = ("sst2", "cola", "ag_news", "yelp_polarity")


@final
@registry.register
class StandardSuite(Suite):
    """Core, sparse probes, fake features, structure of the dictionary, absorption, seeds."""

    name: ClassVar[str] = "standard"
    parts: ClassVar[tuple[Part, ...]] = (
        *CoreSuite.parts,
        Part(
            "probing",
            {
                "tasks": ("sst2", "ag_news"),
                "source": "packaged",
                "sparse": (1, 5),
                "n_train": 400,
                "n_test": 400,
            },
            {
                "tasks": HUB_TASKS,
                "source": "auto",
                "sparse": (1, 2, 5, 16),
                "n_train": 1000,
                "n_test": 1000,
            },
        ),
        Part("fake_features", {"n_seqs": 100}, {"n_seqs": 1000}),
        # A third of the published steps explains as much of held-out directions, to 0.004.
        Part("meta_structure", {"fit": {"steps": 500}}),
        Part("absorption", {"n_words": 1200}, {"n_words": 3000}),
        Part("seed_stability", full={"n_tokens": 2**18}),
    )
