"""The metric discriminator: predicts PESQ, scaled to 0…1, from two compressed magnitudes.

Source: Fu et al. 2019, MetricGAN, in CMGAN's form.
Legend: B batch, F frequency bins, T frames, H hidden values.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

PESQ_LOWEST, PESQ_RANGE = 1.0, 3.5


def scaled_pesq(pesq: Tensor) -> Tensor:
    """(PESQ - 1) / 3.5: the discriminator's target, about 0…1 over wide-band PESQ's range."""
    return (pesq - PESQ_LOWEST) / PESQ_RANGE


class MetricDiscriminator(nn.Module):
    """Four strided convolutions, a global maximum and two linear layers, all with spectral norm."""

    def __init__(self, channels: int = 16, dropout: float = 0.3) -> None:
        super().__init__()
        widths = [2, channels, 2 * channels, 4 * channels, 8 * channels]
        layers: list[nn.Module] = []
        for width, wider in pairwise(widths):
            conv = nn.Conv2d(width, wider, 4, stride=2, padding=1, bias=False)
            layers += [spectral_norm(conv), nn.InstanceNorm2d(wider, affine=True), nn.PReLU(wider)]
        self.convolutions = nn.Sequential(*layers)
        self.hidden = spectral_norm(nn.Linear(widths[-1], 4 * channels))
        self.dropout, self.hidden_size = dropout, 4 * channels
        self.act = nn.PReLU(4 * channels)
        self.score = spectral_norm(nn.Linear(4 * channels, 1))
        self.slope = nn.Parameter(torch.ones(1))

    def forward(self, clean_BFT: Tensor, other_BFT: Tensor, dropout_mask_BH: Tensor | None = None) -> Tensor:
        """Scaled PESQ `[B]` of `other` against `clean`, both compressed magnitudes; between 0 and 1.

        `dropout_mask_BH` holds a factor per hidden value (see `dropout_factors`), None for no dropout. It is
        an argument since a mask drawn here would depend on the assignment of clips to ranks.
        """
        hidden_BH = self.hidden(self.convolutions(torch.stack((clean_BFT, other_BFT), dim=1)).amax((2, 3)))
        if dropout_mask_BH is not None:
            hidden_BH = hidden_BH * dropout_mask_BH
        return torch.sigmoid(self.slope * self.score(self.act(hidden_BH))).squeeze(1)

    def dropout_factors(self, rng: torch.Generator, batch: int) -> Tensor:
        """Factors `[batch, H]`: 0 with the dropout probability p, else 1 / (1 − p)."""
        retained = torch.rand(batch, self.hidden_size, generator=rng) >= self.dropout
        return retained / (1 - self.dropout)
