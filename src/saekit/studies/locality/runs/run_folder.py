"""What runs of locality share: how they go about their work, their folder, and how they end."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saekit.core.files import replace_with, write_json
from saekit.core.progress import Progress
from saekit.core.result import Result, Table
from saekit.data import table_files
from saekit.models.base import LanguageModel
from saekit.studies.locality.runs.bench import Bench
from saekit.studies.locality.runs.journal import Journal, archive
from saekit.studies.locality.runs.measure import Arrays, Failure


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run goes about its work; none of it changes a number.

    Args:
        resume: go on with the run in the folder. What is done is not done again; what failed is.
        memory_bytes: budget of graphs and gradients; None: half of what is free.
        shown: show progress on stderr.
        tables: format of tables, of `table_files.FORMATS`.

    Raises:
        ConfigError: there is no such format.
        MissingExtraError: tables are to be Parquet and pyarrow is not installed.
    """

    resume: bool = False
    memory_bytes: int | None = None
    shown: bool = True
    tables: str = "csv"

    def __post_init__(self) -> None:
        table_files.check(self.tables)


DEFAULTS = RunOptions()


@dataclass(frozen=True)
class FinishedRun:
    """What a run gave.

    Args:
        result: its scores and details.
        latents: a row for each site or length, window and latent.
        failures: what could not be measured.
    """

    result: Result
    latents: Table
    failures: list[Failure]


class RunFolder:
    """The folder of a run while it is written: journal, progress and cost.

    Args:
        folder: to make, or to go on with.
        settings: what decides the numbers, JSON-ready.
        options: how the run goes about its work.
        total: units of work.
        unit: what these are called, as "windows".

    Raises:
        ConfigError: the folder is in use, or holds a run with other settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        options: RunOptions,
        *,
        total: int,
        unit: str,
    ):
        self.folder, self.options = folder, options
        self.journal = Journal(folder, settings, resume=options.resume)
        self.progress = Progress("locality", total, unit, shown=options.shown)
        self.bench = Bench()

    def finish(
        self,
        lm: LanguageModel,
        result: Result,
        tables: Mapping[str, Table],
        influences: Mapping[str, Arrays],
    ) -> None:
        """Write cost, influences, tables and, last, the result: where that is, all is.

        Args:
            lm: the model that ran.
            result: of the run.
            tables: by name of their files.
            influences: by name of their files; summaries in them are left to the tables.
        """
        self.progress.close()
        cost = self.bench.record(resumed=self.options.resume, device=lm.device.type)
        write_json(self.folder / "bench.json", cost)
        for name, arrays in influences.items():
            written = {k: v for k, v in arrays.items() if k[:2] not in ("s.", "v.")}
            replace_with(self.folder / "influences" / f"{name}.npz", archive(written))
        for name, table in tables.items():
            table_files.write(table, self.folder / name, self.options.tables)
        result.write(self.folder / "result.json")
