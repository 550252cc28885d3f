"""Files of torch.save: what is written comes back; whatever else a file says is refused unrun."""

import io
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from saekit.core.errors import FormatError
from saekit.core.torch_files import read_state, read_torch

# Instructions, as the machine of such files names them.
PROTO, STOP, MARK, NONE = b"\x80\x02", b".", b"(", b"N"
EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE = b")", b"\x85", b"\x86", b"\x87", b"t"
REDUCE, BUILD, PERSISTENT = b"R", b"b", b"Q"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def data(value):
    """Return bytes as protocol 2 has them: text, and a call that encodes it."""
    return (
        name("_codecs", "encode")
        + text(value.decode("latin-1"))
        + text("latin1")
        + (TUPLE2 + REDUCE)
    )


def name(module, word):
    return b"c" + module.encode() + b"\n" + word.encode() + b"\n"


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return (
        b"\x8a" + bytes([len(raw)]) + raw
        if len(raw) < 256
        else (b"\x8b" + struct.pack("<i", len(raw)) + raw)
    )


def group(*parts):
    return MARK + b"".join(parts) + TUPLE


def dtype(kind="f4", order="<", fields=NONE, shape=NONE, flags=0, version=3):
    made = name("numpy", "dtype") + group(text(kind), number(0), number(1)) + REDUCE
    state = group(
        number(version), text(order), shape, fields, fields, number(-1), number(-1), number(flags)
    )
    return made + state + BUILD


def bare():
    return (
        name("numpy.core.multiarray", "_reconstruct")
        + group(name("numpy", "ndarray"), group(number(0)), data(b"b"))
        + REDUCE
    )


def state(shape=(2,), kind=None, fortran=b"\x89", raw=b"\x00" * 8):
    return group(number(1), group(*map(number, shape)), kind or dtype(), fortran, data(raw))


def tensor(size=(4,), stride=(1,), offset=0, storage="FloatStorage", n=4, key="0"):
    held = group(text("storage"), name("torch", storage), text(key), text("cpu"), number(n))
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + group(
            held + PERSISTENT,
            number(offset),
            group(*map(number, size)),
            group(*map(number, stride)),
            b"\x89",
            name("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE,
        )
        + REDUCE
    )


def laid(path, program, how=zipfile.ZIP_STORED, **parts):
    """Write a file with a program, and with four float32 in storage 0."""
    whole = {"a/data.pkl": PROTO + program + STOP, "a/data/0": np.arange(4, dtype=np.float32)}
    with zipfile.ZipFile(path, "w", how) as file:
        for part, held in (whole | parts).items():
            file.writestr(part, bytes(held))
    return path


