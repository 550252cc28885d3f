"""The one place that reads files of torch.save, with a reader of saekit's own.

Such a file is a zip of a program for a stack machine and of the bytes of its tensors. The machine
here knows the few instructions that build plain containers, and treats the few names that tensors
and arrays of numbers need as words to be compared, never as things to be called. A tensor or an
array is made by this file from bytes, once its type is one of a fixed list and its shape, strides
and sizes agree. Neither torch nor numpy is asked to make what the file describes.
"""

import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saekit.core.border import exactly, ordinary, reading
from saekit.core.errors import FormatError, SaekitError
from saekit.core.npz import is_shape

PROGRAM_BYTES = 2**29
INSTRUCTIONS = 20_000_000
DEPTH = 64  # of containers within each other
_INT_BYTES = 16
# How often what a file holds may be larger, by repeating parts of itself, than its program.
_REPEATS = 8

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
# What a file may name, each a word that only `_call` and `_storage` give a meaning to.
_WORDS = {
    ("collections", "OrderedDict"),
    ("collections", "Counter"),
    ("_codecs", "encode"),
    ("builtins", "bytes"),
    ("__builtin__", "bytes"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((core, name) for core in _CORES for name in ("_reconstruct", "scalar")),
    *(("torch", name) for name in _STORAGES),
}


class _RefusedError(SaekitError):
    """A program is damaged or asks for what is not done; the user gets it as a FormatError."""


def read_torch(path: Path) -> Any:
    """Return what a file of torch.save holds, on the CPU; nothing in it is run.

    That is dictionaries, lists, tuples, text, numbers, tensors, and numpy's arrays and scalars of
    numbers. Tensors and arrays may share memory where the file says so.

    Raises:
        FormatError: it is missing or damaged, is of torch before 1.6, or holds anything else.
    """
    size = ordinary(path)
    with path.open("rb") as opened:
        head = opened.read(4)
    if head != b"PK\x03\x04":
        raise FormatError(
            f"{path} is damaged, or is no file of torch.save since torch 1.6. Write it again with "
            f"a newer torch."
        )
    try:
        with reading(path, "a file of torch.save"), zipfile.ZipFile(path) as file:
            return _Machine(_Parts(file, path, size)).run()
    except _RefusedError as error:
        raise FormatError(
            f"{path} is damaged, or asks for more than tensors and numbers, which saekit never "
            f"runs: {error}"
        ) from error


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors by name that a file of torch.save holds.

    Raises:
        FormatError: it is missing or damaged, or holds anything else.
    """
    found = read_torch(path)
    if not isinstance(found, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()
    ):
        raise FormatError(f"{path} must hold tensors by name; it holds {_shape_of(found)}.")
    return dict(found)


def _shape_of(value: Any) -> str:
    if isinstance(value, dict):
        odd = [k for k, v in value.items() if not isinstance(v, torch.Tensor)]
        return f"also `{odd[0]}`, which is {type(value[odd[0]]).__name__}" if odd else "other keys"
    return type(value).__name__


@dataclass(frozen=True)
class _Word:
    """A name in the program. It is compared and never looked up."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    """The numbers that tensors lie in."""

    data: torch.Tensor  # 1-D


class _Dtype:
    """A type of numpy's, of the fixed list; usable once its state was set."""

    def __init__(self, kind: str):
        self.kind, self.whole = kind, False


class _Array:
    """An array of numpy's that has no numbers yet; they come with its state, once."""

    memos: list[int]

    def __init__(self):
        self.memos = []


class _Parts:
    """The entries of the zip, each read once at most, and no more bytes than the file has."""

    def __init__(self, file: zipfile.ZipFile, path: Path, size: int):
        self._file, self._left, self._read = file, size, set[str]()
        entries = file.infolist()
        programs = [e.filename for e in entries if e.filename.endswith("/data.pkl")]
        self._entries = {e.filename: e for e in entries}
        if len(programs) != 1 or len(self._entries) != len(entries):
            raise FormatError(f"{path} is damaged, or is no file of torch.save: it is another zip.")
        self._root = programs[0].removesuffix("data.pkl")
        order = self._root + "byteorder"
        if order in self._entries and bytes(self._bytes(order)) != b"little":
            raise FormatError(
                f"{path} was written on a machine of another byte order. Write it on this one."
            )

    def program(self) -> bytes:
        """Return the program."""
        return bytes(self._bytes(self._root + "data.pkl", PROGRAM_BYTES))

    def storage(self, key: str) -> bytearray:
        """Return the bytes of a storage."""
        return self._bytes(f"{self._root}data/{key}")

    def _bytes(self, name: str, most: int = 2**62) -> bytearray:
        entry = self._entries.get(name)
        if entry is None or name in self._read:
            raise _RefusedError(f"there is no part `{name}` that was not read already.")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise _RefusedError(f"the part `{name}` is packed, as torch.save packs none.")
        # Entries may overlap: all together may not be more than the file is.
        if entry.file_size > min(self._left, most):
            raise _RefusedError(
                f"the part `{name}` claims {entry.file_size:,} bytes; up to "
                f"{min(self._left, most):,} can be in it."
            )
        self._left -= entry.file_size
        self._read.add(name)
        with self._file.open(entry) as opened:
            return exactly(opened, entry.file_size, f"the part `{name}`")


class _Machine:
    """Runs a program, with instructions to plain values only."""

    def __init__(self, parts: _Parts):
        self._parts, self._program, self._at = parts, parts.program(), 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        """Return what the program builds.

        Raises:
            _RefusedError: it is damaged, or asks for anything but plain values.
        """
        program, steps = self._program, _STEPS
        for _ in range(INSTRUCTIONS):
            if self._at >= len(program):
                raise _RefusedError("the program ends before its end.")
            code = program[self._at]
            self._at += 1
            if code == _STOP:
                break
            step = steps.get(code)
            if step is None:
                raise _RefusedError(f"instruction {code:#04x} at byte {self._at - 1:,}.")
            try:
                step(self)
            except (IndexError, struct.error) as error:
                raise _RefusedError(f"byte {self._at:,} lacks what it works on.") from error
        else:
            raise _RefusedError(f"more than {INSTRUCTIONS:,} instructions.")
        if len(self._stack) != 1 or self._marks:
            raise _RefusedError("the program ends with other than one value.")
        _check(self._stack[0], most=max(1_000_000, _REPEATS * len(program)))
        return self._stack[0]

    # what the program says

    def _take(self, n: int) -> bytes:
        if n < 0 or self._at + n > len(self._program):
            raise _RefusedError(f"byte {self._at:,} claims {n:,} bytes, which are not there.")
        found = self._program[self._at : self._at + n]
        self._at += n
        return found

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self._program.find(b"\n", self._at, self._at + 1000)
        if end < 0:
            raise _RefusedError(f"byte {self._at:,} begins a line without end.")
        found = self._program[self._at : end]
        self._at = end + 1
        return _text(found)

    # steps: what comes on the stack

    def protocol(self) -> None:
        """Take note of the version of the instructions."""
        if (version := self._number("<B")) > 5:
            raise _RefusedError(f"instructions of version {version}.")

    def frame(self) -> None:
        """Pass over a note of how much follows, which is not needed."""
        self._take(8)

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def long(self, size: str) -> None:
        """Put a whole number of any length on the stack."""
        n = self._number(size)
        if n > _INT_BYTES:
            raise _RefusedError(f"a whole number of {n:,} bytes; at most {_INT_BYTES} are read.")
        self.push(int.from_bytes(self._take(n), "little", signed=True))

    def text(self, size: str) -> None:
        """Put text on the stack."""
        self.push(_text(self._take(self._number(size))))

    def data(self, size: str) -> None:
        """Put bytes on the stack."""
        self.push(self._take(self._number(size)))

    def word(self) -> None:
        """Put a name on the stack, if it is one of the list."""
        self._word(self._line(), self._line())

    def stacked_word(self) -> None:
        """Put a name on the stack, if it is one of the list; its parts are on the stack."""
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _RefusedError("a name that is no text.")
        self._word(module, name)

    def _word(self, module: str, name: str) -> None:
        if (module, name) not in _WORDS:
            raise _RefusedError(f"`{module[:100]}.{name[:100]}`.")
        self.push(_Word(module, name))

    def mark(self) -> None:
        """Begin a group of values."""
        if len(self._marks) >= 2 * DEPTH:
            raise _RefusedError(f"more than {2 * DEPTH} groups of values within each other.")
        self._marks.append(self._stack)
        self._stack = []

    def group(self) -> list[Any]:
        """End a group of values and return it."""
        found, self._stack = self._stack, self._marks.pop()
        return found

    def tuple_of(self, n: int) -> None:
        """Put the last `n` values into a tuple."""
        if len(self._stack) < n:
            raise IndexError
        self._stack[-n:] = [tuple(self._stack[-n:])]

    def extend(self, values: list[Any]) -> None:
        """Append values to the list on the stack."""
        target = self._stack[-1]
        if type(target) is not list:
            raise _RefusedError("values for a list that is none.")
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        """Set entries of the dictionary on the stack, keys and values in turn."""
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise _RefusedError("entries for a dictionary that is none.")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not _is_key(key):
                raise _RefusedError(f"a key of a dictionary that is {type(key).__name__}.")
            target[key] = value

    def get(self, index: int) -> None:
        """Put a value of the memo on the stack."""
        if index not in self._memo:
            raise _RefusedError(f"value {index:,} of the memo, which has none such.")
        self.push(self._memo[index])

    def put(self, index: int) -> None:
        """Keep the last value in the memo."""
        value = self._stack[-1]
        self._memo[index] = value
        if isinstance(value, _Array):
            value.memos.append(index)

    # steps: what stands for calls

    def reduce(self) -> None:
        """Put on the stack what a word makes of its arguments."""
        arguments, word = self._stack.pop(), self._stack.pop()
        if not isinstance(word, _Word) or not isinstance(arguments, tuple):
            raise _RefusedError("a call of what is no name.")
        self.push(_called(word, arguments))

    def build(self) -> None:
        """Set the state of what is on the stack: of an array or a type of numpy's, once."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, _Array):
            array = _filled(state)
            for index in target.memos:
                self._memo[index] = array
            self._stack[-1] = array
        elif isinstance(target, _Dtype) and not target.whole:
            _check_dtype(target, state)
            target.whole = True
        elif type(target) is dict and type(state) is dict and set(state) <= {"_metadata"}:
            pass  # versions of modules, which PyTorch hangs on a state of weights
        else:
            raise _RefusedError(f"a state for {type(target).__name__}, which takes none.")

    def storage(self) -> None:
        """Put a storage on the stack, of a description of it."""
        said = self._stack.pop()
        if not isinstance(said, tuple) or len(said) != 5 or said[0] != "storage":
            raise _RefusedError("a reference to what is no storage.")
        _, word, key, _, size = said
        if not isinstance(word, _Word) or word.module != "torch" or word.name not in _STORAGES:
            raise _RefusedError("a storage of no type.")
        if not isinstance(key, str) or type(size) is not int:
            raise _RefusedError("a storage of no name or size.")
        dtype = _STORAGES[word.name]
        if key not in self._storages:
            data = self._parts.storage(key)
            if size < 0 or len(data) != size * dtype.itemsize:
                raise _RefusedError(f"a storage of {size:,} numbers in {len(data):,} bytes.")
            self._storages[key] = _Storage(_numbers(data, dtype))
        found = self._storages[key]
        if found.data.dtype != dtype or len(found.data) != size:
            raise _RefusedError("a storage that is described in two ways.")
        self.push(found)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _RefusedError("text that is not UTF-8.") from error


def _numbers(data: bytearray, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers in bytes."""
    if not data:
        return torch.empty(0, dtype=dtype)
    if dtype is torch.bool:
        return torch.frombuffer(data, dtype=torch.uint8) != 0
    return torch.frombuffer(data, dtype=dtype)


def _called(word: _Word, arguments: tuple[Any, ...]) -> Any:
    """Return what a word stands for, with its arguments."""
    if word.module in _CORES:
        return _numpy_made(word.name, arguments)
    if word.module == "collections":
        return _dict_of(arguments)
    match word.name, arguments:
        case "encode", (str(text), "latin1" | "latin-1"):
            return _latin(text)
        case "bytes", ():
            return b""
        case "Size", (tuple(shape),):
            return shape
        case "dtype", (str(kind), *more) if kind in _DTYPES and _flags(more):
            return _Dtype(kind)
        case "_rebuild_tensor_v2", (_Storage() as storage, offset, size, stride, *_):
            return _tensor(storage, offset, size, stride)
        case "_rebuild_parameter", (torch.Tensor() as tensor, *_):
            return tensor
    raise _RefusedError(f"`{word.module}.{word.name}` of other arguments than torch.save gives it.")


def _dict_of(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Return the dictionary that an ordered one or a counter is."""
    match arguments:
        case ():
            return {}
        case (dict(counts),):
            return counts
        case (list(pairs),) if all(  # as Python 2 wrote it
            type(p) is list and len(p) == 2 and _is_key(p[0]) for p in pairs
        ):
            return dict(pairs)
    raise _RefusedError("a dictionary of no pairs.")


def _latin(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise _RefusedError("bytes that are none.") from error


def _flags(more: list[Any]) -> bool:
    """Tell whether the flags beside a type of numpy's are those that numpy writes."""
    return more == [] or (
        len(more) == 2
        and all(type(f) in (bool, int) for f in more)
        and (int(more[0]), int(more[1])) == (0, 1)
    )


def _numpy_made(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return an array without numbers, or a scalar."""
    match name, arguments:
        case "_reconstruct", (_Word("numpy", "ndarray"), (0,), b"b"):
            return _Array()
        case "scalar", (_Dtype() as dtype, bytes(data)) if dtype.whole:
            if len(data) != int(dtype.kind[1]):
                raise _RefusedError(f"a number of {len(data):,} bytes of the type {dtype.kind}.")
            return _flat(data, dtype.kind)[0]
    raise _RefusedError(f"`numpy.{name}` of other arguments than numpy gives it.")


def _check_dtype(dtype: _Dtype, state: Any) -> None:
    """Refuse a state of a type but that of plain numbers as this machine holds them."""
    order = "|" if dtype.kind[1] == "1" else "<"
    if state != (3, order, None, None, None, -1, -1, 0) or any(type(n) is bool for n in state):
        raise _RefusedError(
            f"numpy's type {dtype.kind} with fields, another shape or another byte order."
        )


def _filled(state: Any) -> np.ndarray:
    """Return an array of the numbers in its state."""
    match state:
        case (1, tuple(shape), _Dtype() as dtype, bool(fortran), bytes(data)) if dtype.whole:
            pass
        case _:
            raise _RefusedError("an array's state of another form than numpy writes.")
    if not is_shape(shape) or math.prod(shape) * int(dtype.kind[1]) != len(data):
        raise _RefusedError(f"an array of shape {str(shape)[:80]} in {len(data):,} bytes.")
    return _flat(data, dtype.kind).reshape(shape, order="F" if fortran else "C")


def _flat(data: bytes, kind: str) -> np.ndarray:
    if kind == "b1":
        return np.frombuffer(data, np.uint8) != 0
    return np.frombuffer(bytearray(data), f"<{kind}")


def _tensor(storage: _Storage, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    """Return a tensor in a storage, no larger than that and within it."""
    n = len(storage.data)
    if not (is_shape(size) and isinstance(stride, tuple) and len(stride) == len(size)):
        raise _RefusedError("a tensor of no shape.")
    if type(offset) is not int or not 0 <= offset <= n or any(type(s) is not int for s in stride):
        raise _RefusedError("a tensor outside its storage.")
    if math.prod(size) == 0:
        return torch.empty(0, dtype=storage.data.dtype).reshape(size)
    steps = [(s, k) for k, s in zip(size, stride, strict=True) if k > 1]
    last = offset + sum(s * (k - 1) for s, k in steps)
    if any(s < 1 for s, _ in steps) or last >= n:
        raise _RefusedError("a tensor outside its storage.")
    # Numbers used twice would make a tensor larger than the bytes that it is made of.
    steps.sort()
    if any(s < below * k for (below, k), (s, _) in zip(steps, steps[1:], strict=False)):
        raise _RefusedError("a tensor that repeats its numbers by overlapping strides.")
    plain = [s if k > 1 else 1 for k, s in zip(size, stride, strict=True)]
    return storage.data.as_strided(size, plain, offset)


def _is_key(value: Any) -> bool:
    if type(value) is tuple:
        return len(value) <= 8 and all(type(v) is not tuple and _is_key(v) for v in value)
    return value is None or isinstance(value, str | int | float | np.generic)


_LEAVES = (str, int, float, bool, type(None), torch.Tensor, np.ndarray)


def _check(value: Any, most: int) -> None:
    """Refuse a value with anything unfinished in it, or that is nested deeply or within itself.

    A list may be in two places. How large the whole would be if it were written out is counted,
    so that a small program cannot build what takes for ever to walk through.
    """
    sizes: dict[int, int] = {}
    open_: set[int] = set()
    # Containers yet to enter, or to leave (True) once all within were counted.
    todo: list[tuple[Any, bool]] = [(value, False)]
    while todo:
        one, leaving = todo.pop()
        if type(one) not in (dict, list, tuple):
            _check_leaf(one)
            continue
        inner = [*one.keys(), *one.values()] if type(one) is dict else one
        boxes = [v for v in inner if type(v) in (dict, list, tuple)]
        if leaving:
            open_.discard(id(one))
            sizes[id(one)] = 1 + len(inner) + sum(sizes[id(v)] for v in boxes)
            if sizes[id(one)] > most:
                raise _RefusedError(f"more than {most:,} values, by repeating parts of itself.")
            continue
        if id(one) in sizes:
            continue
        if id(one) in open_:
            raise _RefusedError("a container within itself.")
        if len(open_) >= DEPTH:
            raise _RefusedError(f"containers nested more than {DEPTH} deep.")
        open_.add(id(one))
        for leaf in inner:
            if type(leaf) not in (dict, list, tuple):
                _check_leaf(leaf)
        todo.append((one, True))
        todo += [(v, False) for v in boxes]


def _check_leaf(value: Any) -> None:
    if type(value) in _LEAVES or isinstance(value, np.generic):
        return
    if isinstance(value, _Word):
        raise _RefusedError(f"`{value.module}.{value.name}` itself.")
    raise _RefusedError(f"{type(value).__name__.strip('_').lower()}, alone or unfinished.")


_Step = Callable[[_Machine], None]
_STOP = ord(".")
_STEPS: dict[int, _Step] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("("): _Machine.mark,
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m._number("<B")),
    ord("M"): lambda m: m.push(m._number("<H")),
    ord("J"): lambda m: m.push(m._number("<i")),
    0x8A: lambda m: m.long("<B"),
    0x8B: lambda m: m.long("<i"),
    ord("G"): lambda m: m.push(m._number(">d")),
    ord("X"): lambda m: m.text("<I"),
    0x8C: lambda m: m.text("<B"),
    0x8D: lambda m: m.text("<Q"),
    ord("C"): lambda m: m.data("<B"),
    ord("B"): lambda m: m.data("<I"),
    0x8E: lambda m: m.data("<Q"),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.group())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.extend([m._stack.pop()]),
    ord("e"): lambda m: m.extend(m.group()),
    ord("}"): lambda m: m.push({}),
    ord("s"): lambda m: m.update([m._stack.pop(), m._stack.pop()][::-1]),
    ord("u"): lambda m: m.update(m.group()),
    ord("h"): lambda m: m.get(m._number("<B")),
    ord("j"): lambda m: m.get(m._number("<I")),
    ord("q"): lambda m: m.put(m._number("<B")),
    ord("r"): lambda m: m.put(m._number("<I")),
    0x94: lambda m: m.put(len(m._memo)),  # MEMOIZE
    ord("c"): _Machine.word,
    0x93: _Machine.stacked_word,
    ord("R"): _Machine.reduce,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.storage,
}
