"""What compiled loops are made of: vectors of 16-bit keys, bits of numbers, and the compiler.

A key is an integer that orders bfloat16 numbers as they are ordered (`_native._key`).
"""

import functools
import inspect
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 32  # 16-bit numbers of the widest vector
LOWEST = -32768


def _cast(to: Any, since: Any, code: Any) -> Any:
    """Return a function for compiled code that reads the bits of one type as another."""

    def typing(_context: Any, _value: Any) -> Any:
        return to(since), lambda _c, builder, _s, args: builder.bitcast(args[0], code)

    return intrinsic(typing)


as_float: Any = _cast(types.float32, types.int32, ir.FloatType())
as_bits: Any = _cast(types.int32, types.float32, ir.IntType(32))


_VECTOR, _PLACE = ir.VectorType(ir.IntType(16), LANES), ir.IntType(32)


def _everywhere(builder: Any, value: Any) -> Any:
    empty, order = ir.Constant(_VECTOR, ir.Undefined), ir.VectorType(_PLACE, LANES)
    one = builder.insert_element(empty, value, ir.Constant(_PLACE, 0))
    return builder.shuffle_vector(one, empty, ir.Constant(order, None))


def _memory(context: Any, builder: Any, kind: Any, array: Any, first: Any) -> Any:
    """Return where LANES numbers of an array are."""
    data = context.make_array(kind)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [first]), _VECTOR.as_pointer())


def _vector_of_keys(builder: Any, at: Any, keep: Any) -> Any:
    """Return what `_key` returns, of LANES numbers."""
    bits = builder.load(at)
    bits.align = 2
    kept = builder.and_(bits, _everywhere(builder, keep))
    of_16 = (ir.Constant(ir.IntType(16), n) for n in (15, 0x7FFF))
    shift, low = (_everywhere(builder, n) for n in of_16)
    return builder.xor(kept, builder.and_(builder.ashr(kept, shift), low))


def _compare(_context: Any, row: Any, first: Any, keep: Any, least: Any) -> Any:
    """Compare the keys of LANES scores at once: a bit each, the first the lowest.

    What the compiler makes of a loop with such a result is several times as long.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = _memory(context, builder, signature.args[0], args[0], args[1])
        keys = _vector_of_keys(builder, at, args[2])
        on = builder.icmp_signed(">=", keys, _everywhere(builder, args[3]))
        return builder.bitcast(on, ir.IntType(LANES))

    return types.uint32(row, types.intp, types.int16, types.int16), code


def _compare_keys(_context: Any, keys: Any, first: Any, least: Any) -> Any:
    """Compare LANES numbers that are keys already, as `_compare` does those of scores.

    The key of a negative key is another number, so the two must not be mixed up.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = builder.load(_memory(context, builder, signature.args[0], args[0], args[1]))
        found.align = 2
        on = builder.icmp_signed(">=", found, _everywhere(builder, args[2]))
        return builder.bitcast(on, ir.IntType(LANES))

    return types.uint32(keys, types.intp, types.int16), code


def _largest(_context: Any, row: Any, first: Any, count: Any, keep: Any, best: Any) -> Any:
    """Write the largest key under each lane of `count` vectors that follow each other."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lowest = ir.Constant(ir.IntType(16), LOWEST)
        largest = cgutils.alloca_once_value(builder, _everywhere(builder, lowest))
        with cgutils.for_range(builder, args[2]) as loop:
            step = builder.mul(loop.index, ir.Constant(loop.index.type, LANES))
            first = builder.add(args[1], step)
            at = _memory(context, builder, signature.args[0], args[0], first)
            keys, before = _vector_of_keys(builder, at, args[3]), builder.load(largest)
            more = builder.icmp_signed(">", keys, before)
            builder.store(builder.select(more, keys, before), largest)
        zero = ir.Constant(ir.IntType(64), 0)
        to = _memory(context, builder, signature.args[4], args[4], zero)
        builder.store(builder.load(largest), to).align = 2
        return context.get_dummy_value()

    return types.void(row, types.intp, types.intp, types.int16, best), code


def _of_bits(name: str) -> Any:
    """Return a function for compiled code that counts bits of a number."""

    def typing(_context: Any, _mask: Any) -> Any:
        def code(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
            if name == "cttz":
                found = builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))
            else:
                found = builder.ctpop(args[0])
            return builder.zext(found, ir.IntType(64))

        return types.int64(types.uint32), code

    return intrinsic(typing)


trailing_zeros, popcount = _of_bits("cttz"), _of_bits("ctpop")


at_least: Any = intrinsic(_compare)
keys_at_least: Any = intrinsic(_compare_keys)
vector_max: Any = intrinsic(_largest)


def compiled(function: Any, **options: Any) -> Any:
    """Compile a function, without what tests wrap around it."""
    jit = numba.njit(nogil=True, cache=True, boundscheck=False, **options)
    return jit(inspect.unwrap(function))


in_any_order = functools.partial(compiled, fastmath={"reassoc", "contract"})