WHOLE = {
    "array": (bare() + state() + BUILD, np.zeros(2, np.float32)),
    "scalar": (
        name("numpy.core.multiarray", "scalar") + group(dtype(), data(b"\x00" * 4)) + REDUCE,
        np.float32(0),
    ),
    "tensor": (tensor(), torch.arange(4.0)),
}
NESTED = b"]" + b"".join(b"q\x00]" for _ in range(3))
ATTACKS = {
    # what would run
    "a call of the system": name("os", "system") + group(text("touch RAN")) + REDUCE,
    "the same, by names on the stack": b"\x8c\x05posix\x8c\x06system\x93"
    + group(text("touch RAN"))
    + REDUCE,
    "eval": name("builtins", "eval") + group(text("open('RAN', 'w')")) + REDUCE,
    "a name that is allowed elsewhere": name("torch", "load") + group(text("a.pt")) + REDUCE,
    "a new object": name("collections", "OrderedDict") + EMPTY_TUPLE + b"\x81",
    "an instance, the old way": MARK + b"icollections\nOrderedDict\n",
    "a registered extension": b"\x82\x01",
    "numpy's constructor": name("numpy", "ndarray") + group(group(number(2))) + REDUCE,
    "a word alone": name("numpy", "ndarray"),
    # pointers of the file's choosing: the state of an array, again and otherwise
    "state of objects": bare() + state(kind=dtype("O8", "|")) + BUILD,
    "state twice": bare() + state() + BUILD + state() + BUILD,
    "state twice, then of objects": bare() + state() + BUILD + state(kind=dtype("O", "|")) + BUILD,
    "state of a scalar": WHOLE["scalar"][0] + state() + BUILD,
    "state of a tensor": tensor() + b"}" + BUILD,
    "state of a type twice": dtype()
    + group(number(3), text("<"), *[NONE] * 3, number(-1), number(-1), number(0))
    + BUILD,
    "an array through the memo": bare() + b"q\x07" + state() + BUILD + b"0h\x07" + state() + BUILD,
    "an array without numbers": bare(),
    "an array without numbers in a list": b"]" + bare() + b"a",
    # types
    "objects": bare() + state(kind=dtype("O", "|"), raw=b"\x41" * 16) + BUILD,
    "fields": bare() + state(kind=dtype("V8", "|", fields=group(text("a")))) + BUILD,
    "fields of a number": bare() + state(kind=dtype(fields=group(text("a")))) + BUILD,
    "a sub-array": bare() + state(kind=dtype(shape=group(dtype(), group(number(2))))) + BUILD,
    "flags": bare() + state(kind=dtype(flags=63)) + BUILD,
    "another byte order": bare() + state(kind=dtype(order=">")) + BUILD,
    "a type of version 4": bare() + state(kind=dtype(version=4)) + BUILD,
    "a type without state": bare()
    + state(kind=name("numpy", "dtype") + group(text("f4"), number(0), number(1)) + REDUCE)
    + BUILD,
    "a type that numpy would parse": bare() + state(kind=dtype("(1000,1000)f8")) + BUILD,
    "a time": bare() + state(kind=dtype("M8")) + BUILD,
    "text": bare() + state(kind=dtype("U2")) + BUILD,
    # shapes
    "a negative shape": bare() + state(shape=(-2,)) + BUILD,
    "two negative shapes": bare() + state(shape=(-1, -2)) + BUILD,
    "a shape that is too large": bare() + state(shape=(3,)) + BUILD,
    "a shape beyond any memory": bare() + state(shape=(2**40, 2**40)) + BUILD,
    "a shape of nothing, beyond any memory": bare() + state(shape=(0, 2**62), raw=b"") + BUILD,
    "many axes": bare() + state(shape=(1,) * 100) + BUILD,
    "a shape of text": bare()
    + group(number(1), group(text("a")), dtype(), b"\x89", data(b""))
    + BUILD,
    "bytes that are a word": bare()
    + group(number(1), group(number(2)), dtype(), b"\x89", name("numpy", "ndarray"))
    + BUILD,
    "a scalar of other bytes": name("numpy.core.multiarray", "scalar")
    + group(dtype(), data(b"\x00" * 3))
    + REDUCE,
    "a scalar of objects": name("numpy.core.multiarray", "scalar")
    + group(dtype("O", "|"), data(b"\x41" * 8))
    + REDUCE,
    # tensors
    "one number as many": tensor(size=(10**9,), stride=(0,)),
    "overlapping strides": tensor(size=(2, 3), stride=(1, 1)),
    "negative strides": tensor(stride=(-1,)),
    "beyond its storage": tensor(size=(5,)),
    "beyond its storage by offset": tensor(offset=1),
    "a negative offset": tensor(offset=-1),
    "a huge offset": tensor(offset=2**62),
    "a huge stride": tensor(size=(2,), stride=(2**62,)),
    "a negative size": tensor(size=(-4,)),
    "nothing, beyond any memory": tensor(size=(0, 2**62), stride=(1, 1)),
    "a storage of another size": tensor(n=5),
    "a storage of another type": tensor(storage="DoubleStorage"),
    "a storage of no type": tensor(storage="UntypedStorage"),
    "a storage in two types": b"]" + tensor() + b"a" + tensor(storage="IntStorage") + b"a",
    "a storage that is not there": tensor(key="7"),
    "a storage outside": tensor(key="../data.pkl"),
    "a reference to no storage": group(text("module"), number(1)) + PERSISTENT,
    # the machine itself
    "a list in itself": b"]q\x00h\x00a",
    "a dictionary in itself": b"}q\x00" + text("a") + b"h\x00s",
    "lists a thousand deep": b"]" * 1000 + b"a" * 999,
    "tuples ten thousand deep": b")" + TUPLE1 * 10_000,
    "groups ten thousand deep": MARK * 10_000,
    "repeated for ever": b"]"
    + b"".join(b"q" + bytes([i]) + b"]" + (b"h" + bytes([i]) + b"a") * 10 for i in range(40)),
    "a whole number of a megabyte": b"\x8b" + struct.pack("<i", 2**20) + b"\x01" * 2**20,
    "a whole number of less than none": b"\x8b" + struct.pack("<i", -5),
    "text longer than the file": b"X" + struct.pack("<I", 2**31) + b"a",
    "bytes longer than the file": b"\x8e" + struct.pack("<Q", 2**62) + b"a",
    "text that is none": b"X" + struct.pack("<I", 2) + b"\xff\xfe",
    "a value from an empty stack": b"a",
    "a value that the memo has not": b"h\x09",
    "a key that is a list": b"}]" + text("a") + b"s",
    "entries of a number": number(3) + text("a") + text("b") + b"s",
    "values for a tuple": EMPTY_TUPLE + text("a") + b"a",
    "no value": b"",
    "two values": number(1) + number(2),
    "instructions of the future": b"\x80\x63",
    "bytes alone": data(b"abc"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_the_words_used_here_are_right(kind, tmp_path):
    program, value = WHOLE[kind]
    found = read_torch(laid(tmp_path / "a.pt", program))
    assert type(found) is type(value) and bool((found == value).all())


def test_attacks_are_refused_and_nothing_crashes_or_runs(tmp_path):
    for i, program in enumerate(ATTACKS.values()):
        laid(tmp_path / f"{i}.pt", program)
    # In a process of its own: what follows a pointer of the file's would end it.
    code = (
        "import sys, resource; from pathlib import Path\n"
        "from saekit.core.errors import FormatError\n"
        "from saekit.core.torch_files import read_torch\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for i in range(int(sys.argv[1])):\n"
        "    try: print(i, repr(read_torch(Path(f'{i}.pt')))[:100])\n"
        "    except FormatError as error: assert f'{i}.pt' in str(error), error\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 500_000, grown\n"
        "print('end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(len(ATTACKS))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    read = [list(ATTACKS)[int(line.split()[0])] for line in done.stdout.splitlines()[:-1]]
    assert done.returncode == 0 and done.stdout.endswith("end\n"), done.stdout + done.stderr
    assert not read, read
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_torch_writes_comes_back(protocol, tmp_path):
    layer = torch.nn.Linear(3, 4)
    raw = {
        "turned": torch.randn(3, 4).t(),
        "part": torch.randn(10)[3:7:2],
        "none": torch.zeros(0, 4),
        "bf16": torch.randn(5).bfloat16(),
        "flags": torch.tensor([True, False]),
        "rows": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.ones((2, 3), "i2")),
        "number": np.float32(2.5),
        "flag": np.bool_(True),
        "scalar": np.array(3.0),
        "plain": [1, 2.5, None, True, "é", 10**20, -3, (1, 2, 3, 4), (), {"a": {3: 4}}],
        "parameter": layer.weight,
        "state": layer.state_dict(),
        "counts": Counter({1: 2}),
        "ordered": OrderedDict(a=1),
        "size": torch.Size([1, 2]),
    }
    torch.save(raw, tmp_path / "a.pt", pickle_protocol=protocol)
    found = read_torch(tmp_path / "a.pt")
    assert list(found) == list(raw)
    for key, value in raw.items():
        if isinstance(value, torch.Tensor | np.ndarray):
            assert found[key].dtype == value.dtype and found[key].shape == value.shape
            assert bool((found[key] == value).all())
        elif key == "state":
            assert all(torch.equal(found[key][n], t) for n, t in value.items())
        else:
            assert found[key] == value
    assert found["turned"].stride() == raw["turned"].stride()
    assert type(found["number"]) is np.float32 and type(found["flag"]) is np.bool_


def test_tensors_of_one_storage_share_it(tmp_path):
    whole = torch.zeros(1000)
    torch.save({f"{i}": whole[i : i + 500] for i in range(100)}, tmp_path / "a.pt")
    found = read_state(tmp_path / "a.pt")
    assert len({t.untyped_storage().data_ptr() for t in found.values()}) == 1


def hurt_zips():
    """Return files whose zip, not whose program, is wrong."""
    program = WHOLE["tensor"][0]
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=False)
    return {
        "packed": lambda p: laid(p, program, zipfile.ZIP_DEFLATED),
        "packed otherwise": lambda p: laid(p, program, zipfile.ZIP_LZMA),
        "two programs": lambda p: laid(p, program, **{"b/data.pkl": b"N."}),
        "another byte order": lambda p: laid(p, program, **{"a/byteorder": b"big"}),
        "of before torch 1.6": lambda p: p.write_bytes(buffer.getvalue()),
        "no zip": lambda p: p.write_bytes(b"PK\x03\x04 and then nothing"),
        "empty": lambda p: p.write_bytes(b""),
    }


@pytest.mark.parametrize("how", hurt_zips())
def test_other_zips_are_refused(how, tmp_path):
    hurt_zips()[how](tmp_path / "a.pt")
    with pytest.raises(FormatError, match=r"a\.pt"):
        read_torch(tmp_path / "a.pt")
