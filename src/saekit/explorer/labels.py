"""Labels, lists, notes and saved views: what a reader wrote, in one SQLite file.

They belong to the weights of an SAE, not to its folder: a run that was moved, or that lies in two
places, has one set of labels. Each has a version, so that of two who edit one the second is told.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from saekit.core.errors import FormatError, ResourceError
from saekit.explorer.problems import Problem

FORMAT, VERSION = "saekit.labels", 1
FOLDER, FILE = ".saekit", "explorer.db"
TEXT_CHARS, NOTE_CHARS, NAME_CHARS, ADDRESS_CHARS = 500, 10_000, 200, 50_000
MOST_ITEMS = 10_000  # of a list
ASKED, SEALED = "--read-only", "the folder"  # why nothing may be changed

_TABLES = """
CREATE TABLE IF NOT EXISTS labels (
    weights TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT NOT NULL, note TEXT NOT NULL,
    by TEXT NOT NULL, time TEXT NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (weights, latent)
);
CREATE TABLE IF NOT EXISTS lists (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, note TEXT NOT NULL,
    time TEXT NOT NULL, version INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS items (
    list INTEGER NOT NULL REFERENCES lists(id) ON DELETE CASCADE, place INTEGER NOT NULL,
    weights TEXT NOT NULL, latent INTEGER NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (list, place)
);
CREATE TABLE IF NOT EXISTS views (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, address TEXT NOT NULL,
    time TEXT NOT NULL
);
"""


class Label(NamedTuple):
    """What a reader called a latent.

    Attributes:
        text: the label, a line.
        note: more about it; "": no more.
        by: who wrote it; "": not said.
        time: when, UTC.
        version: raised by every change.
    """

    text: str
    note: str
    by: str
    time: str
    version: int

    @property
    def tag(self) -> str:
        """What `ETag` and `If-Match` say of it."""
        return f'"{self.version}"'


def place_for(folder: Path, *, read_only: bool = False) -> Path:
    """Return where the file of a folder is: in it, or where it cannot be written the user's own.

    Args:
        folder: that is served.
        read_only: nothing is written; a file that is in the folder is read.
    """
    own = folder / FOLDER / FILE
    if own.is_file() or (os.access(folder, os.W_OK) and not read_only):
        return own
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "saekit" / FILE


class Labels:
    """The file of labels, lists, notes and saved views.

    One that is there and cannot be written is read, and every change refused.

    Args:
        path: of the file; made where there is none.
        read_only: refuse every change, and make no file.

    Raises:
        ResourceError: it cannot be made.
        FormatError: it is no such file.
    """

    def __init__(self, path: Path, *, read_only: bool = False):
        self.path, self.why = path, ASKED if read_only else ""
        if not read_only and path.is_file() and not _writable(path):
            self.why = SEALED
        self._lock = threading.Lock()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if not self.read_only:
            _make(path)
        try:
            self._db = self._opened()
            self._db.execute("PRAGMA foreign_keys = ON")
            if not self.read_only:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.executescript(_TABLES)
            self._db.execute("SELECT 1 FROM labels LIMIT 1")
            known = self._db.execute("SELECT name FROM sqlite_master WHERE name = 'views'")
            self._has_views = known.fetchone() is not None  # a file of before has none
        except sqlite3.DatabaseError as error:
            raise FormatError(_no_file(path, error)) from error

    @staticmethod
    def opened(path: Path, *, read_only: bool = False) -> "Labels":
        """Return the labels in a file; where it is damaged none, read-only, and `why` tells.

        Raises:
            ResourceError: it cannot be made.
        """
        try:
            return Labels(path, read_only=read_only)
        except FormatError as error:
            found = Labels(Path(os.devnull), read_only=True)
            found.why = str(error)
            return found

    @property
    def read_only(self) -> bool:
        """Whether every change is refused."""
        return bool(self.why)

    def _opened(self) -> sqlite3.Connection:
        """Return a connection to the file, or where it is to be read alone and is not there, empty.

        What the last writer left beside the file (its WAL) belongs to it, and cannot be taken in
        where the folder cannot be written: then both are copied first.
        """
        where = str(self.path)
        if not self.read_only:
            return sqlite3.connect(where, check_same_thread=False, timeout=5.0)
        if not self.path.is_file():
            made = sqlite3.connect(":memory:", check_same_thread=False)
            made.executescript(_TABLES)
            return made
        mode = "mode=ro"
        if not os.access(self.path.parent, os.W_OK):
            mode = "mode=ro&immutable=1"
            wal = self.path.with_name(f"{self.path.name}-wal")
            if wal.is_file() and wal.stat().st_size:
                self._copy = tempfile.TemporaryDirectory(prefix="saekit-labels-")
                place = Path(self._copy.name)
                for one in (self.path, wal):
                    shutil.copyfile(one, place / one.name)
                return sqlite3.connect(str(place / self.path.name), check_same_thread=False)
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        return sqlite3.connect(uri, check_same_thread=False, uri=True, timeout=5.0)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
        if self._copy is not None:
            self._copy.cleanup()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A context of one change, kept whole or not at all.

        Raises:
            Problem: nothing may be changed.
        """
        if self.why == ASKED:
            raise Problem(403, "The server was started read-only.", "Start it without --read-only.")
        if self.why == SEALED:
            said = f"Labels and lists are read-only: {self.path} cannot be written."
            raise Problem(403, said, "Make it and its folder writable, and start the server again.")
        if self.why:
            raise Problem(403, f"Labels and lists are read-only: {self.why}")
        with self._lock:
            try:
                with self._db:
                    yield self._db
            except sqlite3.OperationalError as error:
                raise Problem(
                    503, f"The file of labels cannot be written now ({error}): {self.path}."
                ) from error

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:  # the pages stand without labels, and say why
                self.why = _no_file(self.path, error)
                return []

    def get(self, weights: str, latent: int) -> Label | None:
        """Return the label of a latent; None: it has none."""
        found = self._rows(
            "SELECT text, note, by, time, version FROM labels WHERE weights = ? AND latent = ?",
            (weights, latent),
        )
        return Label(*found[0]) if found else None

    def all_of(self, weights: str) -> dict[int, str]:
        """Return the labels of the latents of an SAE."""
        found = self._rows("SELECT latent, text FROM labels WHERE weights = ?", (weights,))
        return {int(latent): str(text) for latent, text in found}

    def counts(self) -> dict[str, int]:
        """Return how many latents of each SAE have a label."""
        found = self._rows("SELECT weights, COUNT(*) FROM labels GROUP BY weights")
        return {str(weights): int(n) for weights, n in found}

    def put(  # noqa: PLR0913 - the words of a label, and of the one it replaces
        self,
        weights: str,
        latent: int,
        text: str,
        *,
        note: str = "",
        by: str = "",
        match: str | None = None,
    ) -> Label:
        """Write a label.

        Args:
            weights: digest of the SAE's.
            latent: its number.
            text: the label.
            note: more about it.
            by: who writes it.
            match: `Label.tag` of the label that is replaced, or "*" for any; None: there is none.

        Raises:
            Problem: there is another label than was said, or nothing may be changed.
        """
        with self._changing() as db:
            now = self._current(db, weights, latent)
            _check_match(now, match)
            label = Label(text, note, by, _now(), now.version + 1 if now else 1)
            db.execute(
                "INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)",
                (weights, latent, *label),
            )
        return label

    def remove(self, weights: str, latent: int, match: str | None = None) -> None:
        """Remove a label.

        Raises:
            Problem: there is none, it is another than was said, or nothing may be changed.
        """
        with self._changing() as db:
            now = self._current(db, weights, latent)
            if now is None:
                raise Problem(404, f"Latent {latent} has no label.")
            if match is not None:
                _check_match(now, match)
            db.execute("DELETE FROM labels WHERE weights = ? AND latent = ?", (weights, latent))

    def _current(self, db: sqlite3.Connection, weights: str, latent: int) -> Label | None:
        found = db.execute(
            "SELECT text, note, by, time, version FROM labels WHERE weights = ? AND latent = ?",
            (weights, latent),
        ).fetchone()
        return Label(*found) if found else None

    def lists(self) -> list[dict[str, Any]]:
        """Return every list, without what is in it."""
        found = self._rows(
            "SELECT id, name, lists.note, time, version, COUNT(items.list) FROM lists "
            "LEFT JOIN items ON items.list = lists.id GROUP BY id ORDER BY id"
        )
        names = ("id", "name", "note", "time", "version", "n")
        return [dict(zip(names, row, strict=True)) for row in found]

    def get_list(self, number: int) -> dict[str, Any]:
        """Return a list with the latents in it.

        Raises:
            Problem: there is no such list.
        """
        found = next((one for one in self.lists() if one["id"] == number), None)
        if found is None:
            raise Problem(404, f"There is no list {number}.")
        items = self._rows(
            "SELECT weights, latent, note FROM items WHERE list = ? ORDER BY place", (number,)
        )
        names = ("weights", "latent", "note")
        return found | {"items": [dict(zip(names, row, strict=True)) for row in items]}

    def make_list(
        self, name: str, note: str = "", items: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Make a list and return it.

        Args:
            name: what it is called.
            note: more about it.
            items: latents in order: ``weights``, ``latent``, ``note`` of each.
        """
        with self._changing() as db:
            number = _new_list(db, name, note, items or [])
        return self.get_list(number)

    def change_list(
        self, number: int, changes: Mapping[str, Any], match: str | None = None
    ) -> dict[str, Any]:
        """Change a list and return it.

        Args:
            number: which.
            changes: any of ``name``, ``note``, ``items``.
            match: version of the list that is changed, as in `put`; None: whichever it is.

        Raises:
            Problem: there is no such list, or it was changed meanwhile.
        """
        with self._changing() as db:
            row = db.execute(
                "SELECT name, note, version FROM lists WHERE id = ?", (number,)
            ).fetchone()
            if row is None:
                raise Problem(404, f"There is no list {number}.")
            if match not in (None, "*", f'"{row[2]}"'):
                raise Problem(412, "The list was changed meanwhile.", "Load it again.")
            db.execute(
                "UPDATE lists SET name = ?, note = ?, time = ?, version = ? WHERE id = ?",
                (
                    changes.get("name", row[0]),
                    changes.get("note", row[1]),
                    _now(),
                    row[2] + 1,
                    number,
                ),
            )
            if "items" in changes:
                db.execute("DELETE FROM items WHERE list = ?", (number,))
                _write_items(db, number, changes["items"])
        return self.get_list(number)

    def remove_list(self, number: int) -> None:
        """Remove a list.

        Raises:
            Problem: there is no such list.
        """
        with self._changing() as db:
            gone = db.execute("DELETE FROM lists WHERE id = ?", (number,)).rowcount
            if not gone:
                raise Problem(404, f"There is no list {number}.")

    def views(self) -> list[dict[str, Any]]:
        """Return the saved views, the first one saved first."""
        if not self._has_views:
            return []
        names = ("id", "name", "address", "time")
        rows = self._rows("SELECT id, name, address, time FROM views ORDER BY id")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def save_view(self, name: str, address: str) -> dict[str, Any]:
        """Keep the address of a page under a name, and return it.

        Args:
            name: what it is called.
            address: of the page, with its state: ``#/...``.
        """
        with self._changing() as db:
            made = db.execute(
                "INSERT INTO views (name, address, time) VALUES (?, ?, ?)", (name, address, _now())
            )
        return self._view(int(made.lastrowid or 0))

    def rename_view(self, number: int, name: str) -> dict[str, Any]:
        """Call a saved view something else, and return it.

        Raises:
            Problem: there is no such view.
        """
        with self._changing() as db:
            db.execute("UPDATE views SET name = ? WHERE id = ?", (name, number))
        return self._view(number)

    def remove_view(self, number: int) -> None:
        """Remove a saved view.

        Raises:
            Problem: there is no such view.
        """
        with self._changing() as db:
            if not db.execute("DELETE FROM views WHERE id = ?", (number,)).rowcount:
                raise Problem(404, f"There is no saved view {number}.")

    def _view(self, number: int) -> dict[str, Any]:
        found = next((one for one in self.views() if one["id"] == number), None)
        if found is None:
            raise Problem(404, f"There is no saved view {number}.")
        return found

    def export(self) -> dict[str, Any]:
        """Return all labels, notes, lists and saved views, JSON-ready, as `restore` takes them."""
        rows = self._rows(
            "SELECT weights, latent, text, note, by, time FROM labels ORDER BY weights, latent"
        )
        names = ("weights", "latent", "text", "note", "by", "time")
        lists = [self.get_list(one["id"]) for one in self.lists()]
        return {
            "format": FORMAT,
            "version": VERSION,
            "labels": [dict(zip(names, row, strict=True)) for row in rows],
            "lists": [{k: one[k] for k in ("name", "note", "items")} for one in lists],
            "views": [{k: one[k] for k in ("name", "address")} for one in self.views()],
        }

    def restore(self, made: Mapping[str, Any], *, replace: bool = False) -> dict[str, int]:
        """Take what `export` gave; return how much of it came in.

        A list or a view that is here already, the same in all its parts, is not taken twice.

        Args:
            made: what `export` gave, checked.
            replace: put labels in the place of those that are here; otherwise those stay.
        """
        own = [self.get_list(one["id"]) for one in self.lists()]
        known = [{k: one[k] for k in ("name", "note", "items")} for one in own]
        lists = [one for one in made.get("lists", []) if one not in known]
        saved = [(one["name"], one["address"]) for one in self.views()]
        views = [(one["name"], one["address"]) for one in made.get("views", [])]
        views = [one for one in views if one not in saved]
        word = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
        n = 0
        with self._changing() as db:
            for one in made["labels"]:
                now = self._current(db, one["weights"], one["latent"])
                done = db.execute(
                    f"{word} INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - two words
                    (
                        one["weights"],
                        one["latent"],
                        one["text"],
                        one.get("note", ""),
                        one.get("by", ""),
                        one.get("time") or _now(),
                        now.version + 1 if now else 1,
                    ),
                )
                n += done.rowcount
            for one in lists:
                _new_list(db, one["name"], one.get("note", ""), one.get("items", []))
            rows = [(name, address, _now()) for name, address in views]
            db.executemany("INSERT INTO views (name, address, time) VALUES (?, ?, ?)", rows)
        kept = len(made["labels"]) - n
        return {"labels": n, "kept": kept, "lists": len(lists), "views": len(views)}


def _no_file(path: Path, error: Exception) -> str:
    return (
        f"{path} is no file of labels ({error}). Move it away; export it first from the machine "
        f"where it works, if there is one."
    )


def _writable(path: Path) -> bool:
    """Tell whether a file can be changed: SQLite writes others next to it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _make(path: Path) -> None:
    """Make the folder and the file, readable by the user alone.

    Raises:
        ResourceError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.is_symlink() or path.parent.is_symlink():
            raise FormatError(f"{path} is a link; labels are kept in an ordinary file.")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
    except OSError as error:
        raise ResourceError(
            f"The labels cannot be kept in {path}: {error.strerror or error}. Serve the folder "
            f"with --read-only, or make it writable."
        ) from error


def _new_list(db: sqlite3.Connection, name: str, note: str, items: list[dict[str, Any]]) -> int:
    made = db.execute(
        "INSERT INTO lists (name, note, time, version) VALUES (?, ?, ?, 1)", (name, note, _now())
    )
    number = int(made.lastrowid or 0)
    _write_items(db, number, items)
    return number


def _write_items(db: sqlite3.Connection, number: int, items: list[dict[str, Any]]) -> None:
    if len(items) > MOST_ITEMS:
        raise Problem(400, f"A list has at most {MOST_ITEMS:,} latents; got {len(items):,}.")
    rows = [
        (number, place, one["weights"], one["latent"], one.get("note", ""))
        for place, one in enumerate(items)
    ]
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)


def _check_match(now: Label | None, match: str | None) -> None:
    if match is None and now is not None:
        raise Problem(
            409,
            f"The latent has the label {now.text!r} already.",
            f"Send the header If-Match: {now.tag} to replace it.",
        )
    if match not in (None, "*") and (now is None or match != now.tag):
        raise Problem(412, "The label was changed meanwhile.", "Load it again, then change it.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
