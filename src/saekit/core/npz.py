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
from typing import Any

import numpy as np

from saekit.core.border import exactly, ordinary, reading
from saekit.core.errors import FormatError

NUMBERS, TEXT = "fiub", "U"
# Unpacked bytes of a file that is packed: this much, or this many times its size.
LEAST_UNPACKED, MOST_RATIO = 2**28, 100
_SIZES = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "b": (1,)}
_HEADER_BYTES, _LETTERS, _AXES, _ENTRIES = 10_000, 2**20, 32, 2**20


def read_npz(
    path: Path, kinds: str = NUMBERS,
    laid: Callable[[str, np.ndarray], np.ndarray] = lambda _, array: array,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the arrays in a .npz file; nothing in it is run.

    Args:
        path: the file.
        kinds: letters of numpy's kinds that are allowed, of "fiubU".
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
        names = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        return {n: laid(n, _array(file, e, path, kinds)) for n, e in names.items()}


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(
            f"`{entry.filename}` in {path} is packed by another method than numpy's. Write the "
            f"file again with numpy.savez or savez_compressed."
        )
    if not entry.filename.endswith(".npy") or entry.flag_bits & 1:
        raise FormatError(f"`{entry.filename}` in {path} is not an array of numpy's.")


def _array(
    file: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, kinds: str
) -> np.ndarray:
    where = f"`{entry.filename.removesuffix('.npy')}` in {path}"
    with file.open(entry) as opened:
        head, kind, order, width, fortran, shape = _header(opened, where, kinds)
        n_bytes = math.prod(shape) * width
        if entry.file_size - head != n_bytes:
            raise FormatError(
                f"{where} is damaged: shape {list(shape)} takes {n_bytes:,} bytes and it has "
                f"{entry.file_size - head:,}."
            )
        data = exactly(opened, n_bytes, where)
    return _made(data, kind, order, width, fortran, shape, where)


def _header(
    opened: Any, where: str, kinds: str
) -> tuple[int, str, str, int, bool, tuple[int, ...]]:
    """Return the header's length, and kind, byte order, item size, axis order and shape."""
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
    return 8 + digits + length, kind, parts[1], width, fortran, shape


def is_shape(value: object) -> bool:
    """Tell whether a value is a shape that an array can have."""
    return (
        isinstance(value, tuple)
        and len(value) <= _AXES
        and all(type(n) is int and 0 <= n < 2**48 for n in value)
        and math.prod(max(n, 1) for n in value) < 2**60
    )


def _made(
    data: bytearray, kind: str, order: str, width: int, fortran: bool, shape: tuple[int, ...],
    where: str,
) -> np.ndarray:  # fmt: skip
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
