"""The pages' modules as one script, so that a page is one file and works without a server."""

import re
from importlib import resources

from saekit.core.errors import ConfigError

WEB = "web"
SERVED = (".js", ".css", ".html")  # kinds of files that a page may ask for

_IMPORT = re.compile(
    r'^import\s*(?:\{(?P<names>[^}]*)\}\s*from\s*)?"(?P<path>[^"]+)";[ \t]*$', re.MULTILINE
)
_EXPORT = re.compile(
    r"^export\s+(?P<kind>async\s+function\*?|function\*?|class|const|let|var)\s+(?P<name>[\w$]+)",
    re.MULTILINE,
)
_LEFT = re.compile(r"^\s*(?:import|export)\b.*$|\bimport\s*\(.*$|\bimport\.meta\b.*$", re.MULTILINE)
_NAME = re.compile(r"[\w$]+(\s+as\s+[\w$]+)?")


def web_file(name: str) -> str:
    """Return a file of the pages.

    Args:
        name: as in `web_files`.

    Raises:
        ConfigError: there is no such file.
    """
    if name not in web_files():
        raise ConfigError(f"There is no file {name!r} of the pages; there are {web_files()}.")
    return resources.files("saekit.report").joinpath(WEB, name).read_text(encoding="utf-8")


def web_files() -> list[str]:
    """Return the names of all files that the pages are made of."""
    folder = resources.files("saekit.report").joinpath(WEB)
    return sorted(f.name for f in folder.iterdir() if f.name.endswith(SERVED))


def bundled(entry: str) -> str:
    """Return a module and all that it imports as one classic script.

    Each module becomes a function that returns what it exports; no name of one is seen in
    another unless it is imported. Only the forms that our own modules use are read::

        import { a, b as c } from "./x.js";
        export function f    export const x    export class C

    Args:
        entry: a file of `web_files`.

    Raises:
        ConfigError: a module is missing, imports in a circle, imports what is not exported, or
            has a form that is not read; the sentence names the module and the line.
    """
    order: dict[str, str] = {}
    exports: dict[str, list[str]] = {}
    _add(entry, (), order, exports)
    text = '(() => {\n"use strict";\n' + "\n".join(order.values()) + "\n})();\n"
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise ConfigError(f"{entry}: a script in a page may not hold `</script` or `<!--`.")
    return text


def _add(
    name: str, above: tuple[str, ...], order: dict[str, str], exports: dict[str, list[str]]
) -> None:
    if name in order:
        return
    if name in above:
        circle = " -> ".join([*above[above.index(name) :], name])
        raise ConfigError(f"Modules of the pages import each other in a circle: {circle}.")
    source = web_file(name)
    for found in _IMPORT.finditer(source):
        path = found["path"]
        if not path.startswith("./") or "/" in path[2:]:
            raise ConfigError(f"{name} imports {path!r}; modules lie side by side: ./NAME.js")
        _add(path[2:], (*above, name), order, exports)
    exports[name] = [found["name"] for found in _EXPORT.finditer(source)]
    body = _IMPORT.sub(lambda m: _taken(name, m, exports), source)
    body = _EXPORT.sub(lambda m: f"{m['kind']} {m['name']}", body)
    if left := _LEFT.search(body):
        raise ConfigError(f"{name}: `{left[0].strip()[:80]}` is a form that bundled() cannot read.")
    body = _thin(name, body)
    given = ", ".join(exports[name])
    order[name] = f"const {_ident(name)} = (() => {{\n{body}\nreturn {{ {given} }};\n}})();"


def _thin(name: str, body: str) -> str:
    """Leave out what no reader of a page needs: lines of comment, and space before lines."""
    for number, line in enumerate(body.splitlines(), 1):
        if line.count("`") % 2:
            raise ConfigError(f"{name}, line {number}: a text in backticks goes over lines.")
    lines = [line.strip() for line in body.splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _taken(name: str, found: re.Match[str], exports: dict[str, list[str]]) -> str:
    """Return the line that takes names out of a module that stands before."""
    other = found["path"][2:]
    if found["names"] is None:
        return ""
    taken = [n.strip() for n in found["names"].split(",") if n.strip()]
    for one in taken:
        if not _NAME.fullmatch(one) or one.split()[0] not in exports[other]:
            raise ConfigError(f"{name} imports `{one}` from {other}, which exports no such name.")
    parts = ", ".join(re.sub(r"\s+as\s+", ": ", one) for one in taken)
    return f"const {{ {parts} }} = {_ident(other)};"


def _ident(name: str) -> str:
    return "module_" + re.sub(r"\W", "_", name.removesuffix(".js"))
