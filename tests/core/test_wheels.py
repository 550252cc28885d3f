"""Fetching pinned wheels: only the pinned bytes are ever used."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from saekit.core.errors import ResourceError
from saekit.core.wheels import Wheel, fetch

GOOD = b"the pinned bytes"
PINNED = Wheel("a-package", "1.0", hashlib.sha256(GOOD).hexdigest(), 1, "MIT")


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """Stand in for the package index; counts how often it was asked."""
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    state = {"bytes": GOOD, "code": 0, "asked": 0}

    def run(command, **_):
        state["asked"] += 1
        if state["code"] == 0:
            folder = Path(command[command.index("--dest") + 1])
            (folder / "a_package-1.0-py3-none-any.whl").write_bytes(state["bytes"])
        return subprocess.CompletedProcess(command, state["code"], "", "ERROR: no such host\n")

    monkeypatch.setattr(subprocess, "run", run)
    return state


def test_the_pinned_file_is_fetched_once(pip):
    assert fetch(PINNED).read_bytes() == GOOD
    assert fetch(PINNED).read_bytes() == GOOD
    assert pip["asked"] == 1


def test_other_bytes_are_thrown_away(pip, tmp_path):
    pip["bytes"] = b"something else"
    with pytest.raises(ResourceError, match="not the pinned file"):
        fetch(PINNED)
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_a_file_damaged_in_the_cache_is_fetched_again(pip):
    fetch(PINNED).write_bytes(b"rotten")
    assert fetch(PINNED).read_bytes() == GOOD
    assert pip["asked"] == 2


def test_no_network_is_one_paragraph(pip):
    pip["code"] = 1
    with pytest.raises(ResourceError, match="no such host. Check the network") as caught:
        fetch(PINNED)
    assert "\n" not in str(caught.value)
