"""A tile: several vectors of 16 float32 in registers, for the inner loops of convolutions.

Its number of vectors is that of the elements of a tuple argument, so that a loop is compiled once per size.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from rwsa.kernels.simd import _FLOATS, VECTOR, _pointer, _repeated

_WIDE = bool(binding.get_host_cpu_features().get("avx512f"))


def outputs_at_once(channels: int) -> tuple[int, ...]:
    """A tuple with as many elements as a convolution accumulates outputs at once, for `zero_tile`.

    It divides `channels`. Each output takes two vectors, or three for the gradients of its weights, and all
    must fit in the registers: 32 of a vector each with AVX-512, elsewhere 16 or 32 of half or a quarter.
    """
    if not _WIDE:
        return (0, 0)
    return (0,) * (8 if channels % 8 == 0 else 4)


def _rows(builder: Any, tile: Any) -> list[Any]:
    return [builder.extract_value(tile, row) for row in range(tile.type.count)]


def _tile(builder: Any, rows: list[Any]) -> Any:
    tile = ir.Constant(ir.ArrayType(_FLOATS, len(rows)), ir.Undefined)
    for row, vector in enumerate(rows):
        tile = builder.insert_value(tile, vector, row)
    return tile


def _load(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    vector = builder.load(_pointer(context, builder, array_type, array, at))
    vector.align = 4
    return vector


def _advanced(builder: Any, at: Any, by: Any, times: int) -> Any:
    return builder.add(at, builder.mul(by, ir.Constant(ir.IntType(64), times)))


@intrinsic
def zero_tile(typing_context: Any, rows: Any) -> Any:
    """A tile of zeros with as many vectors as the tuple `rows` has elements."""
    tile_type = types.UniTuple(VECTOR, rows.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _tile(builder, [ir.Constant(_FLOATS, [0.0] * _FLOATS.count)] * rows.count)

    return tile_type(rows), generate


@intrinsic
def load_tile(typing_context: Any, rows: Any, array: Any, at: Any, pitch: Any) -> Any:
    """The vectors at flat positions `at`, `at` + `pitch`, …, as many as the tuple `rows` has elements."""
    tile_type = types.UniTuple(VECTOR, rows.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, start, by = arguments
        return _tile(
            builder,
            [
                _load(context, builder, array, source, _advanced(builder, start, by, row))
                for row in range(rows.count)
            ],
        )

    return tile_type(rows, array, types.intp, types.intp), generate


@intrinsic
def store_tile(typing_context: Any, array: Any, at: Any, pitch: Any, tile: Any) -> Any:
    """Store a tile's vectors at flat positions `at`, `at` + `pitch`, …."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, start, by, vectors = arguments
        for row, vector in enumerate(_rows(builder, vectors)):
            where = _pointer(context, builder, array, target, _advanced(builder, start, by, row))
            builder.store(vector, where).align = 4
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, tile), generate


@intrinsic
def add_scaled(typing_context: Any, tile: Any, vector: Any, weights: Any, at: Any) -> Any:
    """tile[i] + vector · weights[at + i]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors, x, array, start = arguments
        data = context.make_array(weights)(context, builder, array).data
        rows = []
        for row, vector in enumerate(_rows(builder, vectors)):
            index = builder.add(start, ir.Constant(ir.IntType(64), row))
            weight = _repeated(builder, builder.load(builder.gep(data, [index])))
            rows.append(builder.fadd(vector, builder.fmul(x, weight)))
        return _tile(builder, rows)

    return tile(tile, VECTOR, weights, types.intp), generate


@intrinsic
def add_products(
    typing_context: Any, tile: Any, a: Any, b: Any, c: Any, array: Any, at: Any, pitch: Any
) -> Any:
    """tile[3 i], tile[3 i + 1], tile[3 i + 2] + (a, b, c) · the vector at flat position `at` + i `pitch`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors, *factors, source, start, by = arguments
        rows = _rows(builder, vectors)
        for row in range(0, len(rows), 3):
            x = _load(context, builder, array, source, _advanced(builder, start, by, row // 3))
            for column, factor in enumerate(factors):
                rows[row + column] = builder.fadd(rows[row + column], builder.fmul(x, factor))
        return _tile(builder, rows)

    return tile(tile, VECTOR, VECTOR, VECTOR, array, types.intp, types.intp), generate
