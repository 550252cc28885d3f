"""A self-contained HTML page: own style, own script, and leave for nothing else."""

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

from saekit.core.files import replace_with


def escaped(value: object) -> str:
    """Return text that is never markup, in content and in attributes."""
    return html.escape(str(value), quote=True)


def write_page(
    path: Path, title: str, body: str, style: str, *, script: str = "", data: Any = None
) -> Path:
    """Write a page and return its path; its policy allows this style and script alone.

    Args:
        path: the file.
        title: of the window, plain text.
        body: markup, made of escaped text; style goes by class, for the policy refuses
            style attributes.
        style: CSS.
        script: JavaScript; may read `data` from the element with id ``data``.
        data: JSON-ready, for the script.
    """
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{_hash(style)}'"
    tail = ""
    if script:
        policy += f"; script-src '{_hash(script)}'"
        record = json.dumps(data, ensure_ascii=False, allow_nan=False)
        record = record.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
        tail = (
            f'<script type="application/json" id="data">{record}</script>\n'
            f"<script>{script}</script>\n"
        )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f"{tail}</body>\n</html>\n"
    )
    replace_with(path, page.encode("utf-8", "backslashreplace"))
    return path


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
