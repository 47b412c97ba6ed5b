"""One training step: the generator on this step's segments, the discriminator on the pair before.

Legend: B segments of this rank, F frequency bins, T frames.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rwsa.errors import InputError
from rwsa.losses import spectral_losses, weighted_total
from rwsa.stft import istft, stft
from rwsa.training.adversary import Adversary
from rwsa.training.context import WorkerContext
from rwsa.training.data import Segments
from rwsa.training.optimisation import clip
from rwsa.training.ranks import distributed, world_size
from rwsa.training.remix import Remix
from rwsa.training.state import TrainState

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainStep:
    """The generator's forward and backward passes, wrapped for DDP where several ranks train.

    The segments of this rank are taken in `accumulate` parts, whose gradients add up to those of the whole.

    Raises:
        InputError: the segments of a rank do not divide into so many parts.
    """

    def __init__(self, state: TrainState, context: WorkerContext, adversary: Adversary | None) -> None:
        self.state, self.device, self._adversary = state, context.device, adversary
        self._config, self._spectral = state.config, state.config.model.spectral
        self._remix: Remix | None = None
        if state.config.remix is not None:
            self._remix = Remix(
                state.config.remix,
                context,
                seed=state.config.seed,
                global_batch_size=state.config.global_batch_size,
            )
        backend = state.config.compile_backend
        segments = self._config.global_batch_size // world_size()
        if segments % self._config.accumulate:
            raise InputError(
                f"accumulate is {self._config.accumulate}: a worker's {segments} segments a step do not"
                " divide into so many equal parts"
            )
        self.generate = distributed(
            state.generator if backend is None else torch.compile(state.generator, backend=backend)  # type: ignore[arg-type]
        )

    def __call__(self, segments: Segments) -> dict[str, Tensor]:
        """Update both models once; returns every loss by name, detached, and the gradient norm."""
        noisy, clean = segments.noisy.to(self.device), segments.clean.to(self.device)
        if self._remix is not None:
            noisy, clean = self._remix(noisy, clean, step=self.state.step)
        self.state.generator_optimiser.zero_grad(set_to_none=True)
        losses, mag_BFT, pha_BFT = self._generator(noisy, clean)
        losses["gradient_norm"] = self._descend()
        if self._adversary is not None:
            losses |= self._adversary.learn()
            clean_mag_BFT, _ = stft(clean, self._spectral)
            enhanced = istft(mag_BFT, pha_BFT, self._spectral, clean.shape[-1])
            self._adversary.remember(clean_mag_BFT, mag_BFT, clean, enhanced)
        return {name: value.detach() for name, value in losses.items()}

    def _generator(self, noisy: Tensor, clean: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Gradients of all parts; returns the mean losses and what the generator made."""
        parts = self._config.accumulate
        kept = self._adversary.dropout_factors("metric").chunk(parts) if self._adversary else [None] * parts
        every, magnitudes, phases = list[dict[str, Tensor]](), list[Tensor](), list[Tensor]()
        for number, (noisy_part, clean_part, dropout_mask_BH) in enumerate(
            zip(noisy.chunk(parts), clean.chunk(parts), kept, strict=True)
        ):
            with self._unsynchronised() if number + 1 < parts else nullcontext():
                losses, mag_BFT, pha_BFT = self._losses(noisy_part, clean_part, dropout_mask_BH)
                self.state.scaler.scale(losses["total"] / parts).backward()
            every.append({name: value.detach() for name, value in losses.items()})
            magnitudes.append(mag_BFT.detach())
            phases.append(pha_BFT.detach())
        means = {name: torch.stack([losses[name] for losses in every]).mean() for name in every[0]}
        return means, torch.cat(magnitudes), torch.cat(phases)

    def _losses(
        self, noisy: Tensor, clean: Tensor, dropout_mask_BH: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        precision = _PRECISIONS.get(self._config.precision)
        with torch.autocast(self.device.type, precision, enabled=precision is not None):
            mag_BFT, pha_BFT = self.generate(*stft(noisy, self._spectral))
        mag_BFT, pha_BFT = mag_BFT.float(), pha_BFT.float()
        losses = spectral_losses(mag_BFT, pha_BFT, clean, self._spectral)
        if self._adversary is not None:
            assert dropout_mask_BH is not None
            clean_mag_BFT, _ = stft(clean, self._spectral)
            losses["metric"] = self._adversary.loss(clean_mag_BFT, mag_BFT, dropout_mask_BH)
        losses["total"] = weighted_total(losses, self._config.loss_weights)
        return losses, mag_BFT, pha_BFT

    def _unsynchronised(self) -> Any:
        return (
            self.generate.no_sync() if isinstance(self.generate, DistributedDataParallel) else nullcontext()
        )

    def _descend(self) -> Tensor:
        """One step of the generator's optimiser; with float16 none where a scaled gradient overflowed."""
        scaler, optimiser = self.state.scaler, self.state.generator_optimiser
        scaler.unscale_(optimiser)
        norm = clip(optimiser, self._config.optimiser.max_gradient_norm)
        scaler.step(optimiser)
        scaler.update()
        self.state.average()
        return norm
