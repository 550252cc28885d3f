"""Trackio: a local database with a page of its own."""

from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.errors import MissingExtraError
from saekit.report.trackers.base import Tracker, registry


@final
@registry.register
class Trackio(Tracker):
    """A run of the project ``place``, to be looked at with `trackio show`.

    Source:
        trackio.
    """

    name: ClassVar[str] = "trackio"

    @override
    def open(self, run: Path, config: dict[str, Any]) -> None:
        try:
            import trackio  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("trackio", "trackio") from error
        self._trackio: Any = trackio
        self._trackio.init(project=self.place or "saekit", name=run.name, config=config)

    @override
    def write(self, step: int, numbers: dict[str, float]) -> None:
        self._trackio.log(numbers, step=step)

    @override
    def close(self) -> None:
        self._trackio.finish()
