"""One training step: the generator, then the discriminator.

Legend: B segments of this rank, F frequency bins, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import is_initialized
from torch.nn.parallel import DistributedDataParallel

from rwsa.losses import discriminator_losses, metric_loss, spectral_losses, weighted_total
from rwsa.metrics import Failure, score
from rwsa.models.discriminator import scaled_pesq
from rwsa.spectral import istft, stft
from rwsa.training.data import Segments
from rwsa.training.state import TrainState


class TrainStep:
    """Both models' forward passes, wrapped for DDP where several ranks train."""

    def __init__(self, state: TrainState, device: torch.device) -> None:
        self.state, self.device = state, device
        self.spectral = state.config.model.spectral
        self.generate = _distributed(state.generator)
        self.discriminate = None if state.discriminator is None else _distributed(state.discriminator)

    def __call__(self, segments: Segments) -> dict[str, Tensor]:
        """Update both models once; returns every loss by name, detached, and the gradient norm."""
        noisy, clean = segments.noisy.to(self.device), segments.clean.to(self.device)
        mag_BFT, pha_BFT = self.generate(*stft(noisy, self.spectral))
        losses = spectral_losses(mag_BFT, pha_BFT, clean, self.spectral)
        clean_mag_BFT, _ = stft(clean, self.spectral)
        if self.state.discriminator is not None:
            with _frozen(self.state.discriminator) as discriminator:
                losses["metric"] = metric_loss(discriminator(clean_mag_BFT, mag_BFT))
        losses["total"] = weighted_total(losses, self.state.config.loss_weights)
        losses["gradient_norm"] = self._update(self.state.generator_optimiser, losses["total"])
        if self.discriminate is not None:
            enhanced = istft(mag_BFT.detach(), pha_BFT.detach(), self.spectral, clean.shape[-1])
            losses |= self._discriminator(clean_mag_BFT, mag_BFT.detach(), pesq_targets(clean, enhanced))
        return {name: value.detach() for name, value in losses.items()}

    def _discriminator(self, clean_BFT: Tensor, enhanced_BFT: Tensor, target: Tensor) -> dict[str, Tensor]:
        assert self.discriminate is not None
        assert self.state.discriminator_optimiser is not None
        # One pass over both pairs: DDP allows one forward pass before its backward pass.
        scores = self.discriminate(torch.cat((clean_BFT, clean_BFT)), torch.cat((clean_BFT, enhanced_BFT)))
        clean_score, enhanced_score = scores.chunk(2)
        losses = discriminator_losses(clean_score, enhanced_score, target.to(scores.device))
        self._update(self.state.discriminator_optimiser, torch.stack(list(losses.values())).sum())
        return losses | {"pesq_refused": (~torch.isfinite(target)).sum().float()}

    def _update(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        limit = self.state.config.optimiser.max_gradient_norm or math.inf
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        optimiser.step()
        return norm


def pesq_targets(clean: Tensor, enhanced: Tensor) -> Tensor:
    """Scaled wide-band PESQ `[B]` of every enhanced segment; NaN where PESQ refuses one."""
    pairs = zip(clean.cpu().numpy(), enhanced.cpu().numpy(), strict=True)
    values = [score(_full_scale(c), _full_scale(e), ("pesq",))["pesq"] for c, e in pairs]
    return scaled_pesq(torch.tensor([math.nan if isinstance(v, Failure) else v for v in values]))


def _full_scale(wav: np.ndarray) -> np.ndarray:
    """PESQ aligns levels itself but clips beyond ±1, where RMS-normalised speech lies."""
    return wav / max(float(np.abs(wav).max()), 1e-8)


def _distributed(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if is_initialized() else model


@contextmanager
def _frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model without gradients of its own, so that the generator's loss leaves none behind."""
    model.requires_grad_(False)
    try:
        yield model
    finally:
        model.requires_grad_(True)
