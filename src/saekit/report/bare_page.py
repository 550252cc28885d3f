"""A self-contained HTML page: own style, own script, and leave for nothing else."""

import base64
import hashlib
import html
from importlib import resources
from pathlib import Path
from typing import Any

from saekit.core.files import replace_with
from saekit.core.writable import check_ending
from saekit.report.payload import to_script


def escaped(value: object) -> str:
    """Return text that is never markup, in content and in attributes."""
    return html.escape(str(value), quote=True)


def own_file(name: str) -> str:
    """Return a script or a style of this package."""
    return resources.files("saekit.report").joinpath(name).read_text(encoding="utf-8")


def check(path: Path) -> None:
    """Refuse a file that a page is not written to: it might be what the page is made of.

    Raises:
        ConfigError: it does not end in .html.
    """
    check_ending(path, (".html", ".htm"), "A page")


def assembled(
    title: str, body: str, style: str, *, script: str = "", data: str = "", head: str = ""
) -> str:
    """Return a page; its policy allows its own style and script, and no request.

    Args:
        title: of the window, plain text.
        body: markup, made of escaped text; style goes by class, for the policy refuses
            style attributes.
        style: CSS.
        script: JavaScript; may read `data` from the element with id ``data``.
        data: JSON from `payload.to_script`, for the script.
        head: more of the head, as markup.
    """
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{_hash(style)}'"
    tail = ""
    if script:
        policy += f"; script-src '{_hash(script)}'"
        tail = (
            f'<script type="application/json" id="data">{data}</script>\n'
            f"<script>{script}</script>\n"
        )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{head}<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{body}\n{tail}</body>\n</html>\n"
    )


def write_page(
    path: Path, title: str, body: str, style: str, *, script: str = "", data: Any = None
) -> Path:
    """Write a page and return its path.

    Args:
        path: the file.
        title: see `assembled`, as of the rest.
        body: markup.
        style: CSS.
        script: JavaScript.
        data: JSON-ready, for the script.
    """
    page = assembled(title, body, style, script=script, data=to_script(data))
    replace_with(path, page.encode("utf-8", "backslashreplace"))
    return path


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
