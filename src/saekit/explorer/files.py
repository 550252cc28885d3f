"""The files of the pages: found once at the start, and nothing else is ever given out."""

import hashlib
from importlib import resources
from typing import NamedTuple

MEDIA = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".html": "text/html; charset=utf-8",
}
ENTRY, STYLE = "main.js", ".css"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>saekit explorer</title>
{styles}
<script type="module" src="/web/main.js"></script>
</head>
<body>
<noscript>The pages need JavaScript.</noscript>
</body>
</html>
"""


class PageFile(NamedTuple):
    """One file that is given out.

    Attributes:
        data: its bytes.
        media: its type.
        tag: for `ETag`.
    """

    data: bytes
    media: str
    tag: str


class PageFiles:
    """Every file that a browser may read, by its address."""

    def __init__(self) -> None:
        self._files: dict[str, PageFile] = {}
        web = resources.files("saekit.report") / "web"
        styles = []
        for one in sorted(web.iterdir(), key=lambda f: f.name) if web.is_dir() else []:
            suffix = "." + one.name.rpartition(".")[2]
            if one.is_file() and suffix in MEDIA and not one.name.startswith("."):
                self._add(f"/web/{one.name}", one.read_bytes(), MEDIA[suffix])
                if suffix == STYLE:
                    styles.append(f'<link rel="stylesheet" href="/web/{one.name}">')
        page = PAGE.replace("{styles}", "\n".join(styles))
        self._add("/", page.encode(), MEDIA[".html"])

    def _add(self, path: str, data: bytes, media: str) -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
        self._files[path] = PageFile(data, media, tag)

    def paths(self) -> list[str]:
        """Return the addresses."""
        return list(self._files)

    def get(self, path: str) -> PageFile | None:
        """Return a file by its address; None: there is none."""
        return self._files.get(path)
