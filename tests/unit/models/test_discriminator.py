"""The metric discriminator: range, layers and training.

Legend: B batch, F frequency bins, T frames.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rwsa.losses import discriminator_losses
from rwsa.models.discriminator import MetricDiscriminator, scaled_pesq


def magnitudes(batch: int, frames: int = 32, *, seed: int = 0) -> Tensor:
    return torch.rand(batch, 256, frames, generator=torch.Generator().manual_seed(seed))


def build(seed: int = 0) -> MetricDiscriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MetricDiscriminator()


def test_pesq_is_scaled_to_about_one() -> None:
    torch.testing.assert_close(scaled_pesq(torch.tensor([1.0, 2.75, 4.5])), torch.tensor([0.0, 0.5, 1.0]))
    assert torch.isnan(scaled_pesq(torch.tensor([math.nan])))


def test_the_papers_parameters() -> None:
    # Convolutions, norms and PReLUs at 16…128 channels, two linear layers, their PReLU, and the slope.
    convolutions = 16 * sum(a * b for a, b in ((2, 16), (16, 32), (32, 64), (64, 128)))
    widths = 3 * (16 + 32 + 64 + 128)
    assert sum(p.numel() for p in build().parameters()) == (
        convolutions + widths + 128 * 64 + 64 + 64 + 64 + 1 + 1
    )


@pytest.mark.parametrize("frames", [32, 63, 256])
def test_one_score_per_pair_between_zero_and_one(frames: int) -> None:
    score = build().eval()(magnitudes(3, frames), magnitudes(3, frames, seed=1))
    assert score.shape == (3,)
    assert ((score > 0) & (score < 1)).all()


def test_pairs_are_independent_and_their_order_matters() -> None:
    model, clean, other = build().eval(), magnitudes(3), magnitudes(3, seed=1)
    together = model(clean, other)
    torch.testing.assert_close(model(clean[1:2], other[1:2]), together[1:2])
    assert not torch.allclose(model(other, clean), together)


def test_every_weight_matrix_has_spectral_norm_one() -> None:
    model = build().train()
    for _ in range(30):  # power iterations
        model(magnitudes(1), magnitudes(1))
    weights = [m.weight for m in model.modules() if hasattr(m, "parametrizations")]
    assert len(weights) == 6
    for weight in weights:
        norm = torch.linalg.matrix_norm(weight.flatten(1).double(), 2)
        assert norm.item() == pytest.approx(1, abs=0.1)


def test_an_undefined_target_does_not_change_the_gradients_of_others() -> None:
    model, clean, other = build().eval(), magnitudes(3), magnitudes(3, seed=1)

    def gradients(rows: list[int], target: list[float]) -> list[Tensor]:
        losses = discriminator_losses(
            model(clean, clean), model(clean[rows], other[rows]), torch.tensor(target)
        )
        return list(torch.autograd.grad(sum(losses.values()), list(model.parameters())))

    pairs = zip(gradients([0, 1, 2], [0.3, math.nan, 0.6]), gradients([0, 2], [0.3, 0.6]), strict=True)
    for with_refused, without in pairs:
        torch.testing.assert_close(with_refused, without)
    for gradient in gradients([0, 1, 2], [math.nan] * 3):
        assert torch.isfinite(gradient).all()


def test_it_learns_to_distinguish_clean_from_other() -> None:
    model, clean, other = build().train(), magnitudes(4), 0.3 * magnitudes(4, seed=1)
    optimiser, history = torch.optim.AdamW(model.parameters(), lr=5e-4), []
    for _ in range(6):
        losses = discriminator_losses(model(clean, clean), model(clean, other), torch.full((4,), 0.1))
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(total.item())
    assert history[-1] < 0.1 * history[0]


def test_dropout_is_drawn_by_the_caller_and_preserves_the_mean() -> None:
    model, clean, other = build().train(), magnitudes(2), magnitudes(2, seed=1)
    factors = model.dropout_factors(torch.Generator().manual_seed(0), 5000)
    assert factors.shape == (5000, 64)
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert factors.mean().item() == pytest.approx(1, abs=0.01)
    with torch.no_grad():
        assert not torch.equal(model.eval()(clean, other), model(clean, other, factors[:2]))
        assert torch.equal(model(clean, other, torch.ones(2, 64)), model(clean, other))
