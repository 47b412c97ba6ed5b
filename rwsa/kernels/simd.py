"""A vector of 16 float32 for numba, with loads, stores and arithmetic.

Numba vectorizes simple loops itself, but scan and attention loops carry sums through memory, access many
arrays and run over few channels; its code for them is several times slower.

LLVM maps one vector to two AVX2 registers, one AVX-512 register or four NEON registers.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

_config: Any = config  # its variables have no types
LANES = 16
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
# All but reassociation, which would remove the rounding step of `exp2`.
FAST_MATH = {"nnan", "ninf", "nsz", "arcp", "contract", "afn"}


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Numba's `njit`, whose cache belongs to the present sources of all kernels.

    Numba notices a change of the file that defines a function, but not of the files whose functions it calls.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        folder, _config.CACHE_DIR = _config.CACHE_DIR, str(_cache_folder())
        try:
            return njit(**options)(function)
        finally:
            _config.CACHE_DIR = folder

    return decorate


@cache
def _cache_folder() -> Path:
    here = Path(__file__).parent
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py"))))
    return Path(_config.CACHE_DIR or here / "__pycache__") / sources.hexdigest()[:16]


# `kernel` for functions called from Python; `part_of_kernel` for those called only by kernels, without
# wrappers.
kernel = partial(
    _compiled,
    nogil=True,
    fastmath=FAST_MATH,
    boundscheck=False,
    error_model="numpy",
    cache=True,
    no_cfunc_wrapper=True,
)
part_of_kernel = partial(kernel, no_cpython_wrapper=True)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


VECTOR = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _FLOATS)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _FLOATS.as_pointer())


@intrinsic
def load(typing_context: Any, array: Any, at: Any) -> Any:
    """Load the vector at flat position `at` of a contiguous float32 array `[size]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = builder.load(_pointer(context, builder, signature.args[0], *arguments))
        vector.align = 4
        return vector

    return VECTOR(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, at: Any, vector: Any) -> Any:
    """Store a vector at flat position `at` of a contiguous float32 array `[size]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], target).align = 4
        return context.get_dummy_value()

    return types.none(array, types.intp, VECTOR), generate


@intrinsic
def broadcast(typing_context: Any, array: Any, at: Any) -> Any:
    """A vector filled with the float32 at flat position `at`; the bounds are not checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return _repeated(builder, builder.load(builder.gep(data, [arguments[1]])))

    return VECTOR(array, types.intp), generate


@intrinsic
def splat(typing_context: Any, value: Any) -> Any:
    """A vector filled with one float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _repeated(builder, arguments[0])

    return VECTOR(types.float32), generate


def _repeated(builder: Any, value: Any) -> Any:
    single = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, _int(0))
    return builder.shuffle_vector(single, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, None))


