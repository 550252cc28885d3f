"""TensorBoard: event files beside the log."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.errors import MissingExtraError
from saekit.core.files import to_json_line
from saekit.report.trackers.base import Tracker, registry


@final
@registry.register
class TensorBoard(Tracker):
    """Event files in ``place``, or in ``tensorboard`` of the run: `tensorboard --logdir`.

    Source:
        torch.utils.tensorboard.
    """

    name: ClassVar[str] = "tensorboard"

    @override
    def open(self, run: Path, config: dict[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard") from error
        self._writer = SummaryWriter(self.place or str(run / "tensorboard"), purge_step=0)
        self._writer.add_text("run", f"    {to_json_line(config)}")

    @override
    def write(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    @override
    def close(self) -> None:
        self._writer.close()
