"""The contract of a suite: which evaluations it runs, and how small and how large."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import saekit.evals.suites as package
from saekit.core.registry import Registry
from saekit.evals.base import Eval
from saekit.evals.base import registry as evals

Tier = Literal["small", "full"]


class Part(NamedTuple):
    """An evaluation of a suite.

    Args:
        eval: its name; one that nothing answers to is a failed cell, not an error.
        settings: those of the small tier, which runs offline, on a CPU in minutes.
        full: what the full tier changes of them.
    """

    eval: str
    settings: Mapping[str, Any] = {}
    full: Mapping[str, Any] = {}

    def config(self, tier: Tier) -> Eval:
        """Return the evaluation with its settings.

        Raises:
            UnknownNameError: there is no such evaluation.
            ConfigError: it has no such setting, or refuses one.
        """
        own = dict(self.settings) | (dict(self.full) if tier == "full" else {})
        return evals.get(self.eval).from_dict(own)


class StudyResults(NamedTuple):
    """Results of a study that no suite runs: they are read where they lie in the folder of an SAE.

    Args:
        study: its name.
        files: a pattern of paths in the folder.
        headline: scores that are shown, as of an evaluation.
    """

    study: str
    files: str
    headline: tuple[str, ...]


class Suite:
    """Several evaluations, as a value: nothing in a subclass but these."""

    name: ClassVar[str]
    parts: ClassVar[tuple[Part, ...]]
    floors: ClassVar[tuple[str, ...]] = ("untrained", "pca", "raw")
    studies: ClassVar[tuple[StudyResults, ...]] = ()


registry = Registry[Suite]("suite", package)
