"""Replay: replies from a journal, and nothing else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from typing_extensions import override

from saekit.core.errors import FormatError
from saekit.core.files import read_json_lines
from saekit.generators.base import Failure, Generator, Reply, Request, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Replay(Generator):
    """Answers only what a journal answered before: a run again, without asking anybody.

    Args:
        journal: the file, as a run left it.
        of: settings of the generator that wrote it, as that run recorded them.

    Raises:
        FormatError: there is no such file.
    """

    name: ClassVar[str] = "replay"
    journal: str = ""
    of: dict[str, Any]  # type: ignore[assignment]

    @override
    def identity(self) -> dict[str, Any]:
        return dict(self.of)

    @override
    def replies(self, requests: Sequence[Request]) -> Iterator[Reply | Failure]:
        from saekit.generators.journal import reply_from

        path = Path(self.journal)
        if not path.is_file():
            raise FormatError(f"There is no journal {path}.")
        lines = (line for line in read_json_lines(path) if line.get("kind") == "reply")
        known = {line["key"]: line["reply"] for line in lines}
        for request in requests:
            raw = known.get(request.key(self.identity()))
            if raw is None:
                yield Failure(reason=f"{path} has no reply to this request.", again=False)
            else:
                yield reply_from(raw, path)
