"""Compiled operations against their torch versions in float64: values and all gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rwsa.kernels.attention import attend, attend_reference
from rwsa.kernels.deformable import deform_conv, deform_conv_reference
from rwsa.kernels.dense import has_dense_kernel
from rwsa.kernels.dispatch import float32_products, has_cpu_kernel
from rwsa.kernels.layout import SequenceAxis
from rwsa.kernels.mixer import MixerWeights, mix_both, mix_both_reference
from rwsa.kernels.scan import use_backend
from rwsa.kernels.threads import buffer
from rwsa.models.layers import DenseBlock

Operation = Callable[..., Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outcome(operation: Operation, tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The operation's value, and its gradients for a fixed random output gradient."""
    leaves = [t.to(dtype).requires_grad_() for t in tensors]
    y = operation(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, normal(*y.shape, seed=99).to(dtype))]


def assert_agree(
    compiled: Operation, reference: Operation, tensors: Sequence[Tensor], *, tolerance: float = 1e-5
) -> None:
    """Errors relative to the largest value."""
    truth = outcome(reference, tensors, torch.float64)
    values = outcome(compiled, tensors, torch.float32)
    for number, (found, true) in enumerate(zip(values, truth, strict=True)):
        assert found.shape == true.shape
        error = (found - true).abs().max() / true.abs().max().clamp(min=1e-6)
        assert error < tolerance, f"{'value' if number == 0 else f'gradient {number}'}: {error:.1e}"


@pytest.mark.parametrize("axis", SequenceAxis)
@pytest.mark.parametrize(
    ("shape", "channels", "heads"),
    [((2, 9, 5), 8, 2), ((1, 33, 17), 12, 4), ((1, 1, 3), 24, 2), ((1, 70, 65), 36, 4), ((2, 3, 16), 7, 1)],
)
def test_attention(axis: SequenceAxis, shape: tuple[int, ...], channels: int, heads: int) -> None:
    qkv = 1.5 * normal(*shape, 3 * channels)
    assert_agree(lambda x: attend(x, heads, axis), lambda x: attend_reference(x, heads, axis), [qkv])


@pytest.mark.parametrize("axis", SequenceAxis)
def test_attention_of_padded_heads_is_the_same(axis: SequenceAxis) -> None:
    for heads in (1, 2, 3, 4):  # of 36, 18, 12 and 9 channels
        qkv = normal(2, 5, 7, 3 * 36).float()
        plain, padded = (
            outcome(lambda x, pad=pad, heads=heads: attend_reference(x, heads, axis, pad=pad), [qkv], dtype)
            for pad, dtype in ((False, torch.float64), (True, torch.float32))
        )
        for found, true in zip(padded, plain, strict=True):
            assert (found - true).abs().max() < 1e-5


