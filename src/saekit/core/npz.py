"""Reader of .npz files: arrays of numbers and text, stored or deflated, and nothing else.

Sizes that a file claims are compared with each other and with a limit before memory is taken, and
numpy is never asked to make of a header what the header says.
"""

import ast
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saekit.core.border import exactly, ordinary, reading
from saekit.core.errors import FormatError

NUMBERS, TEXT = "fiub", "U"
# Unpacked bytes of a file that is packed: this much, or this many times its size.
LEAST_UNPACKED, MOST_RATIO = 2**28, 100
_SIZES = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "b": (1,)}
_HEADER_BYTES, _LETTERS, _AXES, _ENTRIES = 10_000, 2**20, 32, 2**20


def read_npz(
    path: Path,
    kinds: str = NUMBERS,
    only: str | None = None,
    laid: Callable[[str, np.ndarray], np.ndarray] = lambda _, array: array,
) -> dict[str, np.ndarray]:
    """Return the arrays in a .npz file; nothing in it is run.

    Args:
        path: the file.
        kinds: letters of numpy's kinds that are allowed, of "fiubU".
        only: the one array to read; None: all.
        laid: returns an array by name in the order of memory that is wanted, before the next one
            is read.

    Raises:
        FormatError: it is missing or damaged, holds anything else, or unpacks to far more than
            its size.
    """
    size = ordinary(path)
    limit = max(LEAST_UNPACKED, MOST_RATIO * size)
    with reading(path, "a .npz file"), zipfile.ZipFile(path) as file:
        entries = file.infolist()
        if len(entries) > _ENTRIES:
            raise FormatError(
                f"{path} holds {len(entries):,} arrays; at most {_ENTRIES:,} are read."
            )
        for entry in entries:
            _check_entry(entry, path)
        if (total := sum(e.file_size for e in entries)) > limit:
            raise FormatError(
                f"{path} has {size:,} bytes and claims to unpack to {total:,}; at most {limit:,} "
                f"are unpacked of such a file. Write it again without compression."
            )
        named = {e.filename.removesuffix(".npy"): e for e in entries}
        wanted = {n: e for n, e in named.items() if only in (None, n)}
        return {n: laid(n, _array(file, e, path, kinds)) for n, e in wanted.items()}


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(
            f"`{entry.filename}` in {path} is packed by another method than numpy's. Write the "
            f"file again with numpy.savez or savez_compressed."
        )
    if not entry.filename.endswith(".npy") or entry.flag_bits & 1:
        raise FormatError(f"`{entry.filename}` in {path} is not an array of numpy's.")


def _array(file: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, kinds: str) -> np.ndarray:
    where = f"`{entry.filename.removesuffix('.npy')}` in {path}"
    with file.open(entry) as opened:
        head = npy_header(opened, where, kinds)
        head.check_size(entry.file_size, where)
        data = exactly(opened, head.n_bytes, where)
    return _made(data, head.kind, head.order, head.width, head.fortran, head.shape, where)


class Header(NamedTuple):
    """What the head of an array of numpy's says."""

    length: int  # bytes before the data
    kind: str  # numpy's letter
    order: str  # of bytes: "<", ">", "=", "|" or none
    width: int  # bytes of an item
    fortran: bool  # the first axis varies fastest
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.width

    @property
    def dtype(self) -> np.dtype:
        """The type of its numbers."""
        return np.dtype(f"{'>' if self.order == '>' else '<'}{self.kind}{self.width}")

    def check_size(self, n_bytes: int, where: str) -> None:
        """Refuse an array whose file has another size than its shape takes.

        Raises:
            FormatError: it has.
        """
        if n_bytes - self.length != self.n_bytes:
            raise FormatError(
                f"{where} is damaged: shape {list(self.shape)} takes {self.n_bytes:,} bytes and "
                f"it has {n_bytes - self.length:,}."
            )


def npz_headers(path: Path, kinds: str = NUMBERS) -> dict[str, Header]:
    """Return the heads of the arrays in a .npz file, without their data; see `read_npz`."""
    ordinary(path)
    with reading(path, "a .npz file"), zipfile.ZipFile(path) as file:
        found = {}
        for entry in file.infolist()[:_ENTRIES]:
            _check_entry(entry, path)
            name = entry.filename.removesuffix(".npy")
            with file.open(entry) as opened:
                found[name] = npy_header(opened, f"`{name}` in {path}", kinds)
        return found


def npy_header(opened: Any, where: str, kinds: str = NUMBERS) -> Header:
    """Return what the head of an array says, from a file that stands at its beginning.

    Raises:
        FormatError: it is no array of numpy's, or of another kind than `kinds`.
    """
    magic = opened.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise FormatError(f"{where} is not an array of numpy's.")
    digits = 2 if magic[6] == 1 else 4
    length = int.from_bytes(opened.read(digits), "little")
    if length > _HEADER_BYTES:
        raise FormatError(f"{where} has a header of {length:,} bytes; {_HEADER_BYTES:,} are read.")
    try:
        head = ast.literal_eval(opened.read(length).decode("latin-1").strip())
        descr, fortran, shape = head["descr"], head["fortran_order"], head["shape"]
    except Exception as error:  # of a parser given anything
        raise FormatError(f"{where} has a damaged header.") from error
    parts = re.fullmatch(r"([<>|=]?)([a-zA-Z])(\d{1,7})", descr) if isinstance(descr, str) else None
    if parts is None or parts[2] not in kinds:
        raise FormatError(
            f"{where} is not numbers but {str(descr)[:60]!r}; it holds more than numbers, which "
            f"saekit does not read."
        )
    kind, width = parts[2], int(parts[3])
    if kind == "U":
        if width > _LETTERS:
            raise FormatError(f"{where} has texts of {width:,} letters; {_LETTERS:,} are read.")
        if not width and math.prod(shape):
            raise FormatError(f"{where} has {math.prod(shape):,} texts of no letters.")
        width *= 4
    elif width not in _SIZES[kind]:
        raise FormatError(f"{where} has numbers of {width} bytes, which is none of numpy's types.")
    if not isinstance(fortran, bool) or not is_shape(shape):
        raise FormatError(f"{where} has a damaged header.")
    return Header(8 + digits + length, kind, parts[1], width, fortran, shape)


def is_shape(value: object) -> bool:
    """Tell whether a value is a shape that an array can have."""
    return (
        isinstance(value, tuple)
        and len(value) <= _AXES
        and all(type(n) is int and 0 <= n < 2**48 for n in value)
        and math.prod(max(n, 1) for n in value) < 2**60
    )


def _made(
    data: bytearray,
    kind: str,
    order: str,
    width: int,
    fortran: bool,
    shape: tuple[int, ...],
    where: str,
) -> np.ndarray:
    """Return an array over bytes whose number was checked."""
    if kind == "U":
        letters = np.frombuffer(data, ">u4" if order == ">" else "<u4")
        if len(letters) and (letters.max() > 0x10FFFF or ((letters >> 11) == 0x1B).any()):
            raise FormatError(f"{where} has text that is not Unicode.")
        flat = np.frombuffer(data, f"{'>' if order == '>' else '<'}U{max(width // 4, 1)}")
        found = flat.astype(flat.dtype.newbyteorder("="))
    elif kind == "b":
        found = np.frombuffer(data, np.uint8) != 0
    else:
        flat = np.frombuffer(data, f"{'>' if order == '>' else '<'}{kind}{width}")
        found = flat if order != ">" else flat.astype(flat.dtype.newbyteorder("="))
    return found.reshape(shape, order="F" if fortran else "C")
