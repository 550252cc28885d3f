"""Files of latents to look at: YAML or JSON, and the published lists of candidates."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import FormatError
from saekit.core.files import read_settings, write_text
from saekit.studies.locality.events.neuronpedia import Activation, Record
from saekit.studies.locality.events.neuronpedia_events import SENTENCE_PIECE

COLUMNS = (
    "feature_id",
    "density",
    "recall",
    "explanation",
    "top-3 activations (peak token in **[...]**)",
)
SHOWN = 3  # texts of a latent in a list
BEFORE, AFTER = 4, 3  # tokens of a text around its peak
_TIER = re.compile(r"#+\s*Tier:\s*(?P<tier>\w+).*")
_CELLS = re.compile(r"(?<!\\)\|")


class Feature(NamedTuple):
    """A latent of a file."""

    latent: int
    description: str
    tier: str  # empty where the file has none


def read(path: Path) -> list[Feature]:
    """Return the latents of a file, each once, in its order.

    A Markdown file is a list of candidates, `candidate_features_l<L>.md`: tables whose first
    column is the latent, under headings of tiers or none. Any other is YAML or JSON with
    ``features``, a list of ``feature_id``, ``description`` and, in older files, ``tier``.

    Raises:
        FormatError: there is no such file, or it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}.") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text in UTF-8: {error}.") from error
    found = _listed(text, path) if path.suffix == ".md" else _structured(path)
    if not found:
        raise FormatError(f"{path} names no latent.")
    return list({f.latent: f for f in reversed(found)}.values())[::-1]


def _structured(path: Path) -> list[Feature]:
    raw = read_settings(path)
    try:
        return [
            Feature(
                _latent(f["feature_id"]), str(f.get("description") or ""), str(f.get("tier") or "")
            )
            for f in raw["features"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"{path} must hold `features`, a list of feature_id and description: {error}."
        ) from error


def _latent(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"feature_id {value!r} is not a whole number")
    return int(value)


def _listed(text: str, path: Path) -> list[Feature]:
    """Return the latents of the tables of a Markdown file."""
    found: list[Feature] = []
    tier, head = "", []
    for line in text.splitlines():
        if heading := _TIER.fullmatch(line):
            tier = heading["tier"]
        cells = [c.strip().replace("\\|", "|") for c in _CELLS.split(line.strip())[1:-1]]
        if cells and cells[0] in ("feature_id", "latent"):
            head = cells
        elif head and cells and cells[0].isdecimal():
            said = dict(zip(head, cells, strict=False))
            found.append(Feature(int(cells[0]), said.get("explanation", ""), tier))
        elif not cells:
            head = []
    if not found:
        raise FormatError(f"{path} has no table whose first column is feature_id.")
    return found


def name_of(sae_id: str) -> str:
    """Return the name of an SAE's list, by its layer where its name begins with that."""
    layer = re.match(r"(\d+)(?:-|$)", sae_id)
    return f"candidate_features_{f'l{layer[1]}' if layer else sae_id.replace('/', '__')}.md"


def write(path: Path, records: Sequence[Record], facts: Sequence[str]) -> Path:
    """Write a list of candidates in the published columns; return its path.

    Args:
        path: of the list.
        records: of the candidates.
        facts: lines above the table, the first its title.
    """
    lines = [
        f"# {facts[0]}",
        "",
        *(f"- {fact}" for fact in facts[1:]),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---:|---:|---:|---|---|",
    ]
    for r in records:
        density = "" if r.density is None else f"{r.density:.2e}"
        recall = "-" if r.recall_alt is None else f"{r.recall_alt:.2f}"
        texts = "<br>".join(_around(a) for a in r.activations[:SHOWN])
        cells = (str(r.index), density, recall, _cell(r.description), _cell(texts))
        lines.append(f"| {' | '.join(cells)} |")
    write_text(path, "\n".join(lines) + "\n")
    return path


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()


def _around(one: Activation) -> str:
    """Return a text around its peak, which is marked."""
    first, end = max(0, one.peak - BEFORE), one.peak + AFTER + 1
    words = [t.replace(SENTENCE_PIECE, "·").replace("\n", "↵") for t in one.tokens[first:end]]
    words[one.peak - first] = f"**[{words[one.peak - first]}]**"
    dots = ("…" if first else "", "…" if end < len(one.tokens) else "")
    return f"{dots[0]}{' '.join(words)}{dots[1]} *(peak={one.value:.2f})*"
