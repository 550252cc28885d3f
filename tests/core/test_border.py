"""Given files: sizes, depth, names and kinds are checked before anything is taken from them."""

import io
import json
import os
import resource
import time
import zipfile

import numpy as np
import pytest
import torch

from saekit.core.border import bordered, inside, ordinary, parsed_json, reading
from saekit.core.errors import ConfigError, FormatError, SaekitError
from saekit.core.files import (
    read_json,
    read_json_lines,
    read_object,
    read_settings,
    read_tensors,
    sha256_of,
    write_tensors,
)
from saekit.core.npz import read_npz


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        TypeError("no"),
        RecursionError(),
        MemoryError(),
        OSError(5, "I/O"),
        ZeroDivisionError(),
        AttributeError("a"),
        UnicodeError("u"),
        EOFError(),
        ValueError("\ud800"),
    ],
)
def test_surprises_of_a_loader_name_the_file(error, tmp_path):
    @bordered("a thing")
    def load(number, path):
        raise error

    with pytest.raises(FormatError, match="thing.bin") as found:
        load(3, tmp_path / "thing.bin")
    assert found.value.__cause__ is error and str(found.value).encode()


def test_what_was_said_already_and_an_interruption_pass(tmp_path):
    for error in (ConfigError("said"), KeyboardInterrupt()):
        with pytest.raises(type(error)), reading(tmp_path, "a thing"):
            raise error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "nested"),
        (b"[" * 200 + b"]" * 200, "nested"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested"),
        (b'"\\ud800"', "surrogates"),
        (b'{"\\udc00x": 1}', "surrogates"),
        (b"9" * 10_000, "not JSON"),
        (b"[1, 2", "not JSON"),
        (b"\xed\xa0\x80", "not JSON"),
    ],
)
def test_odd_json_is_refused_by_name(text, said, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(FormatError, match=rf"a\.json.*{said}"):
        read_json(path)
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"a": 1}\n' + text.replace(b"\n", b"") + b"\n{}\n")
    with pytest.raises(FormatError, match=rf"a\.jsonl, line 2.*{said}"):
        list(read_json_lines(lines))


def test_ordinary_json_is_read(tmp_path):
    value = {"a": [1, 2.5, None, True, "é 😀"], "b": {"c": [[[]]] * 100}}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))  # the last character as a pair of surrogates
    assert read_json(path) == value == read_object(path)
    assert parsed_json("[" * 64 + "]" * 64, "a")
    path.write_text("[1]")
    with pytest.raises(FormatError, match="must hold an object; it holds list"):
        read_object(path)
    path.write_text('{"a": 1}\n{"b": 2}\n{"torn')
    assert list(read_json_lines(path)) == [{"a": 1}, {"b": 2}]
    path.write_text("[1]\n")
    with pytest.raises(FormatError, match="line 1 must be an object"):
        list(read_json_lines(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 2001-01-01", "quotes"),
        ("1: x", "name is text"),
        ("a: !!binary aGk=", "quotes"),
        ("a: &x [*x]", "nested|damaged"),
        ("a: [", "YAML"),
        ("a: !!python/object:os.system x", "YAML"),
        (
            "a: &a [x]\n" + "".join(f"b{i}: &b{i} [{', '.join(['*a'] * 9)}]\n" for i in range(9)),
            "anchors",
        ),
        ("[" * 1200, "YAML|nested"),
        ("x: " + "a" * 2**21, "bytes"),
    ],
)
def test_odd_yaml_is_refused_by_name(text, said, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(FormatError, match=rf"(?s)a\.yaml.*({said})"):
        read_settings(path)
    path.write_text("a: &x {b: [1, 2.5, yes, null]}\nc: *x\n")
    assert read_settings(path)["c"] == {"b": [1, 2.5, True, None]}


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "a/b", "/etc/passwd", "..\\x", "a\x00", None, 3, "../x", "a" * 300, "\ud800"],
)
def test_names_that_lead_elsewhere_are_refused(name, tmp_path):
    with pytest.raises(FormatError, match="plain name"):
        inside(tmp_path, name)
    assert inside(tmp_path, "..a-b.json") == tmp_path / "..a-b.json"


@pytest.mark.parametrize(
    "read",
    [read_json, read_tensors, read_npz, sha256_of, ordinary, lambda p: list(read_json_lines(p))],
)
def test_pipes_folders_and_dangling_links_are_refused_at_once(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "link", "zero", "none"):
        with pytest.raises(FormatError, match=name):
            read(tmp_path / name)


