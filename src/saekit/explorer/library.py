"""Library: the SAEs, runs and studies in a folder, found by looking at files alone.

No request names a file: it names an id, which is looked up in what the scan found. No link is
followed, so that nothing outside of the folder is ever read.
"""

import contextlib
import functools
import os
import re
import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from saekit.core.errors import FormatError, SaekitError, UnknownNameError
from saekit.core.files import read_object
from saekit.explorer.problems import Problem
from saekit.hub import index_manifest
from saekit.report.overview import architecture_of, latents_of, model_of, part, site_of
from saekit.report.pages.base import kind_of

MOST_FOLDERS, MOST_DEPTH = 20_000, 8
FRESH_SECONDS = 2.0  # a scan is as good as new for this time
MISS_SECONDS = 0.2  # and for this time where an id is asked for that is not in it
LEFT_OUT = frozenset({"checkpoints", "__pycache__", "node_modules", "venv"})
# Files of SAEs that other libraries wrote: what says the settings, and what holds the weights.
SETTINGS = ("cfg.json", "config.json", "hyperparams.json", "lm_config.json")
WEIGHTS = (
    "sae_weights.safetensors",
    "sae.safetensors",
    "ae.pt",
    "params.npz",
    "params.safetensors",
    "model.safetensors",
    "weights.safetensors",
    "sae.pt",
)
# A folder with a language model has files of these names too.
OF_MODELS = frozenset({"tokenizer.json", "tokenizer_config.json", "generation_config.json"})

State = Literal["ok", "missing", "stale", "damaged"]


