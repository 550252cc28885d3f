"""The contract of a tracker, and what the log's numbers are called elsewhere."""

import abc
from pathlib import Path
from typing import Any, ClassVar

import saekit.report.trackers as package
from saekit.core.registry import Registry
from saekit.report.follow import follow

# Names of SAELens where they mean the same; `fvu` is 1 - explained variance.
NAMES = {
    "loss": "losses/overall_loss",
    "l0": "metrics/l0",
    "fvu": "metrics/fvu",
    "dead": "sparsity/dead_features",
    "lr": "details/current_learning_rate",
    "tokens": "details/n_training_samples",
    "tokens_per_second": "details/tokens_per_second",
    "memory_bytes": "details/memory_bytes",
}


class Tracker(abc.ABC):
    """Where copies of a training log go.

    Args:
        place: the project, or the folder; None: the tracker's own choice.
    """

    name: ClassVar[str]

    def __init__(self, place: str | None = None):
        self.place = place

    @abc.abstractmethod
    def open(self, run: Path, config: dict[str, Any]) -> None:
        """Begin a run's copy.

        Raises:
            MissingExtraError: the tracker's library is not installed.
        """

    @abc.abstractmethod
    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Copy the numbers of a step."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the copy."""

    def copy(self, run: Path, config: dict[str, Any], *, wait: bool) -> int:
        """Copy a run's log, with `wait` until the run is over, and return the steps copied."""
        self.open(run, config)
        n = 0
        try:
            for record in follow(run, wait=wait):
                if record["kind"] == "step":
                    self.write(record["step"], numbers(record))
                    n += 1
        finally:
            self.close()
        return n


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a step under the names that trackers know."""
    found = {name: float(record[key]) for key, name in NAMES.items() if record.get(key) is not None}
    found["metrics/explained_variance"] = 1 - record["fvu"]
    return found | {f"losses/{k}": float(v) for k, v in record["terms"].items()}


registry = Registry[Tracker]("tracker", package)
