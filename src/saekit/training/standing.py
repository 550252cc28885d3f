"""How the run in a folder stands. Read by pages, so nothing here takes time to import."""

from pathlib import Path

from saekit.core import lock
from saekit.core.errors import FormatError
from saekit.core.files import read_object

MANIFEST = "manifest.json"
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"


def status(out: Path) -> str:
    """Return how the run in a folder stands: running, done, failed, interrupted or killed."""
    found = read_object(out / MANIFEST).get("status")
    if not isinstance(found, str):
        raise FormatError(f"{out / MANIFEST} must say `status`; got {found!r:.80}.")
    # Who is running holds the folder; a run of a sweep is held by the sweep.
    return "killed" if found == RUNNING and lock.holder(out) is None else found


def is_done(out: Path) -> bool:
    """Return whether the run in a folder ended well."""
    return (out / MANIFEST).exists() and read_object(out / MANIFEST).get("status") == DONE