def test_a_link_to_a_file_is_read_as_the_hub_lays_them(tmp_path):
    (tmp_path / "blob").write_text("{}")
    (tmp_path / "config.json").symlink_to("blob")
    assert read_object(tmp_path / "config.json") == {}


# .npz


def head(descr="<f4", shape=(2,), fortran=False):
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def npz(path, how=zipfile.ZIP_STORED, **entries):
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in entries.items():
            file.writestr(f"{name}.npy", data)
    return path


def test_arrays_come_back(tmp_path):
    raw = {
        "f": np.arange(6.0).reshape(2, 3),
        "h": np.ones(3, np.float16),
        "i": np.array(3),
        "b": np.array([True, False]),
        "c": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "t": np.array(["a", "éé😀"]),
        "n": np.zeros((0, 3)),
        "big": np.arange(3, dtype=">i4"),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **raw)
        found = read_npz(tmp_path / "a.npz", kinds="fiubU")
        assert list(found) == list(raw)
        for name, array in raw.items():
            assert found[name].dtype == array.dtype.newbyteorder("="), name
            assert np.array_equal(found[name], array) and found[name].shape == array.shape
    with pytest.raises(FormatError, match=r"`t`.*more than numbers"):
        read_npz(tmp_path / "a.npz")


LYING = {
    "a shape beyond the data": head(shape=(10**9,)) + b"\x00" * 8,
    "a shape beyond any memory": head(shape=(2**40, 2**40)) + b"\x00" * 8,
    "a negative shape": head(shape=(-2,)) + b"\x00" * 8,
    "less than its data": head(shape=(1,)) + b"\x00" * 8,
    "objects": head("|O") + b"\x00" * 16,
    "fields": head([("a", "<f4")]) + b"\x00" * 8,
    "a sub-array": head("(1000,1000)f8") + b"\x00" * 8,
    "text of no letters": head("<U0", (2**40,)),
    "text that is none": head("<U1", (1,)) + b"\xff" * 4,
    "half a pair": head("<U1", (1,)) + b"\x00\xd8\x00\x00",
    "long texts": head("<U9000000", (1,)) + b"\x00" * 8,
    "numbers of ten bytes": head("<f10") + b"\x00" * 20,
    "no head": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 60_000,
    "a head that calls": b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('true')\n",
    "no array": b"PK",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", LYING)
def test_lying_heads_are_refused_before_memory_is_taken(kind, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError, match=r"a\.npz"):
        read_npz(npz(tmp_path / "a.npz", x=LYING[kind]), kinds="fiubU")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_refused(how, tmp_path):
    with pytest.raises(FormatError, match="another method"):
        read_npz(npz(tmp_path / "a.npz", how, x=head() + b"\x00" * 8))


def test_a_bomb_is_refused_by_what_it_claims_and_by_what_it_is(tmp_path):
    path = npz(
        tmp_path / "a.npz", zipfile.ZIP_DEFLATED, x=head(shape=(7 * 10**7,)) + bytes(28 * 10**7)
    )
    with pytest.raises(FormatError, match=r"unpack to 280,000,\d\d\d; at most 268,435,456"):
        read_npz(path)
    # The zip says little, and holds much.
    small = head(shape=(10,)) + bytes(40)
    path = npz(tmp_path / "b.npz", zipfile.ZIP_DEFLATED, x=head() + bytes(4000))
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        size = file.infolist()[0].file_size
    lied = data.replace(size.to_bytes(4, "little"), len(small).to_bytes(4, "little"))
    path.write_bytes(lied)
    with pytest.raises(FormatError, match=r"b\.npz"):
        read_npz(path)


def test_safetensors_that_claim_more_than_the_file_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(4)})
    data = path.read_bytes()
    for old, new in ((b"[4]", b"[9]"), (b"[0,16]", b"[0,99]"), (b'"F32"', b'"F64"')):
        assert old in data
        path.write_bytes(data.replace(old, new))
        with pytest.raises(FormatError, match=r"a\.safetensors"):
            read_tensors(path)
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(SaekitError, match=r"a\.safetensors"):
        read_tensors(path)


def test_a_long_line_of_json_ends_soon_with_a_sentence(tmp_path, monkeypatch):
    from saekit.core import files
    from saekit.data import readers

    monkeypatch.setattr(files, "JSON_BYTES", 2**20)
    monkeypatch.setattr(readers, "LINE_CHARS", 2**20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"a" * 2**25)
    began = time.process_time()
    with pytest.raises(SaekitError, match="line 1 is longer than 1,048,576 "):
        list(readers.read_texts(path, "text", None))
    with pytest.raises(SaekitError, match="line 1 is longer than 1,048,576 "):
        list(read_json_lines(path))
    assert time.process_time() - began < 5
