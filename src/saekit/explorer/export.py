"""Export: the pages of a folder of SAEs as files, for any static host and, small ones, for a disk.

The layout, all below the folder that is made::

    index.html, boot.js, app.js, app.css    the pages, one script
    site.json                               what this is, with the bytes of each part
    data/library.json                       as the server's /library
    data/SAE/overview.json                  as /saes/SAE
    data/SAE/columns.json                   as /saes/SAE/columns, of every column
    data/SAE/latents.bin                    every latent, packed
    data/SAE/latents.idx.json               where each of them is in it
    data/runs/RUN.json, data/studies/STUDY.json
    data.js                                 all of it as one object, where that is small

``latents.bin`` is the JSON records of the latents one after another, each compressed on its own
(raw deflate, RFC 1951). ``latents.idx.json`` has `offsets`, one more than latents: latent i is the
bytes from offsets[i] up to offsets[i + 1], one range request. A record is that of the API, with the
whole panels under `panels` and with `AROUND` tokens of each example. Where a host ignores ranges
the whole file comes, and is used.
"""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError
from saekit.core.files import replace_with, write_json
from saekit.core.lock import made_whole
from saekit.core.progress import Progress
from saekit.explorer.labels import Labels, place_for
from saekit.explorer.library import Library
from saekit.explorer.views import MOST_NAMES, Views, version
from saekit.report.bundle import bundled, web_file

