"""Files are whole or absent, and damage is named."""

import errno
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from saekit.core import files
from saekit.core.errors import FormatError, ResourceError


def test_json_has_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), 1.5]})
    assert files.read_json(tmp_path / "a.json") == {"x": None, "y": [None, 1.5]}


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "first")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        files.write_text(path, "second")
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_too_little_space_is_refused_before_work(tmp_path):
    with pytest.raises(ResourceError, match="are free"):
        files.need_space(tmp_path / "not" / "there", 2**60)


def test_tensors_survive_whatever_their_layout(tmp_path):
    weight = torch.randn(3, 4).t()
    files.write_tensors(tmp_path / "w.safetensors", {"w": weight})
    assert torch.equal(files.read_tensors(tmp_path / "w.safetensors")["w"], weight)


def test_damage_is_a_format_error(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(FormatError, match="damaged"):
        files.read_tensors(tmp_path / "w.safetensors")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(FormatError, match="no file"):
        files.read_json(tmp_path / "b.json")


def test_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a":')
    assert list(files.read_json_lines(tmp_path / "log.jsonl")) == [{"a": 1}, {"a": 2}]


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "with space"))
    assert files.cache_folder() == Path(tmp_path / "with space")


def test_tensors_on_a_full_disk_leave_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    files.write_tensors(path, {"w": torch.ones(3)})

    def full(_tensors, part, _metadata):
        part.write_bytes(b"begun")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        files.write_tensors(path, {"w": torch.zeros(3)})
    assert torch.equal(files.read_tensors(path)["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_files_have_the_permissions_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", {})
        files.write_tensors(tmp_path / "b.safetensors", {"x": torch.zeros(2)})
    finally:
        os.umask(before)
    assert [stat.S_IMODE(p.stat().st_mode) for p in sorted(tmp_path.iterdir())] == [0o640, 0o640]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_json(path, {}),
        lambda path: files.write_tensors(path, {"x": torch.zeros(2)}),
    ],
)
def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path, write):
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / f".a.{os.getpid()}.part").symlink_to(tmp_path / "theirs")
    write(tmp_path / "a")
    assert (tmp_path / "theirs").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "theirs"]


def test_a_write_that_is_broken_off_leaves_no_part(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())
