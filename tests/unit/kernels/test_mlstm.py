"""The chunked mLSTM cell against the full matrix of weights: values and all gradients, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rwsa.kernels.mlstm import mlstm_cell, mlstm_cell_reference


def drawn(length: int, *, gates: float = 2.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values `[3, length, 8]` and pre-activations of gates."""
    rng = torch.Generator().manual_seed(length)
    qkv = [torch.randn(3, length, 8, generator=rng, dtype=torch.float64) for _ in range(3)]
    both = [gates * torch.randn(3, length, generator=rng, dtype=torch.float64) for _ in range(2)]
    return [x.to(dtype).requires_grad_() for x in (*qkv, *both)]


# Lengths around one and several chunks of about 64, even and odd.
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 97, 129, 321])
def test_values_and_gradients_are_those_of_the_full_matrix(length: int) -> None:
    inputs = drawn(length)
    chunked, full = mlstm_cell(*inputs), mlstm_cell_reference(*inputs)
    torch.testing.assert_close(chunked, full, rtol=1e-12, atol=1e-12)
    dh = torch.randn(chunked.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(chunked, inputs, dh), torch.autograd.grad(full, inputs, dh), strict=True
    ):
        # The sum over all steps of a gate's gradient is small beside its parts.
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12 + 1e-12 * dh.abs().sum().item())


@pytest.mark.parametrize("gates", [0.0, 2.0, 30.0])
def test_float32_is_accurate_for_gates_of_any_size(gates: float) -> None:
    exact = mlstm_cell_reference(*drawn(321, gates=gates))
    found = mlstm_cell(*drawn(321, gates=gates, dtype=torch.float32))
    assert found.dtype is torch.float32
    assert torch.isfinite(found).all()
    assert (found - exact).abs().max() < 1e-3 * exact.abs().max()


def test_leading_dimensions_are_kept() -> None:
    inputs = drawn(5)
    together = mlstm_cell(*(x.unflatten(0, (3, 1)) for x in inputs))
    torch.testing.assert_close(together.flatten(0, 1), mlstm_cell(*inputs))


def test_a_step_does_not_depend_on_later_ones() -> None:
    inputs = [x.detach() for x in drawn(100)]
    changed = [torch.cat((x[:, :70], x[:, 70:] + 1), dim=1) for x in inputs]
    before, after = mlstm_cell(*inputs), mlstm_cell(*changed)
    assert torch.equal(before[:, :70], after[:, :70])
    assert not torch.equal(before[:, 70:], after[:, 70:])
