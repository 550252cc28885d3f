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


def test_a_pip_of_the_working_folder_is_not_run(monkeypatch, tmp_path):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing is asked of the network
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ResourceError, match="Could not download a-package==1.0"):
        fetch(PINNED)
    assert not (tmp_path / "ran").exists()


def test_a_python_without_pip_is_told_so(pip, monkeypatch):
    def run(command, **_):
        said = f"{command[0]}: No module named pip\n"
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ResourceError, match="ensurepip"):
        fetch(PINNED)