@pytest.mark.parametrize(("dtype", "widths"), [(torch.float32, (4, 8, 12)), (torch.bfloat16, (8, 8, 16))])
def test_heads_are_padded_to_16_bytes(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, widths: tuple[int, ...]
) -> None:
    """Otherwise torch's fast attention is refused on GPUs."""
    seen, attention = [], F.scaled_dot_product_attention

    def noted(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append(q.shape[-1])
        return attention(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    for width in (4, 6, 12):
        y = attend(torch.zeros(1, 3, 2, 3 * 2 * width, dtype=dtype, device="meta"), 2, SequenceAxis.TIME)
        assert (y.shape, y.dtype) == ((1, 3, 2, 2 * width), dtype)
    assert tuple(seen) == widths


def test_attention_is_stable_for_large_scores() -> None:
    qkv = 60 * normal(1, 40, 2, 3 * 8)  # scores around 10⁴, which float32 resolves to 10⁻³
    forms = (lambda x: attend(x, 2, SequenceAxis.TIME), lambda x: attend_reference(x, 2, SequenceAxis.TIME))
    assert_agree(*forms, [qkv], tolerance=2e-3)


@pytest.mark.parametrize(
    "shape", [(2, 8, 5, 7), (1, 16, 9, 12), (2, 24, 3, 4), (1, 5, 1, 3), (3, 33, 2, 1), (1, 1, 4, 1)]
)
def test_deformable_convolution(shape: tuple[int, ...]) -> None:
    batch, channels, frames, bins = shape
    offset = normal(batch, 18, frames, bins, seed=1).clamp(-0.99, 0.99)  # ±1 and 0 are not differentiable
    assert_agree(deform_conv, deform_conv_reference, [normal(*shape), offset, normal(channels, 9, seed=2)])


@pytest.mark.parametrize(
    "shape", [(2, 8, 11, 19), (1, 12, 9, 16), (2, 16, 5, 33), (1, 24, 17, 7), (1, 4, 2, 3)]
)
def test_dense_block(shape: tuple[int, ...]) -> None:
    block = DenseBlock(shape[1])
    names = [name for name, _ in block.named_parameters() if not name.endswith("0.bias")]
    parameters = [
        block.get_parameter(name).detach().double() + 0.1 * normal(*block.get_parameter(name).shape, seed=n)
        for n, name in enumerate(names)
    ]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        of_dtype = block.to(x.dtype)
        return torch.func.functional_call(of_dtype, dict(zip(names, values, strict=True)), (x,))

    assert has_dense_kernel(torch.empty(shape))
    assert not has_dense_kernel(torch.empty(shape).double())
    assert_agree(run, run, [normal(*shape), *parameters], tolerance=3e-5)


def test_what_is_not_finite_is_not_hidden() -> None:
    x = normal(1, 8, 9, 33).float()
    x[0, 3, 4, 5] = torch.inf
    weights = [w.float() for w in both_mixers((8, 16, 1, 4, 4))]
    directions = MixerWeights(*weights[2:12]), MixerWeights(*weights[12:])
    mixed = mix_both(x.permute(0, 2, 3, 1), directions, weights[0], weights[1], SequenceAxis.TIME)
    with torch.inference_mode():
        assert not DenseBlock(8)(x).isfinite().all()
    assert not DenseBlock(8)(x).isfinite().all()
    assert not mixed.isfinite().all()


def test_wide_dense_blocks_are_torchs() -> None:
    assert not has_dense_kernel(torch.empty(1, 64, 4, 4))
    assert not has_dense_kernel(torch.empty(1, 8, 1, 1))


def mixer_weights(channels: int, inner: int, rank: int, states: int, taps: int) -> MixerWeights:
    def drawn(*shape: int, scale: float, seed: int) -> Tensor:
        return scale * normal(*shape, seed=seed)

    return MixerWeights(
        norm=1 + drawn(channels, scale=0.2, seed=10),
        in_proj=drawn(2 * inner, channels, scale=channels**-0.5, seed=11),
        conv=drawn(inner, 1, taps, scale=0.5, seed=12),
        conv_bias=drawn(inner, scale=0.2, seed=13),
        x_proj=drawn(rank + 2 * states, inner, scale=inner**-0.5, seed=14),
        dt_proj=drawn(inner, rank, scale=1.0, seed=15),
        dt_bias=drawn(inner, scale=1.0, seed=16) - 2,
        A=-torch.exp(drawn(inner, states, scale=1.0, seed=17)),
        D=drawn(inner, scale=1.0, seed=18),
        out_proj=drawn(channels, inner, scale=inner**-0.5, seed=19),
    )


def both_mixers(sizes: tuple[int, ...]) -> list[Tensor]:
    """The weights of the merge, its bias, and of a mixer in each direction."""
    channels, forward = sizes[0], mixer_weights(*sizes)
    backward = [w + 0.2 * w.std().nan_to_num() * normal(*w.shape, seed=20 + i) for i, w in enumerate(forward)]
    backward[7] = forward.A * 1.1
    merge = normal(channels, 2 * channels, seed=40) * channels**-0.5
    return [merge, normal(channels, seed=41), *forward, *backward]


def mix_compiled(axis: SequenceAxis) -> Operation:
    def compiled(x: Tensor, merge: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        directions = MixerWeights(*weights[:10]), MixerWeights(*weights[10:])
        return mix_both(x, directions, merge, bias, axis)

    return compiled


def mix_in_torch(axis: SequenceAxis) -> Operation:
    def reference(x: Tensor, merge: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        directions = MixerWeights(*weights[:10]), MixerWeights(*weights[10:])
        with use_backend("reference"):
            return mix_both_reference(x, directions, merge, bias, axis)

    return reference


@pytest.mark.parametrize("axis", SequenceAxis)
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((2, 9, 5), (8, 16, 1, 8, 4)),
        ((1, 34, 3), (16, 64, 1, 16, 4)),
        ((2, 3, 67), (24, 96, 2, 16, 4)),
        ((1, 2, 1), (5, 15, 3, 3, 1)),
        ((1, 33, 2), (48, 192, 3, 17, 6)),
        ((3, 20, 18), (8, 16, 1, 8, 4)),  # groups of sequences from two clips
    ],
)
def test_mixer(axis: SequenceAxis, shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    buffer(2**21)[:] = np.nan  # reused with what it holds
    assert_agree(mix_compiled(axis), mix_in_torch(axis), [normal(*shape, sizes[0]), *both_mixers(sizes)])


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    tensors = [normal(2, 37, 90, 16), *both_mixers((16, 32, 1, 8, 4))]
    threads = torch.get_num_threads()

    def on(count: int) -> list[Tensor]:
        torch.set_num_threads(count)
        return outcome(mix_compiled(SequenceAxis.TIME), tensors, torch.float32)

    try:
        for one, three in zip(on(1), on(3), strict=True):
            assert torch.equal(one, three)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "in torch"])
@pytest.mark.parametrize("axis", SequenceAxis)
def test_a_compiled_graph_has_the_same_gradients(axis: SequenceAxis, dtype: torch.dtype) -> None:
    weights = [w.to(dtype) for w in both_mixers((8, 16, 1, 4, 4))]
    x, offset, kernel = (normal(*shape).to(dtype) for shape in ((1, 5, 4, 8), (1, 18, 5, 4), (8, 9)))

    def loss(x: Tensor) -> Tensor:
        mixed = mix_compiled(axis)(x, *weights)
        attended = attend(torch.cat((mixed, mixed, mixed), dim=-1), 2, axis)
        return deform_conv(attended.permute(0, 3, 1, 2), offset, kernel).square().sum()

    torch.compiler.reset()
    traced = torch.compile(loss, backend="aot_eager", fullgraph=True)
    gradients = [
        torch.autograd.grad(f(leaf), leaf)[0] for f in (loss, traced) for leaf in [x.clone().requires_grad_()]
    ]
    torch.testing.assert_close(*gradients)
    torch.compiler.reset()


def test_the_output_has_the_dtype_of_the_input() -> None:
    qkv = normal(1, 6, 3, 24)
    assert attend(qkv.bfloat16(), 2, SequenceAxis.TIME).dtype is torch.bfloat16
    assert attend(qkv, 2, SequenceAxis.TIME).dtype is torch.float64
    assert not has_cpu_kernel(qkv)
    torch.testing.assert_close(
        attend(qkv.float(), 2, SequenceAxis.TIME).double(),
        attend(qkv, 2, SequenceAxis.TIME),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("tf32", [False, True])
def test_products_of_float32_on_gpus_are_rounded_only_if_asked_for(tf32: bool) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with float32_products(torch.device("cuda"), tf32=tf32):
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (tf32, tf32)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
