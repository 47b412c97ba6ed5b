"""Whether an operation runs compiled and saves values for gradients, and how precisely it multiplies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


def has_cpu_kernel(x: Tensor) -> bool:
    """Whether compiled CPU code handles `x`: on a CPU and not float64, since it computes in float32."""
    return x.device.type == "cpu" and x.dtype is not torch.float64


def needs_gradients(*tensors: Tensor | None) -> bool:
    """Whether gradients will be computed with respect to any of `tensors`."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def runs_directly(*tensors: Tensor | None) -> bool:
    """Whether compiled code may be called without a registered operator: nothing differentiates or traces it.

    A registered operator costs more per call, and its first call imports torch's compiler, which takes longer
    than enhancing a short file.
    """
    return not needs_gradients(*tensors) and not torch.compiler.is_compiling()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Operations inside keep the dtypes of their inputs."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()  # such as on `meta`
    return torch.autocast(device.type, enabled=False)


def in_float32(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """layer(x); under autocast in float32, for results whose rounding matters most."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return layer(x)
    with without_autocast(x.device):
        return layer(x.float())


@contextmanager
def float32_products(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Convolutions and matrix products of float32 inside are in float32, or in TensorFloat-32 if `tf32`.

    TensorFloat-32 (NVIDIA GPUs since 2020) rounds factors to 10 bits. torch's own default is TF32 for
    convolutions and float32 for matrix products. No effect on other devices.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
