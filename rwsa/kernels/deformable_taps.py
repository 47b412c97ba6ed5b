"""The inner part of the deformable 3×3 convolution, unrolled: 5×5 positions around 16 bins of a channel.

A tap at row a and column b (0 to 2) reads the neighbours in rows a to a + 2 and columns b to b + 2 of these
positions, with its nine bilinear weights ("shares", vectors `[tap, 3, 3]`). `rows` has where each of the five
rows begins in x, at its first column; `inside` is 1 for rows of the image, 0 for others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rwsa.kernels.simd import _FLOATS, VECTOR, _pointer, _repeated

SPAN = 5
TAPS = 9
SHARES = TAPS * 9
_ZERO = ir.Constant(_FLOATS, [0.0] * _FLOATS.count)


def _neighbours(row: int, column: int) -> Iterator[tuple[int, int]]:
    """The taps that read a position, and the number of the share with which they do."""
    for a in range(3):
        for b in range(3):
            if 0 <= row - a < 3 and 0 <= column - b < 3:
                yield a * 3 + b, (a * 3 + b) * 9 + (row - a) * 3 + column - b


class _Operands:
    """Vectors and scalars at constant distances from a flat position of an array."""

    def __init__(self, context: Any, builder: Any, array_type: Any, array: Any, at: Any = None) -> None:
        self.builder = builder
        self.at = ir.Constant(ir.IntType(64), 0) if at is None else at
        self.pointer: Callable[[Any], Any] = lambda place: _pointer(
            context, builder, array_type, array, place
        )
        self.data = context.make_array(array_type)(context, builder, array).data

    def _place(self, shift: int) -> Any:
        return self.builder.add(self.at, ir.Constant(ir.IntType(64), shift))

    def scalar(self, shift: int) -> Any:
        return self.builder.load(self.builder.gep(self.data, [self._place(shift)]))

    def repeated(self, shift: int) -> Any:
        return _repeated(self.builder, self.scalar(shift))

    def vector(self, shift: int) -> Any:
        vector = self.builder.load(self.pointer(self._place(shift)))
        vector.align = 4
        return vector

    def add(self, shift: int, value: Any) -> None:
        target = self.pointer(self._place(shift))
        before = self.builder.load(target)
        before.align = 4
        self.builder.store(self.builder.fadd(before, value), target).align = 4


def _combined(builder: Any, factors: list[Any], shares: _Operands, row: int, column: int) -> Any:
    """The weight of a position: the sum over the taps that read it."""
    combined = _ZERO
    for tap, number in _neighbours(row, column):
        product = builder.fmul(factors[tap], shares.vector(number * _FLOATS.count))
        combined = builder.fadd(combined, product)
    return combined


@intrinsic
def sample(typing_context: Any, weights: Any, at: Any, shares: Any, x: Any, rows: Any, inside: Any) -> Any:
    """The convolution's output; the channel's nine weights begin at `at`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        factor = _Operands(context, builder, kinds[0], *arguments[:2])
        factors = [factor.repeated(tap) for tap in range(TAPS)]
        own = _Operands(context, builder, kinds[2], arguments[2])
        places = _Operands(context, builder, kinds[4], arguments[4])
        valid = _Operands(context, builder, kinds[5], arguments[5])
        summed = _ZERO
        for row in range(SPAN):
            read = _Operands(context, builder, kinds[3], arguments[3], places.scalar(row))
            line = _ZERO
            for column in range(SPAN):
                combined = _combined(builder, factors, own, row, column)
                line = builder.fadd(line, builder.fmul(combined, read.vector(column)))
            summed = builder.fadd(summed, builder.fmul(line, valid.repeated(row)))
        return summed

    return VECTOR(weights, types.intp, shares, x, rows, inside), generate


@intrinsic
def add_gradients(
    typing_context: Any,
    slope: Any,
    weights: Any,
    at: Any,
    shares: Any,
    x: Any,
    rows: Any,
    inside: Any,
    dshares: Any,
    dx: Any,
    dweights: Any,
) -> Any:
    """Add the gradients of `sample`, whose output's is `slope`; those of the weights as a vector each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, lanes = signature.args, _FLOATS.count
        factor = _Operands(context, builder, kinds[1], *arguments[1:3])
        own = _Operands(context, builder, kinds[3], arguments[3])
        places = _Operands(context, builder, kinds[5], arguments[5])
        valid = _Operands(context, builder, kinds[6], arguments[6])
        by_share = _Operands(context, builder, kinds[7], arguments[7])
        first = builder.mul(arguments[2], ir.Constant(ir.IntType(64), lanes))
        by_weight = _Operands(context, builder, kinds[9], arguments[9], first)
        factors = [factor.repeated(tap) for tap in range(TAPS)]
        sums = [_ZERO] * TAPS
        for row in range(SPAN):
            inner = builder.fmul(arguments[0], valid.repeated(row))
            read, written = (
                _Operands(context, builder, kinds[i], arguments[i], places.scalar(row)) for i in (4, 8)
            )
            for column in range(SPAN):
                product = builder.fmul(inner, read.vector(column))
                combined = _ZERO
                for tap, number in _neighbours(row, column):
                    share = own.vector(number * lanes)
                    combined = builder.fadd(combined, builder.fmul(factors[tap], share))
                    sums[tap] = builder.fadd(sums[tap], builder.fmul(product, share))
                    by_share.add(number * lanes, builder.fmul(product, factors[tap]))
                written.add(column, builder.fmul(combined, inner))
        for tap in range(TAPS):
            by_weight.add(tap * lanes, sums[tap])
        return context.get_dummy_value()

    kinds = (VECTOR, weights, types.intp, shares, x, rows, inside, dshares, dx, dweights)
    return types.none(*kinds), generate