@intrinsic
def total(typing_context: Any, vector: Any) -> Any:
    """The sum of a vector's elements, pairwise."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        part, width = arguments[0], LANES
        while width > 1:
            width //= 2
            low, high = (
                ir.Constant(ir.VectorType(ir.IntType(32), width), [*range(begin, begin + width)])
                for begin in (0, width)
            )
            part = builder.fadd(
                builder.shuffle_vector(part, part, low), builder.shuffle_vector(part, part, high)
            )
        return builder.extract_element(part, _int(0))

    return types.float32(VECTOR), generate


@intrinsic
def add_totals(typing_context: Any, array: Any, at: Any, vectors: Any) -> Any:
    """Add the totals of a tuple of eight vectors to eight floats of `array` from flat position `at`.

    Vectors are added in pairs, half by half, which takes a third of eight totals' instructions.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts, width = cgutils.unpack_tuple(builder, arguments[2]), LANES
        while width > 1:
            width //= 2
            pairs = zip(parts[::2], parts[1::2], strict=True) if len(parts) > 1 else [(parts[0], parts[0])]
            parts = [_sum_of_halves(builder, *pair, width) for pair in pairs]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        for number, part in enumerate(parts):
            begin = builder.add(arguments[1], ir.Constant(ir.IntType(64), number * 8 // len(parts)))
            part = builder.shuffle_vector(part, part, _places(range(8 // len(parts))))
            target = builder.bitcast(builder.gep(data, [begin]), part.type.as_pointer())
            before = builder.load(target)
            before.align = 4
            builder.store(builder.fadd(before, part), target).align = 4
        return context.get_dummy_value()

    return types.none(array, types.intp, vectors), generate


def _sum_of_halves(builder: Any, a: Any, b: Any, width: int) -> Any:
    """Every run of 2·`width` elements of a, then of b, reduced to `width`: its first half plus its second."""
    starts = range(0, 2 * LANES, 2 * width)
    low, high = (
        builder.shuffle_vector(a, b, _places(start + half + i for start in starts for i in range(width)))
        for half in (0, width)
    )
    return builder.fadd(low, high)


def _transposed(builder: Any, four: Sequence[Any]) -> list[Any]:
    """Transposes every 4 × 4 block of four vectors."""
    blocks = range(0, LANES, 4)
    low, high = (
        [block + place for block in blocks for place in half] for half in ((0, LANES), (2, LANES + 2))
    )
    rows = [(block, block + LANES, block + 1, block + LANES + 1) for block in blocks]
    pairs = [
        builder.shuffle_vector(a, b, _places(place + up for row in rows for place in row))
        for a, b in (four[:2], four[2:])
        for up in (0, 2)
    ]
    return [
        builder.shuffle_vector(a, b, _places(place + i for place in half for i in (0, 1)))
        for a, b in (pairs[::2], pairs[1::2])
        for half in (low, high)
    ]


def _rows(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Pointers to four floats, `shift` floats after every lane's offset; arguments: array, offsets, shift."""
    data, starts = (
        context.make_array(kind)(context, builder, array).data
        for kind, array in zip(signature[:2], arguments[:2], strict=True)
    )
    four = ir.VectorType(ir.FloatType(), 4).as_pointer()
    offsets = (builder.load(builder.gep(starts, [_int(lane)])) for lane in range(LANES))
    return [builder.bitcast(builder.gep(data, [builder.add(at, arguments[2])]), four) for at in offsets]


@intrinsic
def gather_four(typing_context: Any, array: Any, offsets: Any, shift: Any, chunk: Any, at: Any) -> Any:
    """Load four floats of every lane, at its offset plus `shift`, and store them as vectors from `at`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loaded = [builder.load(row) for row in _rows(context, builder, signature.args, arguments)]
        for row in loaded:
            row.align = 4
        joined = [_joined(builder, loaded[first::4]) for first in range(4)]
        data = context.make_array(signature.args[3])(context, builder, arguments[3]).data
        target = builder.bitcast(builder.gep(data, [arguments[4]]), _FLOATS.as_pointer())
        for place, vector in enumerate(_transposed(builder, joined)):
            builder.store(vector, builder.gep(target, [_int(place)])).align = 4
        return context.get_dummy_value()

    return types.none(array, offsets, types.intp, chunk, types.intp), generate


@intrinsic
def scatter_four(
    typing_context: Any, array: Any, offsets: Any, shift: Any, chunk: Any, at: Any, add: Any
) -> Any:
    """Write four vectors from `at` where `gather_four` reads them; added to what is there if `add` is 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[3])(context, builder, arguments[3]).data
        source = builder.bitcast(builder.gep(data, [arguments[4]]), _FLOATS.as_pointer())
        loaded = [builder.load(builder.gep(source, [_int(place)])) for place in range(4)]
        for vector in loaded:
            vector.align = 4
        joined, rows = _transposed(builder, loaded), _rows(context, builder, signature.args, arguments)
        parts = [
            builder.shuffle_vector(joined[lane % 4], joined[lane % 4], _places(range(first, first + 4)))
            for first in range(0, LANES, 4)
            for lane in range(first, first + 4)
        ]
        with builder.if_else(builder.trunc(arguments[5], ir.IntType(1))) as (adding, writing):
            with adding:
                for row, part in zip(rows, parts, strict=True):
                    before = builder.load(row)
                    before.align = 4
                    builder.store(builder.fadd(before, part), row).align = 4
            with writing:
                for row, part in zip(rows, parts, strict=True):
                    builder.store(part, row).align = 4
        return context.get_dummy_value()

    return types.none(array, offsets, types.intp, chunk, types.intp, types.intp), generate


def _joined(builder: Any, parts: Sequence[Any]) -> Any:
    """Vectors one after the other in one."""
    width = 4
    while len(parts) > 1:
        width, pairs = 2 * width, zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(a, b, _places(range(width))) for a, b in pairs]
    return parts[0]


def _places(places: Iterable[int]) -> ir.Constant:
    listed = list(places)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(listed)), listed)


def _int(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), value)


def _define(symbol: Any, instruction: str) -> None:
    # By numba's low-level interface, since `overload` doubles compile times.
    @infer_global(symbol)
    class Arithmetic(ConcreteTemplate):
        cases = (signature(VECTOR, VECTOR, VECTOR),)

    @lower_builtin(symbol, VECTOR, VECTOR)
    def compute(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


@intrinsic
def maximum(typing_context: Any, a: Any, b: Any) -> Any:
    """Elementwise maximum; b where a is NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return VECTOR(VECTOR, VECTOR), generate


@intrinsic
def inverse_root(typing_context: Any, vector: Any) -> Any:
    """Elementwise 1 / √x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(_FLOATS, [_FLOATS])
        root = cgutils.get_or_insert_function(builder.module, function, f"llvm.sqrt.v{LANES}f32")
        return builder.fdiv(ir.Constant(_FLOATS, [1.0] * LANES), builder.call(root, arguments))

    return VECTOR(VECTOR), generate


@intrinsic
def where_positive(typing_context: Any, x: Any, a: Any, b: Any) -> Any:
    """Elementwise a where x > 0, else b."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, a, b = arguments
        return builder.select(builder.fcmp_ordered(">", x, ir.Constant(_FLOATS, [0.0] * LANES)), a, b)

    return VECTOR(VECTOR, VECTOR, VECTOR), generate


@intrinsic
def _add_to_exponent(typing_context: Any, mantissa: Any, shifted: Any) -> Any:
    """mantissa · 2^n, where n is in the low bits of `shifted`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mantissa_bits, low_bits = (builder.bitcast(argument, _INTS) for argument in arguments)
        exponent = builder.shl(low_bits, ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(builder.add(mantissa_bits, exponent), _FLOATS)

    return VECTOR(VECTOR, VECTOR), generate


LOG2_E, LN_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
LOWEST, _ROUNDER = np.float32(-126.0), np.float32(1.5 * 2**23)
# 2^f on [-0.5, 0.5], minimax in relative error: 7.5e-8 before rounding.
_C0, _C1, _C2 = np.float32(1.0000000716546416), np.float32(0.6931469670652649), np.float32(0.2402211972396918)
_C3, _C4, _C5 = np.float32(0.0555071327287539), np.float32(0.0096755413310214), np.float32(0.0013276472167820)


@njit(inline="always")
def exp2(x):  # type: ignore[no-untyped-def]
    """Elementwise 2^x for x ≤ 126; 2^-126 below -126.

    Adding 1.5·2^23 rounds x to an integer, which is then in the low bits of the sum and is added to the
    exponent of the polynomial's value.
    """
    x = maximum(x, splat(LOWEST))
    shifted = x + splat(_ROUNDER)
    f = x - (shifted - splat(_ROUNDER))
    mantissa = splat(_C4) + f * splat(_C5)
    mantissa = splat(_C2) + f * (splat(_C3) + f * mantissa)
    mantissa = splat(_C0) + f * (splat(_C1) + f * mantissa)
    return _add_to_exponent(mantissa, shifted)


@njit(inline="always")
def sigmoid(x):  # type: ignore[no-untyped-def]
    """Elementwise 1 / (1 + e^-x); 2^-126 below -87."""
    clamped = maximum(x * splat(LOG2_E), splat(LOWEST))
    return splat(_ONE) / (splat(_ONE) + exp2(splat(_ZERO) - clamped))


@njit(inline="always")
def softplus(x):  # type: ignore[no-untyped-def]
    """Elementwise log(1 + e^x), accurate in float32 also where it is small.

    It is max(x, 0) + log(1 + v), v = e^-|x|, and log(1 + v) = 2 artanh(s) = 2 (s + s³/3 + s⁵/5 + …) with
    s = v / (2 + v), at most 1/3.
    """
    v = exp2((splat(_ZERO) - maximum(x, splat(_ZERO) - x)) * splat(LOG2_E))
    s = v / (splat(_TWO) + v)
    s2 = s * s
    series = splat(_TWO / np.float32(11)) + s2 * splat(_TWO / np.float32(13))
    series = splat(_TWO / np.float32(7)) + s2 * (splat(_TWO / np.float32(9)) + s2 * series)
    series = splat(_TWO / np.float32(3)) + s2 * (splat(_TWO / np.float32(5)) + s2 * series)
    return maximum(x, splat(_ZERO)) + s * (splat(_TWO) + s2 * series)
