"""Remix augmentation: each clip gets the noise of another clip at a new SNR, on the device.

Source: Défossez et al. 2020, "Real time speech enhancement in the waveform domain", section 3.1 (remix).
Legend: B segments of this rank, S samples.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.shards.sampling import share_of
from rwsa.training.context import WorkerContext
from rwsa.training.ranks import concatenated


@config
class RemixConfig:
    """Share and SNR of remixed clips.

    The noise is noisy − clean, so noisy must be clean plus noise: with a room whose target is not
    `reverberant`, or with `mixture_transforms`, the difference contains the other clip's speech.

    Attributes:
        share: share of the clips to remix; the others are unchanged.
        min_snr_db, max_snr_db: range of the new SNR, uniform, by RMS over the segment.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_snr_db: Annotated[float, Field(ge=-200, le=200)] = -10.0
    max_snr_db: Annotated[float, Field(ge=-200, le=200)] = 20.0


class Remix:
    """Remixes this rank's share of a global batch; the result is the same for any world size."""

    def __init__(
        self, config: RemixConfig, context: WorkerContext, *, seed: int, global_batch_size: int
    ) -> None:
        if config.max_snr_db < config.min_snr_db:
            raise InputError(
                f"remix: max_snr_db {config.max_snr_db} is below min_snr_db {config.min_snr_db}; swap them"
            )
        self._config, self._seed, self._batch = config, seed, global_batch_size
        self._share = share_of(global_batch_size, rank=context.rank, world_size=context.world_size)

    def __call__(self, noisy_BS: Tensor, clean_BS: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Remixed noisy and clean segments; a remixed noisy segment has RMS 1.

        A clip is unchanged if its speech or its new noise is silent.
        """
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, step, *b"remix"]))
        partner = rng.permutation(self._batch)[self._share]
        snr_db = rng.uniform(self._config.min_snr_db, self._config.max_snr_db, self._batch)[self._share]
        chosen = (rng.random(self._batch) < self._config.share)[self._share]
        noise_BS = concatenated(noisy_BS - clean_BS)[torch.from_numpy(partner).to(noisy_BS.device)]
        speech, noise = _rms(clean_BS), _rms(noise_BS)
        gain = speech / noise.clamp(min=1e-8) * self._factor(snr_db, noisy_BS)
        mixed_BS = clean_BS + gain * noise_BS
        level = _rms(mixed_BS).clamp(min=1e-8)
        usable = (speech > 0) & (noise > 0) & torch.from_numpy(chosen).to(noisy_BS.device).unsqueeze(1)
        return (
            torch.where(usable, mixed_BS / level, noisy_BS),
            torch.where(usable, clean_BS / level, clean_BS),
        )

    @staticmethod
    def _factor(snr_db: np.ndarray, like: Tensor) -> Tensor:
        return torch.from_numpy(10 ** (-snr_db / 20)).to(like).unsqueeze(1)


def _rms(wav_BS: Tensor) -> Tensor:
    return wav_BS.square().mean(dim=1, keepdim=True).sqrt()
