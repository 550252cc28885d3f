"""Views: what the pages are told, read from files, the same for the server and a static folder."""

import base64
import contextlib
import functools
import hashlib
import hmac
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from saekit.analysis import side_tables
from saekit.analysis.index_folder import Index
from saekit.core.border import reading
from saekit.core.errors import FormatError, SaekitError
from saekit.core.files import read_object
from saekit.core.held import Held
from saekit.core.result import Result
from saekit.explorer.labels import ASKED, SEALED, Labels
from saekit.explorer.library import (
    FRESH_SECONDS,
    Entry,
    IndexState,
    Library,
    fingerprint_of,
    manifest_of,
    own,
)
from saekit.explorer.problems import Problem, to_json
from saekit.report import payload
from saekit.report.overview import facts_of, notes_in, overview, part, score_records, verdict
from saekit.report.pages import base as pages
from saekit.report.panels import base as panels
from saekit.training import standing

OPEN_BYTES = 2**27  # of indexes that are held open
RECORD_BYTES = 2**25  # of records of latents, as JSON
MOST_ROWS, USUAL_ROWS = 500, 50
MOST_NAMES = 64
TAIL_BYTES = 2**16  # of a log, in which its last step is
NEURONPEDIA = "https://www.neuronpedia.org/"
ALONE = "Only the index of an SAE is here. An evaluation belongs into the SAE's folder: serve that."
SHOWN = 4  # significant digits of numbers in tables


