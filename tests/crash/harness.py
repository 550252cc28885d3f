"""Commands killed at every file operation, gone on with, and compared with one left alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from saekit.models.tiny import save_tiny
from tests import world
from tests.crash.server import KILLED, STUCK

ROOT = Path(__file__).parents[2]
LEFT = re.compile(r"\..*")  # locks, parts, and what a library writes first: none may stay
# Times, speeds, places and the machine differ by nature, and so does the checksum of a record that
# holds them; bench.json is nothing else.
UNLIKE = {"bench.json"}
VOLATILE = {
    "seconds",
    "seal",
    "provenance",
    "folder",
    "cwd",
    "time",
    "memory_bytes",
    "tokens_per_second",
    "command",
    "run",
    "analysis",
}
BITS = (".safetensors", ".npz", ".csv", ".json", ".jsonl", ".txt", ".parquet")


class Answer(NamedTuple):
    code: int
    text: str
    names: list[str]


class Server:
    """The process that forks commands; see `server`."""

    def __init__(self, folder):
        self.model = save_tiny(folder / "lm", d_model=16)
        self.text = world.text_file(folder, n_docs=80)
        env = os.environ | {"OMP_NUM_THREADS": "1", "SAEKIT_CACHE": str(folder / "cache")}
        env |= {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.server", str(self.model)],
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, words, root="/nowhere", at=None):
        job = {"words": [str(w) for w in words], "root": str(root), "at": at}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Answer(**json.loads(self._process.stdout.readline()))

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Case(NamedTuple):
    """A command, as words with OUT for its folder, and how it is gone on with.

    `marker` is the file in OUT from which on `resume` is the way; before, the command is given
    again.
    """

    start: list
    marker: str = ""
    resume: list = []  # noqa: RUF012 - never changed


def filled(words, out):
    return [str(out) if w == "OUT" else w for w in words]


def whole(server, case, folder):
    """Run a command left alone; return its folder and its operations."""
    (folder / "whole").mkdir()
    answer = server.run(filled(case.start, folder / "whole/out"), folder / "whole")
    assert answer.code == 0, answer.text
    return folder / "whole/out", answer.names


def killed_at(server, case, folder, at, before=None):
    """Kill a command before an operation; return its folder."""
    root = folder / f"at{at}"
    if before is not None:
        shutil.copytree(before, root / "out", symlinks=True)
    root.mkdir(parents=True, exist_ok=True)
    answer = server.run(filled(case.start, root / "out"), root, at)
    assert answer.code == KILLED, (at, answer)
    return root / "out"


def gone_on(server, case, out):
    """Go on with a command that was killed, in the way its user would."""
    resume = case.marker and (out / case.marker).exists()
    answer = server.run(filled(case.resume if resume else case.start, out))
    assert answer.code != STUCK, "stuck"
    # Killed after its last file was in place, it is told that all is done.
    done = "is finished" in answer.text or ("is in use" in answer.text and not resume)
    assert answer.code == 0 or done, answer.text


def differences(one, other):
    """Return what two folders differ in, and what is left over in the second or next to it."""
    found = [f"left over: {p}" for p in other.parent.rglob("*") if LEFT.fullmatch(p.name)]
    found += [f"left over: {p}" for p in other.parent.iterdir() if p != other]
    a, b = (
        {str(p.relative_to(f)): p for p in f.rglob("*") if p.is_file() and p.name not in UNLIKE}
        for f in (one, other)
    )
    found += [f"only in one: {name}" for name in sorted(a.keys() ^ b.keys())]
    return found + [f"differs: {n}" for n in sorted(a.keys() & b.keys()) if not _same(a[n], b[n])]


def _same(one, other):
    if one.suffix not in BITS:
        return True
    texts = [p.read_bytes() for p in (one, other)]
    if one.suffix == ".json":
        return _plain(json.loads(texts[0])) == _plain(json.loads(texts[1]))
    if one.suffix == ".jsonl":
        records = [[json.loads(line) for line in text.splitlines()] for text in texts]
        return _logged(records[0]) == _logged(records[1])
    return texts[0] == texts[1]


def _logged(records):
    """Return which steps a log has; means since the last record begin anew with a process."""
    steps = [r for r in records if r.get("kind", "step") == "step"]
    return [{k: v for k, v in r.items() if k in ("step", "tokens", "lr", "file")} for r in steps]


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in VOLATILE}
    return [_plain(v) for v in value] if isinstance(value, list) else value
