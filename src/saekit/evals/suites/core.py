"""Core: reconstruction, sparsity and losses."""

from typing import ClassVar, final

from saekit.evals.suites.base import Part, Suite, registry


@final
@registry.register
class CoreSuite(Suite):
    """What an SAE keeps of activations and of the model's predictions: the core evaluation."""

    name: ClassVar[str] = "core"
    parts: ClassVar[tuple[Part, ...]] = (
        # Fewer tokens than 2**14 of real text are too few documents for an interval of losses.
        Part(
            "core", {"n_tokens": 2**15, "ce_tokens": 2**14}, {"n_tokens": 2**18, "ce_tokens": 2**16}
        ),
    )
