"""Self-attention along one axis of `[B, T, F, C]`, by torch or compiled for the CPU.

Legend: B batch, T frames, F frequency bins, C channels, H heads, W width of a head, L length.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels import attention_loops as loops
from rwsa.kernels.dispatch import has_cpu_kernel, runs_directly
from rwsa.kernels.layout import SequenceAxis, as_sequences, flat
from rwsa.kernels.threads import run_in_parts


def attend(qkv_BTF3C: Tensor, heads: int, axis: SequenceAxis) -> Tensor:
    """Scaled dot-product attention along `axis`, without a mask.

    Args:
        qkv_BTF3C: queries, keys and values concatenated, each of H heads of W.
        heads: H.
        axis: the axis along which positions attend to one another.

    Returns:
        `[B, T, F, C]` in the dtype of the input; on a CPU computed in float32 unless the input is float64.
    """
    if has_cpu_kernel(qkv_BTF3C):
        return _attend_compiled(qkv_BTF3C, heads, axis)
    return attend_reference(qkv_BTF3C, heads, axis, pad=qkv_BTF3C.device.type != "cpu")


def attend_reference(qkv_BTF3C: Tensor, heads: int, axis: SequenceAxis, *, pad: bool = False) -> Tensor:
    """`attend` by torch's scaled_dot_product_attention, on any device and in any dtype.

    `pad` fills up heads with zeros to a multiple of 16 bytes. On GPUs torch else computes all scores of a
    sequence at once and saves them, for most of our widths: 4, 6, 8, 9 or 12 channels.
    """
    qkv = qkv_BTF3C.unflatten(-1, (3, heads, -1))
    width = qkv.shape[-1]
    if pad:
        qkv = F.pad(qkv, (0, -width % (16 // qkv.element_size())))
    if axis is SequenceAxis.TIME:
        qkv = qkv.transpose(1, 2)
    batch, rows = qkv.shape[:2]
    q, k, v = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4)  # each (B rows) H L W
    attended = F.scaled_dot_product_attention(q, k, v, scale=width**-0.5)[..., :width]
    attended = attended.transpose(1, 2).flatten(2).unflatten(0, (batch, rows))
    return attended.transpose(1, 2) if axis is SequenceAxis.TIME else attended


def _attend_compiled(qkv_BTF3C: Tensor, heads: int, axis: SequenceAxis) -> Tensor:
    qkv = as_sequences(qkv_BTF3C.float().contiguous(), axis)
    y, _, _ = (_attend if runs_directly(qkv) else _attention)(qkv, heads)
    return y.view(*qkv_BTF3C.shape[:-1], -1).to(qkv_BTF3C.dtype)


def _attend(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """y, and each query's peak score and normalizer, shaped as in `attention_loops.attention_forward`."""
    outer, length, inner, triple = qkv.shape
    y = qkv.new_empty(outer, length, inner, triple // 3)
    peaks, normalizers = (qkv.new_empty(outer * inner, heads, length) for _ in range(2))
    arrays = [flat(x) for x in (y, peaks, normalizers)]
    forward: Callable[..., None] = loops.attention_forward
    run_in_parts(outer * inner, lambda _, *span: forward(flat(qkv), _shape(qkv, heads), *arrays, *span))
    return y, peaks, normalizers


_attention = torch.library.custom_op("rwsa::attention_cpu", _attend, mutates_args=())


@_attention.register_fake
def _(qkv, heads):  # type: ignore[no-untyped-def]
    outer, length, inner, triple = qkv.shape
    y = qkv.new_empty(outer, length, inner, triple // 3)
    return y, *(qkv.new_empty(outer * inner, heads, length) for _ in range(2))


@torch.library.custom_op("rwsa::attention_cpu_backward", mutates_args=())
def _attention_backward(
    qkv: Tensor, y: Tensor, dy: Tensor, peaks: Tensor, normalizers: Tensor, heads: int
) -> Tensor:
    dqkv = torch.empty_like(qkv)
    inputs, outputs = [flat(x) for x in (qkv, y, dy)], [flat(x) for x in (peaks, normalizers, dqkv)]
    backward: Callable[..., None] = loops.attention_backward
    run_in_parts(
        qkv.shape[0] * qkv.shape[2], lambda _, *span: backward(*inputs, _shape(qkv, heads), *outputs, *span)
    )
    return dqkv


@_attention_backward.register_fake
def _(qkv, y, dy, peaks, normalizers, heads):  # type: ignore[no-untyped-def]
    return torch.empty_like(qkv)


def _save_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    qkv, ctx.heads = inputs
    ctx.save_for_backward(qkv, *output)


def _gradients(ctx, dy, *_):  # type: ignore[no-untyped-def]
    qkv, y, peaks, normalizers = ctx.saved_tensors
    return _attention_backward(qkv, y, dy.contiguous(), peaks, normalizers, ctx.heads), None


_attention.register_autograd(_gradients, setup_context=_save_context)


def _shape(qkv: Tensor, heads: int) -> tuple[int, int, int, int]:
    return qkv.shape[1], qkv.shape[2], heads, qkv.shape[3] // (3 * heads)