@dataclass(frozen=True, kw_only=True)
class IndexState:
    """What there is of an index.

    Args:
        state: "ok", "missing", "stale" (of other weights) or "damaged".
        folder: where it is, or would be.
        command: what makes it.
        tokens: that it was made of; None: there is none.
        reason: why it is not "ok"; "": it is.
    """

    state: State
    folder: Path
    command: str
    tokens: int | None = None
    reason: str = ""

    def record(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "state": self.state,
            "tokens": self.tokens,
            "command": self.command,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One SAE, or one site of an SAE that several share.

    Args:
        id: its name in the API.
        title: for a reader.
        folder: of the run or the SAE; what is written of it lies there.
        index: the folder of its index, whether there is one or not.
        site: whose activations it takes; "": its files do not say.
        sites: all sites that share it.
        reads: the site to load it for; None: the one it reads.
        settings: of the architecture, as its files say them.
        card: as its files say it; empty: they have none.
        native: whether its files are saekit's own.
        run: the id of the run it is from.
        family: ids of all sites of the same SAE.
        usable: whether the SAE itself is here, not an index alone.
    """

    id: str
    title: str
    folder: Path
    index: Path
    site: str
    sites: tuple[str, ...] = ()
    reads: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    native: bool = True
    run: str | None = None
    family: tuple[str, ...] = ()
    usable: bool = True

    @property
    def model(self) -> str:
        """The language model as its files name it, for a reader: of a folder its last part."""
        return model_of(self.card) or "unknown"

    @property
    def architecture(self) -> str:
        """The architecture, with the one around which it stands."""
        return architecture_of(self.settings) or "unknown"

    @property
    def d_sae(self) -> int | None:
        """Number of latents, as far as its files say it."""
        return latents_of(self.settings)

    @property
    def is_synthetic(self) -> bool:
        """Whether it was trained on samples of a synthetic model, which have no text."""
        corpus = self.card.get("corpus")
        return isinstance(corpus, dict) and corpus.get("name") == "truth"

    @property
    def named(self) -> str:
        """What a command calls the SAE: its folder; of an index alone, the one it was made of."""
        if self.usable:
            return shlex.quote(str(self.folder))
        made = manifest_of(self.index).get("sae")
        return shlex.quote(str(made)) if made else "RUN"

    def command(self) -> str:
        """Return the command that makes its index."""
        if self.is_synthetic:
            return f"saekit truth eval --truth TRUTH --sae {self.named}"
        return f"saekit index {self.named}"

    def state(self) -> IndexState:
        """Return what there is of its index; whether every byte is right, opening it finds out."""
        common = {"folder": self.index, "command": self.command()}
        manifest_file = self.index / index_manifest.MANIFEST
        if not own(manifest_file) and manifest_file.exists():
            why = "it is a link, and links are not followed"
            return IndexState(state="damaged", **common, reason=why)
        if not index_manifest.is_index(self.index):
            old = (self.index / "manifest.json").is_file()
            if not old:
                return IndexState(state="missing", **common, reason="there is no index yet")
        try:
            manifest = manifest_of(self.index)
        except SaekitError as error:
            return IndexState(state="damaged", **common, reason=str(error))
        tokens = manifest.get("n_tokens")
        if (why := self._other(manifest)) is not None:
            return IndexState(state="stale", **common, tokens=tokens, reason=why)
        return IndexState(state="ok", **common, tokens=tokens)

    def _other(self, manifest: dict[str, Any]) -> str | None:
        """Return why an index is not of this SAE as it is now; None: nothing says so."""
        if not self.usable:
            return None
        made, now = manifest.get("sae_files"), fingerprint_of(self.folder)
        if made is None or now is None or made == now:
            return None
        return f"it was made of other weights than those that are in {self.folder} now"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a folder holds.

    Args:
        saes: by id, in the order in which they are listed.
        aliases: ids that stand for one of them.
        runs: folders of runs, by id.
        notes: what a reader must know of the scan.
        folders: every folder that was looked at, by id, for studies to look into.
    """

    saes: dict[str, Entry]
    aliases: dict[str, str]
    runs: dict[str, Path]
    notes: list[str]
    folders: dict[str, Path]


class Library:
    """The scan of a folder, made again when it is old.

    Args:
        folder: that is served.

    Raises:
        FormatError: there is no such folder.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise FormatError(f"There is no folder {folder}. Name one with runs or SAEs in it.")
        self.folder = folder.resolve()
        self._lock = threading.Lock()
        self._scan: Scan | None = None
        self._when = 0.0

    def scan(self, *, older_than: float | None = None) -> Scan:
        """Return what the folder holds.

        Args:
            older_than: look again where the last scan is older than these seconds; None: where
                there was none.
        """
        with self._lock:
            age = time.monotonic() - self._when
            if self._scan is None or (older_than is not None and age > older_than):
                self._scan = scanned(self.folder)
                self._when = time.monotonic()
            return self._scan

    def sae(self, name: str) -> Entry:
        """Return an SAE by its id.

        Raises:
            Problem: there is none.
        """
        for older_than in (None, MISS_SECONDS):
            found = self.scan(older_than=older_than)
            entry = found.saes.get(found.aliases.get(name, name))
            if entry is not None:
                return entry
        raise Problem(404, f"There is no SAE {name[:80]!r} in {self.folder}.")

    def run(self, name: str) -> Path:
        """Return the folder of a run by its id.

        Raises:
            Problem: there is none.
        """
        for older_than in (None, MISS_SECONDS):
            if (found := self.scan(older_than=older_than).runs.get(name)) is not None:
                return found
        raise Problem(404, f"There is no run {name[:80]!r} in {self.folder}.")


def scanned(folder: Path) -> Scan:
    """Look through a folder and return what it holds."""
    saes: dict[str, Entry] = {}
    aliases: dict[str, str] = {}
    runs: dict[str, Path] = {}
    folders: dict[str, Path] = {}
    notes: list[str] = []
    for n, (place, files) in enumerate(_walk(folder)):
        if n >= MOST_FOLDERS:
            notes.append(
                f"Only the first {MOST_FOLDERS:,} folders were looked at; serve a folder below."
            )
            break
        name = _id(folder, place, folders)
        folders[name] = place
        if "manifest.json" in files and files & {"run.json", "fit.json"} and _is_run(place, files):
            runs[name] = place
        try:
            for entry in _saes_in(place, files, name, folder, name if name in runs else None):
                saes[entry.id] = entry
                aliases.setdefault(name, entry.id)
        except SaekitError as error:
            notes.append(str(error))
    ordered = {one: saes[one] for one in sorted(saes, key=_natural)}
    return Scan(
        saes=ordered,
        aliases={k: v for k, v in aliases.items() if k not in saes},
        runs=dict(sorted(runs.items(), key=lambda one: _natural(one[0]))),
        notes=notes,
        folders=folders,
    )


def _is_run(place: Path, files: set[str]) -> bool:
    """Tell the folder of a training from that of a study, which has files of the same names."""
    return "log.jsonl" in files or own(place / "sae" / "config.json") or kind_of(place) is None


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return what sorts L2 before L10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(p), "") if p.isdecimal() and p.isascii() else (1, 0, p) for p in parts]


def _walk(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield every folder below one, itself first, with the names of its ordinary files."""
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        files, below = set(), []
        try:
            with os.scandir(place) as found:
                for one in found:
                    if one.is_symlink():
                        continue
                    if one.is_file(follow_symlinks=False):
                        files.add(one.name)
                    elif one.is_dir(follow_symlinks=False) and _looked_into(one.name):
                        below.append(Path(one.path))
        except OSError:  # a folder that may not be read, or went away
            continue
        yield place, files
        # What is inside of an SAE's own folders is told by the folder itself.
        inside = {"sae", "index"} if files & {"run.json", "fit.json", "config.json"} else set()
        if depth < MOST_DEPTH:
            waiting += [(p, depth + 1) for p in sorted(below, reverse=True) if p.name not in inside]


def _looked_into(name: str) -> bool:
    return not name.startswith(".") and name not in LEFT_OUT


def _id(folder: Path, place: Path, taken: dict[str, Path]) -> str:
    """Return a name for a folder, one that is in no address anything but itself."""
    parts = place.relative_to(folder).parts or (folder.name or "folder",)
    name = ".".join(parts).encode("utf-8", "replace").decode()
    name = re.sub(r"[\x00-\x1f\x7f/\\~]", "_", name)
    number, found = 2, name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def _saes_in(
    place: Path, files: set[str], name: str, root: Path, run: str | None
) -> Iterator[Entry]:
    """Yield the SAE in a folder, once for each site that shares it."""
    title = str(place.relative_to(root)) if place != root else root.name
    inner = place / "sae"
    if run is not None and own(inner / "config.json") and own(inner / "card.json"):
        yield from _native(inner, place, name, title, run)
    elif {"config.json", "card.json"} <= files:
        yield from _native(place, place, name, title, run)
    elif (found := _foreign(place, files)) is not None:
        yield from _of_card(place, name, title, found, native=False, run=run)
    elif index_manifest.is_index(place) and _is_ours(place):
        yield from _alone(place, name, title)


def _native(sae: Path, place: Path, name: str, title: str, run: str | None) -> Iterator[Entry]:
    config = read_object(sae / "config.json")
    if config.get("format") != "saekit":
        return
    card = read_object(sae / "card.json")
    settings = config.get("sae")
    if not isinstance(settings, dict):
        raise FormatError(f"{sae / 'config.json'} has no settings of an SAE.")
    for kind in ("model", "pair", "provenance", "run"):
        if not isinstance(card.get(kind) or {}, dict):
            raise FormatError(f"{sae / 'card.json'} is damaged: `{kind}` is no object.")
    yield from _of_card(
        place, name, title, {"card": card, "settings": settings}, native=True, run=run
    )


def _of_card(
    place: Path, name: str, title: str, found: dict[str, Any], *, native: bool, run: str | None
) -> Iterator[Entry]:
    card, settings, index = found["card"], found["settings"], place / index_manifest.INSIDE
    pair = part(card, "pair")
    reads = [str(site) for site in pair.get("read") or []]
    common: dict[str, Any] = {
        "folder": place,
        "settings": settings,
        "card": card,
        "native": native,
        "run": run,
    }
    if len(reads) > 1 and pair.get("fold"):
        ids = tuple(f"{name}~{site}" for site in reads)
        for one, site in zip(ids, reads, strict=True):
            yield Entry(
                id=one,
                title=title,
                index=_site_index(index, site),
                site=site,
                sites=tuple(reads),
                reads=site,
                family=ids,
                **common,
            )
        return
    yield Entry(
        id=name,
        title=title,
        index=index,
        site=site_of(card),
        sites=tuple(reads),
        family=(name,),
        **common,
    )


def _site_index(index: Path, site: str) -> Path:
    """Return where the index of one of several sites is: apart, or the only one there is."""
    if index_manifest.is_index(index) and not index_manifest.is_index(index / site):
        with contextlib.suppress(SaekitError):
            if manifest_of(index).get("site") == site:
                return index
    return index / site


def _foreign(place: Path, files: set[str]) -> dict[str, Any] | None:
    """Return what the files of another library say of an SAE; None: there seems to be none."""
    weights = sorted(files & set(WEIGHTS))
    if not weights or files & OF_MODELS:
        return None
    settings = next((name for name in SETTINGS if name in files), None)
    if settings is None and weights != ["params.npz"]:
        return None
    raw: dict[str, Any] = {}
    if settings is not None:
        with contextlib.suppress(SaekitError):
            raw = read_object(place / settings)
    if settings == "config.json" and ("model_type" in raw or "architectures" in raw):
        return None  # of a language model
    flat = raw | {k: v for part in ("trainer", "cfg", "metadata") for k, v in _part(raw, part)}
    site = flat.get("hook_name") or flat.get("hook_point") or flat.get("hookpoint")
    model = flat.get("model_name") or flat.get("lm_name")
    card: dict[str, Any] = {"model": {"name": model or "unknown"}}
    if index_manifest.is_index(place / index_manifest.INSIDE):
        with contextlib.suppress(SaekitError):  # an index says what the files leave out
            made = manifest_of(place / index_manifest.INSIDE)
            return {"card": made.get("card") or card, "settings": {"d_sae": made["d_sae"]} | flat}
    if site:
        card["pair"] = {"read": [str(site)], "write": [], "fold": False}
    known = {"d_sae": flat.get("d_sae") or flat.get("dict_size") or flat.get("num_latents")}
    known["name"] = flat.get("architecture") or flat.get("dict_class") or flat.get("activation")
    return {"card": card, "settings": {k: v for k, v in known.items() if v}}


def _part(raw: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    found = raw.get(name)
    return list(found.items()) if isinstance(found, dict) else []


def _is_ours(place: Path) -> bool:
    try:
        manifest_of(place)
    except SaekitError:
        return False
    return True


def _alone(place: Path, name: str, title: str) -> Iterator[Entry]:
    """Yield an index that lies apart from its SAE."""
    made = manifest_of(place)
    card = made.get("card") or {}
    settings = (card.get("run") or {}).get("sae") or {}
    yield Entry(
        id=name,
        title=title,
        folder=place,
        index=place,
        site=str(made.get("site") or ""),
        sites=tuple((card.get("pair") or {}).get("read") or ()),
        settings={"d_sae": made.get("d_sae"), **settings},
        card=card,
        family=(name,),
        usable=False,
    )


def own(path: Path) -> bool:
    """Tell whether a file is there, and neither it nor a folder on the way to it is a link.

    Args:
        path: below the folder that is served, whose own path has no link in it.
    """
    try:
        return path.is_file() and path.resolve(strict=True) == path
    except (OSError, RuntimeError, ValueError):
        return False


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return the manifest of an index, read again only when it is another.

    Raises:
        FormatError: it is missing, damaged or of an earlier version.
    """
    try:
        there = (folder / index_manifest.MANIFEST).stat()
    except OSError:
        return index_manifest.read_manifest(folder)
    return _manifest(folder, there.st_mtime_ns, there.st_size, there.st_ino)


@functools.lru_cache(maxsize=512)
def _manifest(folder: Path, *stamp: int) -> dict[str, Any]:
    return index_manifest.read_manifest(folder)


def fingerprint_of(folder: Path) -> str | None:
    """Return what tells the files of an SAE apart; None: they cannot be read."""
    from saekit.hub.sae_files import fingerprint

    try:
        return fingerprint(folder)
    except (SaekitError, OSError, UnknownNameError):
        return None
