"""What every score is, as the files of the metrics say it, read without importing them.

Importing a metric imports PyTorch, which the server does without: it reads the text of the files.
"""

import ast
import functools
from pathlib import Path
from typing import Any

import saekit.metrics as package

_SAID = ("name", "label", "unit", "better", "place")


@functools.cache
def definitions() -> dict[str, dict[str, Any]]:
    """Return what each metric says of itself: ``label``, ``unit``, ``better``, ``about``."""
    found: dict[str, dict[str, Any]] = {}
    for folder in package.__path__:
        for path in sorted(Path(folder).glob("*.py")):
            if not path.name.startswith("_"):
                found |= _in_file(path)
    order = sorted(found, key=lambda n: (found[n].get("place") or 10**6, n))
    return {name: found[name] for name in order}


def _in_file(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        said = {
            part.target.id: part.value.value
            for part in node.body
            if isinstance(part, ast.AnnAssign)
            and isinstance(part.target, ast.Name)
            and isinstance(part.value, ast.Constant)
            and part.target.id in _SAID
        }
        if isinstance(name := said.get("name"), str):
            about = (ast.get_docstring(node) or "").split("\n\n")[0]
            found[name] = {"label": name} | said | {"about": " ".join(about.split())}
    return found
