"""ReplyCache: replies of all runs, so that the same question is never paid for twice."""

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import final

from saekit.core import parts
from saekit.core.errors import FormatError, ResourceError
from saekit.core.files import cache_folder
from saekit.generators.base import Reply
from saekit.generators.journal import reply_from

FILE = "replies.sqlite"
WAIT_SECONDS = 30


@final
class ReplyCache:
    """Replies by the key of their request, in one SQLite file that runs share.

    Args:
        path: the file; None: ``replies.sqlite`` in saekit's cache folder.
    """

    def __init__(self, path: Path | None = None):
        self.path = path or cache_folder() / FILE

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request, if there is one."""
        if not self.path.exists():
            return None
        with self._open() as db:
            row = db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else reply_from(json.loads(row[0]), self.path)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; one that is there already stays."""
        parts.make_folder(self.path.parent)
        text = json.dumps(dataclasses.asdict(reply))
        with self._open() as db:
            db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, text))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # A connection of its own for each use: threads may ask at once.
        try:
            db = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
            try:
                with db:
                    # SQLite does not wait here while another connection makes the same change. It
                    # stays in the file and is for speed alone; what follows waits its turn.
                    with contextlib.suppress(sqlite3.OperationalError):
                        db.execute("PRAGMA journal_mode = WAL")
                    db.execute(
                        "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)"
                    )
                    yield db
            finally:
                db.close()
        except sqlite3.OperationalError as error:
            raise ResourceError(
                f"The cache of replies {self.path} cannot be used: {error}. Free some space, or "
                f"name another folder in $SAEKIT_CACHE."
            ) from error
        except sqlite3.DatabaseError as error:
            raise FormatError(
                f"{self.path} is damaged: {error}. Delete it; journals of runs keep their replies."
            ) from error
