"""The losses of arXiv 2510.01958 by name, and their weights under the same names.

To add a loss, add its weight to `LossWeights` and its value to `spectral_losses`. All spectra are
compressed. Legend: B batch, F frequency bins, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from rwsa.config import config
from rwsa.stft import SpectralConfig, complex_parts, istft, stft

Weight = Annotated[float, Field(ge=0)]


@config
class LossWeights:
    """Weights of the generator's losses; with `metric` 0 no discriminator is built."""

    metric: Weight = 0.05
    magnitude: Weight = 0.9
    phase: Weight = 0.3
    complex: Weight = 0.1
    time: Weight = 0.2
    consistency: Weight = 0.1


def spectral_losses(
    mag_BFT: Tensor, pha_BFT: Tensor, clean: Tensor, spectral: SpectralConfig
) -> dict[str, Tensor]:
    """The generator's losses, unweighted scalars, without the metric loss.

    Args:
        mag_BFT, pha_BFT: the model's output.
        clean: the clean signal `[B, samples]`, normalised like the noisy one.
        spectral: STFT parameters.

    Returns:
        magnitude, complex, time, consistency, phase, and the three terms whose sum phase is.
    """
    clean_mag, clean_pha = stft(clean, spectral)
    wav = istft(mag_BFT, pha_BFT, spectral, clean.shape[-1])
    reanalysed = complex_parts(*stft(wav, spectral, epsilon=1e-10))
    predicted = complex_parts(mag_BFT, pha_BFT)
    phase = phase_losses(pha_BFT, clean_pha)
    return {
        "magnitude": F.mse_loss(mag_BFT, clean_mag),
        "complex": 2 * F.mse_loss(predicted, complex_parts(clean_mag, clean_pha)),
        "time": F.l1_loss(wav, clean),
        "consistency": 2 * F.mse_loss(predicted, reanalysed),
        "phase": torch.stack(list(phase.values())).sum(),
        **phase,
    }


def phase_losses(pha_BFT: Tensor, clean_BFT: Tensor) -> dict[str, Tensor]:
    """Anti-wrapped means of the phase difference and of its derivatives along frequency and time.

    Source: Ai & Ling 2023, equations 8 to 10, as implemented by the paper's authors: the first bin (frame)
    has no predecessor, and its phase difference itself is included in the mean.
    """
    difference = pha_BFT - clean_BFT
    return {
        "instantaneous_phase": _anti_wrap(difference).mean(),
        "group_delay": _anti_wrap(_differences(difference, dim=1)).mean(),
        "instantaneous_angular_frequency": _anti_wrap(_differences(difference, dim=2)).mean(),
    }


def _differences(x: Tensor, dim: int) -> Tensor:
    """Differences along `dim` with the first element prepended, so that the length is unchanged."""
    return torch.cat((x.narrow(dim, 0, 1), x.diff(dim=dim)), dim=dim)


def _anti_wrap(x: Tensor) -> Tensor:
    return (x - torch.round(x / math.tau) * math.tau).abs()


def metric_loss(score: Tensor) -> Tensor:
    """The generator's adversarial loss: D(clean, enhanced) should be 1."""
    return F.mse_loss(score, torch.ones_like(score))


def discriminator_losses(
    clean_score: Tensor, enhanced_score: Tensor, target: Tensor, known: Tensor | None = None
) -> dict[str, Tensor]:
    """The discriminator's losses: D(clean, clean) should be 1, D(clean, enhanced) the scaled PESQ.

    Args:
        clean_score, enhanced_score: the discriminator's output, `[B]`.
        target: scaled PESQ `[B]`; NaN where PESQ is undefined, which excludes the clip from the mean.
        known: divisor of that mean, a scalar; by default the number of clips of `target` that are not NaN.
            With several ranks, the mean number per rank, so that all clips have equal weight.

    Returns:
        discriminator_clean and discriminator_enhanced. The latter is 0 if PESQ is undefined for all clips.
    """
    scored = torch.isfinite(target)
    errors = torch.where(scored, enhanced_score - torch.where(scored, target, 0.0), 0.0)
    count = scored.sum() if known is None else known
    return {
        "discriminator_clean": F.mse_loss(clean_score, torch.ones_like(clean_score)),
        "discriminator_enhanced": errors.square().sum() / torch.where(count > 0, count, 1),
    }


def weighted_total(losses: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """Sum of weight times loss, over the losses that are present."""
    terms = [getattr(weights, name) * losses[name] for name in weights.__dataclass_fields__ if name in losses]
    return torch.stack(terms).sum()
