"""A cache of the model hub, laid by a test as the hub's library lays it."""

import hashlib
import shutil
from pathlib import Path


def lay(cache: Path, repo: str, commit: str, made: Path, branch: str = "main") -> Path:
    """Lay a folder into a cache: blobs named by their content, and links in a snapshot."""
    top = cache / f"models--{repo.replace('/', '--')}"
    snapshot = top / "snapshots" / commit
    for folder in (top / "blobs", top / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(p for p in made.rglob("*") if p.is_file()):
        large = file.suffix not in (".json", ".yaml", ".txt", ".md")
        kind = "sha256" if large else "sha1"
        blob = top / "blobs" / hashlib.new(kind, file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
    (top / "refs" / branch).write_text(commit)
    return snapshot
