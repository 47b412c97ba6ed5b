"""Losses: zero for perfect estimates, values by hand, and NaN targets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rwsa.config import build
from rwsa.errors import InputError
from rwsa.losses import (
    LossWeights,
    discriminator_losses,
    metric_loss,
    phase_losses,
    spectral_losses,
    weighted_total,
)
from rwsa.stft import SpectralConfig, stft

SPECTRAL = SpectralConfig()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_perfect_estimate_has_zero_loss() -> None:
    clean = normal(2, 3720)
    for name, loss in spectral_losses(*stft(clean, SPECTRAL), clean, SPECTRAL).items():
        # The consistency STFT's epsilon changes the phase of nearly silent bins slightly.
        assert loss.item() == pytest.approx(0, abs=1e-4), name


def test_a_wrong_magnitude_has_no_phase_loss() -> None:
    clean = normal(1, 3720)
    mag_BFT, pha_BFT = stft(clean, SPECTRAL)
    losses = spectral_losses(1.5 * mag_BFT, pha_BFT, clean, SPECTRAL)
    assert losses["phase"].item() == pytest.approx(0, abs=1e-5)
    assert losses["magnitude"].item() == pytest.approx(0.25 * mag_BFT.square().mean().item(), rel=1e-4)
    # The squared errors of real and imaginary part sum to that of the magnitude: twice their mean.
    assert losses["complex"].item() == pytest.approx(losses["magnitude"].item(), rel=1e-4)


def test_phase_losses_ignore_whole_turns() -> None:
    clean = normal(1, 4, 5)
    turns = math.tau * torch.randint(-2, 3, (1, 4, 5), generator=torch.Generator().manual_seed(0))
    for name, loss in phase_losses(clean + turns, clean).items():
        assert loss.item() == pytest.approx(0, abs=1e-5), name


def test_a_constant_phase_error_counts_once_per_row_and_column() -> None:
    pha_BFT = torch.full((1, 4, 5), 0.3)
    losses = phase_losses(pha_BFT, torch.zeros(1, 4, 5))
    # Differences vanish except in the first bin (frame), which has no predecessor.
    assert losses["instantaneous_phase"].item() == pytest.approx(0.3)
    assert losses["group_delay"].item() == pytest.approx(0.3 / 4)
    assert losses["instantaneous_angular_frequency"].item() == pytest.approx(0.3 / 5)


def test_largest_phase_error_is_half_a_turn() -> None:
    for name, loss in phase_losses(100 * normal(1, 50, 50), torch.zeros(1, 50, 50)).items():
        assert 1.4 < loss.item() < math.pi, name


def test_the_total_is_weighted_by_name() -> None:
    names = LossWeights.__dataclass_fields__
    losses = {name: torch.tensor(10.0**place) for place, name in enumerate(names)}
    weights = LossWeights(metric=1, magnitude=2, phase=3, complex=4, time=5, consistency=6)
    assert weighted_total(losses, weights).item() == pytest.approx(654_321)
    del losses["metric"]
    assert weighted_total({**losses, "group_delay": torch.tensor(1e9)}, weights).item() == pytest.approx(
        654_320
    )


def test_invalid_weights_are_refused() -> None:
    with pytest.raises(InputError, match="unknown key 'consistancy'; did you mean 'consistency'"):
        build(LossWeights, {"consistancy": 1}, where="f.yaml")
    with pytest.raises(InputError, match="'time' is -1"):
        build(LossWeights, {"time": -1}, where="f.yaml")


def test_metric_loss_is_zero_at_one() -> None:
    assert metric_loss(torch.tensor([1.0, 1.0])).item() == 0
    assert metric_loss(torch.tensor([0.5, 1.0])).item() == pytest.approx(0.125)


def test_an_undefined_target_is_excluded_from_its_mean_alone() -> None:
    clean = torch.tensor([0.9, 0.8, 0.7])
    enhanced = torch.tensor([0.5, 0.1, 0.2], requires_grad=True)
    losses = discriminator_losses(clean, enhanced, torch.tensor([0.4, math.nan, 0.6]))
    assert losses["discriminator_clean"].item() == pytest.approx((0.01 + 0.04 + 0.09) / 3)
    assert losses["discriminator_enhanced"].item() == pytest.approx((0.01 + 0.16) / 2)
    (gradient,) = torch.autograd.grad(losses["discriminator_enhanced"], enhanced)
    torch.testing.assert_close(gradient, torch.tensor([0.1, 0.0, -0.4]))


def test_without_any_target_the_loss_is_zero_and_gradients_finite() -> None:
    enhanced = normal(3).requires_grad_()
    losses = discriminator_losses(torch.full((3,), 0.5), enhanced, torch.full((3,), math.nan))
    assert losses["discriminator_enhanced"].item() == 0
    assert losses["discriminator_clean"].item() == pytest.approx(0.25)
    (gradient,) = torch.autograd.grad(losses["discriminator_enhanced"], enhanced)
    assert gradient.tolist() == [0, 0, 0]


def test_gradients_are_finite_where_the_input_is_silent() -> None:
    clean = torch.zeros(1, 3720)
    clean[:, 2000:] = normal(1720)
    mag_BFT, pha_BFT = stft(clean, SPECTRAL)
    estimate = [x.clone().requires_grad_() for x in (0.5 * mag_BFT, pha_BFT)]
    total = weighted_total(spectral_losses(*estimate, clean, SPECTRAL), LossWeights())
    for gradient in torch.autograd.grad(total, estimate):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
