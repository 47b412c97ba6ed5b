"""What GPUs compute in bfloat16 and float16, on CPU tensors by the same code, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rwsa.kernels import attention, deformable, dense, mixer
from rwsa.kernels.deformable import deform_conv
from rwsa.kernels.scan import use_backend
from rwsa.models import build_model
from rwsa.models.config import ModelConfig

# As many bins as xs, at which a bfloat16 position is off by up to 1.5.
SMALL = ModelConfig(channels=8, blocks=1, depth=2, d_state=2, expand=2, heads=2, middle_heads=4)
# Largest relative errors of magnitude, cosine of the phase, and gradients. With positions in half precision,
# all are two to five times as large.
ALLOWED = {torch.bfloat16: (4e-3, 5e-2, 0.45), torch.float16: (6e-4, 6e-3, 0.07)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No operation runs compiled for the CPU."""
    for module in (attention, deformable, dense, mixer):
        monkeypatch.setattr(module, "has_cpu_kernel", lambda _: False)
    with use_backend("reference"):
        yield


def relative(found: Tensor, true: Tensor) -> float:
    return ((found - true).norm() / true.norm()).item()


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_positions_of_a_deformable_convolution_are_precise(dtype: torch.dtype, allowed: float) -> None:
    x, weight = (t.to(dtype) for t in (normal(1, 4, 256, 128), normal(4, 9, seed=1)))
    offset = normal(1, 18, 256, 128, seed=2).clamp(-0.9, 0.9)
    offset = (offset + 0.05 * offset.sign()).to(dtype)  # where gradients do not jump
    outcomes = []
    for to in (torch.float64, dtype):
        leaves = [t.to(to).requires_grad_() for t in (x, offset, weight)]
        with torch.autocast("cpu", dtype, enabled=to is dtype):
            y = deform_conv(*leaves)
        assert y.dtype is to
        outcomes.append([y, *torch.autograd.grad(y, leaves, normal(*y.shape, seed=3).to(to))])
    true, found = outcomes
    assert all(relative(f, t) < allowed for f, t in zip(found, true, strict=True))


def outcome(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Magnitude, cosine of the phase, and all gradients of an untrained network, in float64."""
    plain = torch.float64 if dtype is torch.float64 else torch.float32
    model, mag, pha = build_model(SMALL), normal(1, 256, 8).abs(), normal(1, 256, 8, seed=1)
    model = model.to(plain)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float64):
        enhanced, phase = (x.double() for x in model(mag.to(plain), pha.to(plain)))
    loss = enhanced.square().mean() + (phase.cos() - pha.cos()).square().mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return enhanced, phase.cos(), torch.cat([g.double().flatten() for g in gradients])


@pytest.fixture(scope="module")
def truth() -> list[Tensor]:
    return []


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("dtype", ALLOWED)
def test_the_network_under_autocast_is_as_precise_as_its_dtype(
    truth: list[Tensor], dtype: torch.dtype
) -> None:
    truth.extend(() if truth else outcome(torch.float64))
    errors = [relative(found, true) for found, true in zip(outcome(dtype), truth, strict=True)]
    assert all(error < most for error, most in zip(errors, ALLOWED[dtype], strict=True)), errors
