"""Verdict: what was checked about an SAE, line by line, each with the number it rests on."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, final

from saekit.core.files import write_json

Status = Literal["fits", "doubt", "wrong", "unknown"]
_MARKS: dict[Status, str] = {"fits": "ok", "doubt": "DOUBT", "wrong": "WRONG", "unknown": "?"}
EXIT_CODES = {"fits": 0, "doubt": 3, "wrong": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One check.

    Args:
        name: what was checked, such as "site".
        status: fits, doubt or wrong; unknown where the files say nothing to compare with.
        says: what was seen, with its number.
        fix: what to do; "" where nothing is to be done.
        numbers: what `says` rests on, JSON-ready.
    """

    name: str
    status: Status
    says: str
    fix: str = ""
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an SAE is used as it was meant to be. `print` shows it.

    Args:
        subject: the SAE, in words.
        lines: one for each check.
        made_from: model, text and code that the numbers came from.
    """

    subject: str
    lines: list[Line]
    made_from: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def status(self) -> Literal["fits", "doubt", "wrong"]:
        """The worst of all lines; an unknown line counts as no doubt."""
        found = {line.status for line in self.lines}
        return "wrong" if "wrong" in found else "doubt" if "doubt" in found else "fits"

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against it."""
        return self.status == "fits"

    @property
    def exit_code(self) -> int:
        """0 fits, 3 doubts, 1 wrong."""
        return EXIT_CODES[self.status]

    def __getitem__(self, name: str) -> Line:
        """Return the line of a check.

        Raises:
            KeyError: there is no line of that name.
        """
        found = [line for line in self.lines if line.name == name]
        if not found:
            raise KeyError(f"There is no line `{name}`; there are {[x.name for x in self.lines]}.")
        return found[0]

    def __str__(self) -> str:
        wide = max((len(line.name) for line in self.lines), default=0)
        rows = []
        for line in self.lines:
            rows.append(f"{_MARKS[line.status]:5}  {line.name.ljust(wide)}  {line.says}")
            if line.fix:
                rows.append(f"{' ' * (wide + 9)}-> {line.fix}")
        last = {
            "fits": "fits: nothing speaks against using it like this",
            "doubt": "doubts: see the lines marked DOUBT before relying on it",
            "wrong": "wrong: it is not used as it was meant to be; see the lines marked WRONG",
        }[self.status]
        return "\n".join([self.subject, *rows, last])

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return {
            "subject": self.subject,
            "status": self.status,
            "lines": [dataclasses.asdict(line) for line in self.lines],
            "made_from": self.made_from,
        }

    def write(self, path: Path | str) -> Path:
        """Write it as JSON."""
        write_json(Path(path), self.to_dict())
        return Path(path)