FORMAT, VERSION = "saekit.site", 1
SITE = "site.json"
LEVEL = 6  # of deflate
AROUND = (24, 12)  # tokens of an example before its peak and after it: a site is mostly these
DATA_JS_BYTES = 20_000_000  # of the one script that works from a disk
SCRIPT, STYLE = "main.js", "app.css"
# A page from a disk may read no file but scripts: there the data is one.
BOOT = """"use strict";
for (const name of location.protocol === "file:" ? ["data.js", "app.js"] : ["app.js"]) {
  const script = document.createElement("script");
  script.src = name;
  script.async = false;
  document.body.append(script);
}
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta name="saekit-source" content="static">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="app.css">
<title>{title}</title>
</head>
<body>
<noscript>The pages need JavaScript.</noscript>
<script src="boot.js"></script>
</body>
</html>
"""
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export left.

    Args:
        folder: where it is.
        saes: latents of each SAE that has its latents in it, by id.
        without: why others have none, by id.
        parts: bytes by part: latents, columns, pages and the rest.
        from_disk: whether it works from a disk, without a web server.
    """

    folder: Path
    saes: dict[str, int]
    without: dict[str, str]
    parts: dict[str, int]
    from_disk: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "site": str(self.folder),
            "saes": self.saes,
            "without_latents": self.without,
            "bytes": self.parts | {"all": sum(self.parts.values())},
            "from_disk": self.from_disk,
        }


@dataclass
class _Site:
    """Files that are being written, and their sizes."""

    folder: Path
    parts: dict[str, int] = field(default_factory=dict)
    whole: dict[str, Any] | None = field(default_factory=dict)  # of data.js; None: too large
    held: int = 0  # bytes of that as JSON

    def write(self, name: str, data: bytes, part: str) -> None:
        path = self.folder / name
        if path.exists():
            raise ConfigError(
                f"Two parts of the site would be the file {name}. Rename the folder of one of them."
            )
        replace_with(path, data)
        self.parts[part] = self.parts.get(part, 0) + len(data)

    def json(self, name: str, value: Any, part: str = "other") -> Any:
        """Write JSON; return the value, for data.js."""
        data = _json(value)
        self.write(name, data, part)
        return self.hold(value, len(data))

    def hold(self, value: Any, n_bytes: int) -> Any:
        """Return a value for data.js; None once that is too large."""
        self.held += n_bytes
        if self.held > DATA_JS_BYTES:
            self.whole = None
        return value if self.whole is not None else None


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")  # half of a pair of surrogates, as an escape


def export_site(place: Path | str, out: Path | str, *, shown: bool = True) -> Exported:
    """Write the pages of an SAE, or of a folder of them, as files.

    Latents need an index (`saekit index`); an SAE without one is listed with its scores alone.
    What only a server can do, as trying a text, is not there. Labels go with it; the names of
    folders above the one exported do not.

    Args:
        place: the folder of an SAE, or one with SAEs below it.
        out: the folder to make; one that holds a site is replaced.
        shown: show progress on stderr.

    Raises:
        FormatError: there is no such folder, or an index is damaged.
        ConfigError: there is no SAE in it, or the place is in use.
        ResourceError: the disk is full.
    """
    folder = Path(place)
    library = Library(folder)
    labels = Labels(place_for(library.folder, read_only=True), read_only=True)
    try:
        views = Views(library, labels)
        if not library.scan().saes:
            raise ConfigError(
                f"There is no SAE in {folder}. Name the folder of a run, or one with runs below it."
            )
        out = Path(out)
        with made_whole(out, "saekit export site", replaces=_is_site) as part:
            site = _Site(part)
            saes, without = _data(site, views, shown=shown)
            _pages(site, library.folder.name)
            record = {"format": FORMAT, "version": VERSION, "saekit": version()}
            sizes = {"saes": saes, "without_latents": without, "bytes": site.parts}
            write_json(part / SITE, record | sizes)
        return Exported(
            folder=out,
            saes=saes,
            without=without,
            parts=site.parts,
            from_disk=site.whole is not None,
        )
    finally:
        labels.close()


def _is_site(folder: Path) -> bool:
    return (folder / SITE).is_file()


def _public(value: Any, folder: Path) -> Any:
    """Return a value without the places of this machine.

    The folder that is exported is its name, alone and in paths, one in the user's folder with
    `~`, and a whole text that is another path of this machine is its last part.
    """
    if isinstance(value, dict):
        return {key: _public(one, folder) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_public(one, folder) for one in value]
    if not isinstance(value, str):
        return value
    own = rf"(?<![\w.-]){re.escape(str(folder))}(?![\w-]|[.]\w)"
    text = re.sub(own, lambda _: folder.name, value)
    text = text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")
    with contextlib.suppress(OSError, ValueError):  # of a text that is no path
        if text.startswith(os.sep) and Path(text).exists():
            return Path(text).name
    return text


def _data(site: _Site, views: Views, *, shown: bool) -> tuple[dict[str, int], dict[str, str]]:
    """Write everything that the pages read; return latents by SAE, and which have none and why."""
    entries, folder = views.library.scan().saes, views.library.folder
    states = {name: entry.state() for name, entry in entries.items()}
    saes: dict[str, int] = {}
    without = {name: s.reason for name, s in states.items() if s.state != "ok"}
    library = site.json("data/library.json", _public(views.all(), folder))
    held: dict[str, Any] = {"saes": {}, "runs": {}, "studies": {}}
    total = sum(views.index(entries[n]).d_sae for n in entries if n not in without)
    bar = Progress("export", total, "latents", shown=shown)
    for name in entries:
        overview = _public(views.sae(name), folder)
        one = {"overview": site.json(f"data/{name}/overview.json", overview)}
        if name not in without:
            names = [column["name"] for column in overview["columns"]]
            one["columns"] = site.json(
                f"data/{name}/columns.json", _columns(views, name, names), "columns"
            )
            one |= _latents(site, views, name, bar)
            saes[name] = views.index(entries[name]).d_sae
        held["saes"][name] = one
    bar.close()
    for kind, found in (("runs", _runs(views)), ("studies", _studies(views))):
        for name, value in found:
            held[kind][name] = site.json(f"data/{kind}/{name}.json", _public(value, folder))
    if site.whole is not None:
        site.whole = {"version": version(), "library": library, **held}
    return saes, without


def _columns(views: Views, name: str, names: list[str]) -> dict[str, Any]:
    """Return every column of an SAE."""
    found: dict[str, list[Any]] = {"names": [], "values": []}
    for first in range(0, len(names), MOST_NAMES):
        some = views.columns(name, names[first : first + MOST_NAMES])
        found["names"] += some["names"]
        found["values"] += some["values"]
    return found


def _latents(site: _Site, views: Views, name: str, bar: Progress) -> dict[str, Any]:
    """Write every latent of an SAE packed, with its index; return them for data.js."""
    d_sae = views.index(views.library.sae(name)).d_sae
    offsets, records = [0], {}
    path, folder = site.folder / "data" / name / "latents.bin", views.library.folder
    with path.open("xb") as file:
        for latent in range(d_sae):
            record = cut(views.latent(name, latent))
            found = {n: _shown(panel, folder) for n, panel in record["panels"].items()}
            record |= {"panels": {n: panel for n, panel in found.items() if panel["blocks"]}}
            data = _json(record)
            packed = _deflated(data)
            file.write(packed)
            offsets.append(offsets[-1] + len(packed))
            if site.hold(record, len(data)) is not None:
                records[str(latent)] = record
            bar.add(1)
    site.parts["latents"] = site.parts.get("latents", 0) + offsets[-1]
    head = {"format": "saekit.latents", "version": VERSION, "encoding": "deflate-raw"}
    site.json(f"data/{name}/latents.idx.json", head | {"offsets": offsets}, "latents")
    return {"records": records}


def cut(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a latent with less text around the peaks of its examples.

    Strings that are left without a token go, and the others are numbered anew.
    """
    place: dict[int, int] = {}

    def number(old: int) -> int:
        return place.setdefault(old, len(place))

    def near(one: dict[str, Any]) -> dict[str, Any]:
        peak = one["peak"] if one["peak"] is not None else one.get("token", 0)
        first = max(peak - AROUND[0], 0)
        end = min(peak + AROUND[1] + 1, len(one["tokens"]))
        on = [(at, a) for at, a in zip(one["at"], one["acts"], strict=True) if first <= at < end]
        moved = {key: one[key] - first for key in ("peak", "token") if one.get(key) is not None}
        return (
            one
            | moved
            | {
                "tokens": [number(t) for t in one["tokens"][first:end]],
                "at": [at - first for at, _ in on],
                "acts": [act for _, act in on],
                "start": one["start"] + first,
            }
        )

    examples = {band: [near(one) for one in some] for band, some in record["examples"].items()}
    found = record | {"examples": examples}
    if record["logits"] is not None:
        sides = {
            side: [[number(t), *rest] for t, *rest in record["logits"][side]]
            for side in ("promoted", "suppressed")
        }
        found["logits"] = record["logits"] | sides
    on = [[number(t), *rest] for t, *rest in record["tokens"]["on"]]
    found["tokens"] = record["tokens"] | {"on": on}
    found["strings"] = [record["strings"][old] for old in place]
    return found


def _shown(panel: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a panel as others see it.

    What could be made is left out: a reader of files can run no command. Texts of tokens stay as
    they are, whatever they look like.
    """
    kept = [block for block in panel["blocks"] if block["kind"] != "missing"]
    said = [_public(block, folder) if block["kind"] == "text" else block for block in kept]
    return panel | {"blocks": said}


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _runs(views: Views) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in views.library.scan().runs:
        yield name, views.run(name)


def _studies(views: Views) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in views.studies():
        yield one["id"], views.study(one["id"])


def _pages(site: _Site, title: str) -> None:
    """Write the pages, and the data as a script where that is small enough for a disk."""
    from html import escape

    page = PAGE.format(policy=escape(POLICY), title=escape(f"{title}: saekit"))
    written = {
        "index.html": page,
        "boot.js": BOOT,
        "app.js": bundled(SCRIPT),
        "app.css": web_file(STYLE),
    }
    for name, text in written.items():
        site.write(name, text.encode("utf-8", "backslashreplace"), "pages")
    if site.whole is not None:
        data = b"window.SAEKIT_DATA = " + _json(site.whole) + b";\n"
        if len(data) <= DATA_JS_BYTES:
            site.write("data.js", data, "data.js")
        else:
            site.whole = None
