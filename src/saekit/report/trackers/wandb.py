"""Weights & Biases: a run there for a run here."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.errors import MissingExtraError
from saekit.report.trackers.base import Tracker, registry


@final
@registry.register
class WandB(Tracker):
    """A run of the project ``place``; WANDB_MODE=offline keeps it on this machine.

    Steps are those of training, also where a run went back and wrote some anew.

    Source:
        wandb.
    """

    name: ClassVar[str] = "wandb"

    @override
    def open(self, run: Path, config: dict[str, Any]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb") from error
        library: Any = wandb
        self._run = library.init(
            project=self.place or "saekit", name=run.name, config=config, dir=str(run)
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @override
    def write(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log({"step": step, **numbers})

    @override
    def close(self) -> None:
        self._run.finish()