class Views:
    """What there is to see of the SAEs, runs and studies of a folder.

    Args:
        library: the scan of the folder.
        labels: what readers wrote.
    """

    def __init__(self, library: Library, labels: Labels):
        self.library, self.labels = library, labels
        self._open: OrderedDict[tuple[Any, ...], Index] = OrderedDict()
        self._keys: WeakKeyDictionary[Index, tuple[Any, ...]] = WeakKeyDictionary()
        self._records = Held(RECORD_BYTES)
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._key = secrets.token_bytes(32)

    # ------------------------------------------------------------------------------ the library

    def all(self) -> dict[str, Any]:
        """Return cards of every SAE, and lines on runs and studies."""
        scan = self.library.scan(older_than=FRESH_SECONDS)
        counts, notes = self.labels.counts(), list(scan.notes)
        if self.labels.why not in ("", ASKED, SEALED):
            notes.append(f"There are no labels: {self.labels.why}")
        listed, seen = [], set()
        for entry in scan.saes.values():
            if entry.family not in seen:  # an SAE of several sites is one card
                seen.add(entry.family)
                listed.append(self._shown(entry))
        return {
            "saes": [self.card(entry, counts) for entry in listed],
            "runs": [
                run_line(name, folder) | {"title": self._path(folder)}
                for name, folder in scan.runs.items()
            ],
            "studies": self.studies(notes),
            "notes": notes,
        }

    def _shown(self, entry: Entry) -> Entry:
        """Return the site of an SAE that stands for it: the first one with an index."""
        saes = self.library.scan().saes
        sites = [saes[name] for name in entry.family if name in saes]
        return next((one for one in sites if one.state().state == "ok"), entry)

    def card(
        self,
        entry: Entry,
        counts: Mapping[str, int] | None = None,
        scores: Sequence[Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Return what a list of SAEs says of one.

        Args:
            entry: the SAE.
            counts: of labels by weights; None: they are counted.
            scores: records of its scores, where they were just read.
        """
        state = entry.state()
        known = self._scores(entry).values() if scores is None else scores
        headline = {str(one["name"]): one for one in known if one["headline"]}
        key = self.label_key(entry, state)
        counted = self.labels.counts() if counts is None else counts
        return {
            "id": entry.id,
            "title": entry.title,
            "model": entry.model,
            "site": entry.site,
            "sites": list(entry.sites),
            "architecture": entry.architecture,
            "d_sae": entry.d_sae,
            "scores": headline,
            "index": state.record(),
            "verify": _verdict(entry.folder),
            "labels": counted.get(key, 0) if key else 0,
            "weights": key,
            "run": entry.run,
            "reads_text": entry.usable and not entry.is_synthetic,
            "neuronpedia": _neuronpedia(entry.card),
        }

    def studies(self, notes: list[str] | None = None) -> list[dict[str, Any]]:
        """Return the folders that a study left.

        Args:
            notes: gets a sentence for each file that would tell a study and cannot be read.
        """
        found = []
        for name, folder in self.library.scan().folders.items():
            if (kind := pages.kind_of(folder, notes)) is not None:
                found.append({"id": name, **pages.described(kind, folder, self._path(folder))})
        return found

    def study(self, name: str) -> dict[str, Any]:
        """Return the page of a study.

        Raises:
            Problem: there is none of this id.
        """
        folder = self.library.scan(older_than=FRESH_SECONDS).folders.get(name)
        kind = None if folder is None else pages.kind_of(folder)
        if folder is None or kind is None:
            raise Problem(404, f"There is no study {name[:80]!r} in {self.library.folder}.")
        return {
            "id": name,
            "sae": self._around(folder),
            **pages.payload(kind, folder, self._path(folder)),
        }

    def _path(self, folder: Path) -> str:
        """Return what a reader calls a folder: its path below the one that is served."""
        root = self.library.folder
        return root.name if folder == root else str(folder.relative_to(root))

    def _around(self, folder: Path) -> str | None:
        """Return the SAE in whose folder a study lies, so that its latents are links."""
        saes = self.library.scan().saes.values()
        around = [one for one in saes if one.folder != folder and one.folder in folder.parents]
        return None if not around else self._shown(max(around, key=lambda e: e.folder.parts)).id

    # ----------------------------------------------------------------------------------- an SAE

    def sae(self, name: str) -> dict[str, Any]:
        """Return the overview of an SAE.

        Raises:
            Problem: there is none of this id.
        """
        entry = self.library.sae(name)
        state = entry.state()
        index = self.index(entry, state) if state.state == "ok" else None
        result, why = _measured(_result_file(entry), _eval_command(entry))
        card = entry.card
        here = {"model": entry.model, "site": entry.site, "folder": str(entry.folder)}
        facts = facts_of(card, entry.settings) | here
        found = overview(
            {label: value for label, value in facts.items() if value},
            settings=part(card, "run") or entry.settings,
            made=(_read(entry.folder / "manifest.json") if entry.run else {}) or card,
            result=result,
            index=index,
            evaluate=_eval_command(entry),
        )
        if index is None:
            found["missing"]["latents"] = {"text": state.reason, "command": state.command}
        else:
            found["columns"] = self.columns_of(index)
        if result is None and not entry.usable:
            found["missing"]["scores"]["text"] = ALONE
        notes = [*notes_in(part(card, "provenance")), *why, *found["notes"]]
        siblings = [one for one in entry.family if one != entry.id]
        more = {"card": self.card(entry, scores=found["scores"]), "siblings": siblings}
        return found | more | {"notes": list(dict.fromkeys(notes))}

    def columns_of(self, index: Index) -> list[dict[str, str]]:
        """Return what each column of the table of latents is, the label last."""
        label = {"name": "label", "label": "label", "unit": "", "about": "What a reader called it."}
        return [*payload.columns_of(index), label | {"kind": "text"}]

    def index(self, entry: Entry, state: IndexState | None = None) -> Index:
        """Return the index of an SAE, which stays open.

        Args:
            entry: the SAE.
            state: of its index, where it was looked up just now.

        Raises:
            Problem: there is none, it is damaged, or it is of other weights.
        """
        state = state or entry.state()
        if state.state != "ok":
            status = 404 if state.state == "missing" else 409
            detail = f"The index of {entry.title} cannot be shown: {state.reason}"
            raise Problem(status, detail, state.command)
        try:
            there = (state.folder / "index.json").stat()
        except OSError as error:  # it is being put in place this moment
            raise Problem(404, f"There is no index of {entry.title}.", state.command) from error
        stamp = there.st_mtime_ns, there.st_size, there.st_ino
        key = (str(state.folder), *stamp, side_tables.stamp(state.folder))
        with self._lock:
            if key not in self._open:
                try:
                    self._open[key] = Index(state.folder)
                except SaekitError as error:
                    raise Problem(409, str(error), state.command) from error
                self._keys[self._open[key]] = key
                # What the others have read is known now; they grew since they were opened.
                sizes = {one: index.n_bytes for one, index in self._open.items()}
                n_bytes = sum(sizes.values())
                while n_bytes > OPEN_BYTES and len(self._open) > 1:
                    n_bytes -= sizes[self._open.popitem(last=False)[0]]
            self._open.move_to_end(key)
            return self._open[key]

    def label_key(self, entry: Entry, state: IndexState | None = None) -> str | None:
        """Return what the labels of an SAE are kept under; None: there is no index yet.

        It is the digest of its weights. Sites that share an SAE share its labels, though the
        weights as each of them sees them differ.
        """
        if len(entry.family) > 1 and entry.native:
            return fingerprint_of(entry.folder)
        now = state or entry.state()
        if now.state != "ok":
            return None
        return str(manifest_of(now.folder)["weights"])

    def columns(self, name: str, names: Sequence[str]) -> dict[str, Any]:
        """Return some columns whole, for a drawing of every latent.

        Raises:
            Problem: there is no such SAE or column.
        """
        if len(names) > MOST_NAMES:
            raise Problem(400, f"At most {MOST_NAMES} columns are given at once.")
        entry = self.library.sae(name)
        index = self.index(entry)
        known = self._values(entry, index)
        lacking = [one for one in names if one not in known]
        if lacking:
            raise Problem(
                404, f"There is no column {lacking[0][:40]!r}; there are {', '.join(known)}."
            )
        return {"names": list(names), "values": [_listed(known[one]) for one in names]}

    def _values(self, entry: Entry, index: Index) -> dict[str, Any]:
        """Return every column of an SAE by name, labels among them."""
        written = self.labels.all_of(self.label_key(entry) or "")
        labels = [written.get(i) for i in range(index.d_sae)]
        return {**index.values, "label": labels}

    def latents(
        self, name: str, where: str = "", limit: int = USUAL_ROWS, cursor: str | None = None
    ) -> dict[str, Any]:
        """Return a page of the table of latents, with cursors of the pages beside it.

        Args:
            name: id of the SAE.
            where: a query; see `saekit.analysis.query`.
            limit: rows of the page.
            cursor: what the page before gave; None: the first page.

        Raises:
            Problem: there is no such SAE, the query is not understood, or the cursor is of another.
        """
        from saekit.analysis.query import parse

        entry = self.library.sae(name)
        index = self.index(entry)
        known = self._values(entry, index)
        query = parse(where, known)
        found = query.matches(known, index.d_sae)
        if query.limit is not None:
            found = found[: query.limit]
        # A cursor is of one query over one state of the index: rows do not shift below a reader.
        of = json.dumps([entry.id, where, index.manifest["files"]], sort_keys=True)
        first = 0 if cursor is None else self._place(cursor, of)
        shown = found[first : first + limit]
        names = ["latent", *(n for n in known if n != "latent")]
        columns = [shown.tolist() if n == "latent" else _taken(known[n], shown) for n in names]
        after = first + len(shown)
        end = max(0, len(found) - 1) // limit * limit
        return {
            "total": len(found),
            "columns": names,
            "rows": [list(row) for row in zip(*columns, strict=True)],
            "cursor": self._cursor(after, of) if after < len(found) else None,
            "before": self._cursor(first - limit, of) if first > limit else None,
            "last": self._cursor(end, of) if after < len(found) else None,
        }

    def _cursor(self, place: int, of: str) -> str:
        sign = hmac.digest(self._key, f"{place} {of}".encode(), hashlib.sha256)[:12]
        return base64.urlsafe_b64encode(place.to_bytes(6, "big") + sign).decode().rstrip("=")

    def _place(self, cursor: str, of: str) -> int:
        try:
            raw = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        place = int.from_bytes(raw[:6], "big")
        if not secrets.compare_digest(self._cursor(place, of).encode(), cursor.encode()):
            raise Problem(
                400,
                "The cursor is of another query, or the index was made anew meanwhile.",
                "Ask for the first page again.",
            )
        return place

    def search(self, name: str, text: str, scope: str, limit: int) -> dict[str, Any]:
        """Return the latents that have to do with a text, the best first.

        Raises:
            Problem: there is no such SAE.
            ConfigError: there is nothing to search for.
        """
        from saekit.analysis.searching import search

        index = self.index(self.library.sae(name))
        number = text.strip().removeprefix("#")
        if number.isascii() and number.isdigit() and len(number) < 10:
            wanted = [int(number)] if int(number) < index.d_sae else []
            if text.strip().startswith("#"):
                return {"total": len(wanted), "rows": wanted}
        else:
            wanted = []
        rows = list(dict.fromkeys([*wanted, *search(index, text, scope).latents]))
        return {"total": len(rows), "rows": rows[:limit]}

    def previews(self, name: str, latents: Sequence[int]) -> dict[str, Any]:
        """Return the tokens that latents are strongest on, and those that they promote most.

        Raises:
            Problem: there is no such SAE or latent, or they are too many.
        """
        if len(latents) > MOST_ROWS:
            raise Problem(400, f"At most {MOST_ROWS} latents are previewed at once.")
        index = self.index(self.library.sae(name))
        others = {band: 0 for band in index.bands if band != "top"}
        found: dict[str, Any] = {"peaks": [], "promotes": []}
        for latent in latents:
            check_latent(index, latent)
            record = index.record(latent, others)
            peaks = [one["tokens"][one["peak"]] for one in record["examples"].get("top", [])]
            promoted = [token for token, _ in (record["logits"] or {}).get("promoted", [])]
            for key, tokens, most in (("peaks", peaks, 5), ("promotes", promoted, 4)):
                kept = list(dict.fromkeys(tokens))[:most]
                found[key].append([record["strings"][token] for token in kept])
        return found

    # --------------------------------------------------------------------------------- a latent

    def latent(self, name: str, latent: int) -> dict[str, Any]:
        """Return all that is known of one latent.

        Raises:
            Problem: there is no such SAE or latent.
        """
        index, more = self._of_latent(name, latent)
        return index.record(latent) | more

    def latent_answer(self, name: str, latent: int) -> tuple[str, Callable[[], bytes]]:
        """Return what tells the state of a latent from others, and what makes it as JSON.

        A reader who has that state needs no more. The part that the index keeps is held as bytes:
        a table shows the latents of its rows, of which some are then opened.

        Raises:
            Problem: there is no such SAE or latent.
        """
        index, more = self._of_latent(name, latent)
        key = (*self._keys[index], latent)
        said = to_json(more)
        tag = hashlib.sha256(repr((key, version())).encode("utf-8", "replace") + said).hexdigest()

        def body() -> bytes:
            with self._turn:  # one after another: side by side all would be done at the end alone
                if (record := self._records.get(key)) is None:
                    record = to_json(index.record(latent))
                    self._records.put(key, record, len(record))
            return record[:-1] + b"," + said[1:]

        return f'"{tag[:24]}"', body

    def _of_latent(self, name: str, latent: int) -> tuple[Index, dict[str, Any]]:
        """Return the index of a latent, and what is known of it beyond that."""
        entry = self.library.sae(name)
        state = entry.state()
        index = self.index(entry, state)
        check_latent(index, latent)
        label = self.labels.get(self.label_key(entry, state) or "", latent)
        links = {}
        if page := _neuronpedia(entry.card):
            links["neuronpedia"] = f"{page}/{latent}"
        return index, {
            "label": None if label is None else label._asdict(),
            "previous": latent - 1 if latent else None,
            "next": latent + 1 if latent + 1 < index.d_sae else None,
            "links": links,
            "panels": panels.every(entry.folder, index, latent),
        }

    # ------------------------------------------------------------------------------------- runs

    def run(self, name: str) -> dict[str, Any]:
        """Return how a run stands, its curves and its checkpoints.

        Raises:
            Problem: there is none of this id.
        """
        folder = self.library.run(name)
        line = run_line(name, folder) | {"title": self._path(folder)}
        command = f"saekit train --resume {folder}"
        saes, curves, notes = self.library.scan().saes, None, []
        if own(log := folder / "log.jsonl"):
            try:
                with reading(log, "the log of a run"):
                    curves = payload.curves(log)
            except SaekitError as error:
                notes = [str(error)]
        return line | {
            "settings": _settings(folder),
            "curves": curves,
            "notes": notes,
            "checkpoints": _checkpoints(folder),
            "command": None if line["status"] == standing.DONE else command,
            "sae": next((one.id for one in saes.values() if one.run == name), None),
        }

    # ----------------------------------------------------------------------------------- scores

    def _scores(self, entry: Entry) -> dict[str, dict[str, Any]]:
        path = _result_file(entry)
        if not own(path):
            return {}
        there = path.stat()
        return _scores_in(path, _eval_command(entry), there.st_mtime_ns, there.st_size)


def check_latent(index: Index, latent: int) -> None:
    """Refuse a number that no latent of an index has.

    Raises:
        Problem: it is out of range.
    """
    if not 0 <= latent < index.d_sae:
        raise Problem(
            404, f"There is no latent {latent}; this SAE has latents 0..{index.d_sae - 1}."
        )


def run_line(name: str, folder: Path) -> dict[str, Any]:
    """Return how a run stands, in a line: status, share of its tokens, steps."""
    try:
        status = standing.status(folder)
    except SaekitError:
        status = "damaged"
    step = _last_step(folder / "log.jsonl")
    settings = _settings(folder)
    try:
        total = int(settings["tokens"]) * int(settings.get("epochs", 1))
        fraction = min(1.0, float(step["tokens"]) / total) if step and total else None
    except (KeyError, TypeError, ValueError):
        fraction = None
    if status == standing.DONE:
        fraction = 1.0
    steps = step.get("step") if step else None
    return {"id": name, "title": name, "status": status, "fraction": fraction, "steps": steps}


def _last_step(path: Path) -> dict[str, Any] | None:
    """Return the last step of a log; None: there is none."""
    if not own(path):
        return None
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):  # cut, by us or by a writer that was killed
            continue
        if isinstance(found, dict) and found.get("kind") == "step":
            return found
    return None


def _settings(folder: Path) -> dict[str, Any]:
    return _read(folder / ("run.json" if own(folder / "run.json") else "fit.json"))


def _checkpoints(folder: Path) -> list[dict[str, Any]]:
    found = []
    place = folder / "checkpoints"
    if place.is_symlink() or not place.is_dir():
        return []
    for one in sorted(place.iterdir()):
        if not own(one / "checkpoint.json"):
            continue
        step = one.name.removeprefix("step-")
        size = sum(p.stat().st_size for p in one.iterdir() if p.is_file())
        found.append(
            {"name": one.name, "step": int(step) if step.isdigit() else None, "bytes": size}
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a file of a folder; empty where there is none that can be read."""
    with contextlib.suppress(FormatError):
        return read_object(path) if own(path) else {}
    return {}


def _measured(path: Path, command: str) -> tuple[Result | None, list[str]]:
    """Return a result, and why there is none where a file cannot be read.

    Args:
        path: of the result.
        command: that makes it.
    """
    if not own(path):
        return None, []
    try:
        with reading(path, "a result"):
            return Result.read(path), []
    except SaekitError as error:
        said = f"There are no scores, for a file cannot be read: {error} Make it again: {command}"
        return None, [said]


@functools.lru_cache(maxsize=256)
def _scores_in(path: Path, command: str, *stamp: int) -> dict[str, dict[str, Any]]:
    result, _ = _measured(path, command)  # a note on the page says why there is none
    return {} if result is None else score_records(result, command)


def _verdict(folder: Path) -> dict[str, Any] | None:
    if not own(path := folder / "eval" / "verify.json"):
        return None
    return verdict(_read(path) or {"status": "damaged"})


def _neuronpedia(card: Mapping[str, Any]) -> str | None:
    """Return the address of the page that a published SAE has at Neuronpedia; None: it has none."""
    published = part(card, "provenance", "published")
    found = published.get("neuronpedia") or published.get("neuronpedia_id")
    safe = isinstance(found, str) and all(c.isalnum() or c in "-_./" for c in found)
    return NEURONPEDIA + str(found) if found and safe else None


def _result_file(entry: Entry) -> Path:
    name = "ground_truth" if entry.is_synthetic else "core"
    return entry.folder / "eval" / f"{name}.json"


def _eval_command(entry: Entry) -> str:
    if entry.is_synthetic:
        return entry.command()  # which measures and indexes
    return f"saekit eval {entry.named}"


def _taken(values: Any, rows: Any) -> list[Any]:
    if hasattr(values, "dtype"):
        return [_number(v) for v in values[rows].tolist()]
    return [values[i] for i in rows.tolist()]


def _listed(values: Any) -> list[Any]:
    return [_number(v) for v in values.tolist()] if hasattr(values, "dtype") else list(values)


def _number(value: float) -> float | int | None:
    if value != value or value in (float("inf"), float("-inf")):
        return None
    if float(value).is_integer() and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.{SHOWN}g}")


@functools.cache
def version() -> str:
    """Return the version of saekit."""
    return metadata.version("saekit")
