"""Ways to hurt a folder of files: bytes, JSON, heads of tensors, programs in zips, kinds of files.

Everything follows from the generator that is passed in: the same seed hurts in the same way.
"""

import io
import json
import os
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3.5,
    1e308,
    float("nan"),
    float("inf"),
    2**31,
    2**63,
    2**70,
    10**400,
    "",
    "x",
    "..",
    "../../x",
    "/etc/passwd",
    "\ud800",
    "\x00",
    "a" * 5000,
    "L0.resid_post",
    [],
    {},
    [None],
    [[]],
    {"a": 1},
    {"": {}},
    [1, "a", None],
    {"name": []},
    {"name": None},
    list(range(2000)),
]
PIECES = [
    b"",
    b"\x00",
    b"\xff" * 8,
    b"{",
    b"}",
    b"[" * 300,
    b'"',
    b"\n",
    b"\xed\xa0\x80",
    b"NaN",
    b"R.",
    b"1e999",
    b"9" * 5000,
    b"\x80\x02",
    b"cos\nsystem\n",
    b"(lp0\n",
    b"PK\x05\x06",
]
Tree = dict[str, bytes]


def of_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut, double, insert or overwrite."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        n = len(out)
        place = chance.randrange(n) if n else 0
        match chance.randrange(7):
            case 0 if n:
                out[place] ^= 1 << chance.randrange(8)
            case 1 if n:
                out[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
            case 2:
                del out[place:]
            case 3:
                del out[place : place + chance.randrange(1, 64)]
            case 4:
                out[place:place] = chance.choice(PIECES)
            case 5:
                out[place : place + 8] = chance.randrange(2**64).to_bytes(8, "little")
            case _:
                end = place + chance.randrange(1, 64)
                out[place:place] = out[place:end]
    return bytes(out)


def of_json(data: bytes, chance: random.Random) -> bytes:
    """Change values, keys or structure of a JSON text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(data, chance)
    if chance.random() < 0.03:
        return chance.choice([b"[" * 5000, b'{"a":' * 3000, b"[" * 40 + b"]" * 40, b"null", b""])
    for _ in range(chance.choice([1, 1, 2, 3])):
        value = _changed(value, chance)
    return json.dumps(value).encode()


def _changed(value: object, chance: random.Random) -> object:
    """Return a value with one thing in it changed, as deep as chance goes."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {
                    chance.choice([k + "x", "", "name"]) if k == key else k: v
                    for k, v in value.items()
                }
            case 2:
                key = chance.choice(["surprise", "__class__", "self"])
                return value | {key: chance.choice(ODD)}
            case _:
                return value | {key: _changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        match chance.randrange(5):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value + value[place:]
            case _:
                return [*value[:place], _changed(value[place], chance), *value[place + 1 :]]
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) and chance.random() < 0.8:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.4:
        return value + chance.choice([-1, 1, 7, -100])
    return chance.choice(ODD)


def of_lines(data: bytes, chance: random.Random) -> bytes:
    """Change, drop, double or swap lines of JSON."""
    lines = data.split(b"\n")
    place = chance.randrange(len(lines))
    match chance.randrange(6):
        case 0:
            lines = lines[:place] + lines[place + 1 :]
        case 1:
            lines = lines[: place + 1] + lines[place:]
        case 2:
            lines[place] = json.dumps(chance.choice(ODD)).encode()
        case 3:
            return of_bytes(data, chance)
        case _:
            lines[place] = of_json(lines[place], chance)
    return b"\n".join(lines)


def of_safetensors(data: bytes, chance: random.Random) -> bytes:
    """Change the head, with its length right or not, or the numbers."""
    if chance.random() < 0.25 or len(data) < 8:
        return of_bytes(data, chance)
    first = 8 + int.from_bytes(data[:8], "little")
    if chance.random() < 0.2:
        at = chance.randrange(first, len(data)) if len(data) > first else first
        odd = chance.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff" * 8, b"\x00" * 16])
        return data[:at] + odd[: len(data) - at] + data[at + len(odd) :]
    head = of_json(data[8:first], chance)
    return len(head).to_bytes(8, "little") + head + data[first:]


def of_zip(data: bytes, chance: random.Random) -> bytes:
    """Change a part of a zip and write the zip anew, so that its checksums are right."""
    if chance.random() < 0.15:
        return of_bytes(data, chance)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            parts = {name: file.read(name) for name in file.namelist()}
    except Exception:  # it was hurt before; zipfile then fails in many ways
        return of_bytes(data, chance)
    if not parts:
        return of_bytes(data, chance)
    names = sorted(parts)
    likely = [n for n in names if n.endswith("data.pkl")] or names
    name = chance.choice(likely if chance.random() < 0.8 else names)
    how = zipfile.ZIP_STORED
    match chance.randrange(10):
        case 0:
            del parts[name]
        case 1:
            parts[chance.choice(["../x.npy", "a/data/9", "x.npy", "b/data.pkl"])] = parts[name]
        case 2:
            how = chance.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        case 3 if name.endswith(".npy"):
            parts[name] = _other_head(parts[name], chance)
        case 4 if name.endswith(".npy"):
            parts[name] = _other_head(parts[name], chance)
        case _:
            parts[name] = of_bytes(parts[name], chance)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        for key, part in parts.items():
            file.writestr(key, part)
    return out.getvalue()


def _other_head(data: bytes, chance: random.Random) -> bytes:
    """Return an array of numpy's with a head that says something else."""
    head = {
        "descr": chance.choice(
            [
                "<f4",
                ">f8",
                "|O",
                "<U3",
                "<f16",
                "<c8",
                [("a", "<f4")],
                "<i8",
                3,
                "|V8",
                "<M8[ns]",
                "|b1",
                "<U0",
                "|S4",
                "<f2",
            ]
        ),
        "fortran_order": chance.choice([True, False, False, 1, None]),
        "shape": chance.choice(
            [(), (2**40,), (-1,), (0, 2**62), (3, "a"), (2, 3), [4], (2**70,), (10**6,) * 40]
        ),
    }
    text = repr(head).encode() + b"\n"
    if chance.random() < 0.1:
        text = b"(" * 3000
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data[128:]


BY_SUFFIX: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": of_json,
    ".jsonl": of_lines,
    ".safetensors": of_safetensors,
    ".pt": of_zip,
    ".npz": of_zip,
}


def hurt(tree: Tree, chance: random.Random) -> tuple[Tree, dict[str, str]]:
    """Return a folder's files with one or two of them hurt, and what kind some became instead.

    Kinds are "gone", "fifo", "folder", "dangling" and "link" (to /dev/zero).
    """
    out, kinds = dict(tree), {}
    for _ in range(chance.choice([1, 1, 1, 2])):
        name = chance.choice(sorted(out))
        how = chance.random()
        if how < 0.04:
            kinds[name] = chance.choice(["gone", "fifo", "folder", "dangling", "link"])
        elif how < 0.07:
            out[name] = out[chance.choice(sorted(out))]
        elif how < 0.25:
            out[name] = of_bytes(out[name], chance)
        else:
            out[name] = BY_SUFFIX.get(Path(name).suffix, of_bytes)(out[name], chance)
    return out, kinds


def lay(folder: Path, tree: Tree, kinds: dict[str, str]) -> None:
    """Write files into a folder."""
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match kinds.get(name):
            case None:
                path.write_bytes(data)
            case "fifo":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "dangling":
                path.symlink_to("nowhere")
            case "link":
                path.symlink_to("/dev/zero")
            case _:
                pass
