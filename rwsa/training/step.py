"""One training step: the generator on this batch, the discriminator on the previous step's pair.

Legend: B segments of this rank, F frequency bins, T frames.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rwsa.errors import InputError
from rwsa.losses import spectral_losses, weighted_total
from rwsa.shards.sampling import share_of
from rwsa.stft import istft, stft
from rwsa.training.adversary import Adversary
from rwsa.training.context import WorkerContext
from rwsa.training.data import SegmentBatch
from rwsa.training.optimiser import clip
from rwsa.training.ranks import distributed, world_size
from rwsa.training.remix import Remix
from rwsa.training.state import TrainState

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainStep:
    """One update of generator and discriminator, under DDP where several ranks train.

    The gradients of `accumulate` parts of this rank's segments add up to those of all of them.

    Raises:
        InputError: a rank's segments do not divide into `accumulate` equal parts.
    """

    def __init__(self, state: TrainState, context: WorkerContext, adversary: Adversary | None) -> None:
        self.state, self.device, self._adversary = state, context.device, adversary
        self._share = share_of(
            state.config.global_batch_size, rank=context.rank, world_size=context.world_size
        )
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
                f"accumulate is {self._config.accumulate}: a worker's {segments} segments per step do not"
                " divide into as many equal parts"
            )
        self.generate = distributed(
            state.generator if backend is None else torch.compile(state.generator, backend=backend)  # type: ignore[arg-type]
        )

    def __call__(self, batch: SegmentBatch) -> dict[str, Tensor]:
        """Update both models; returns the losses by name, detached, and the gradient norm."""
        noisy, clean = self._on_device(batch.noisy), self._on_device(batch.clean)
        if self._remix is not None:
            noisy, clean = self._remix(noisy, clean, step=self.state.step)
        seeds_B = self._dropout_seeds()
        self.state.generator_optimiser.zero_grad(set_to_none=True)
        losses, mag_BFT, pha_BFT = self._backward(noisy, clean, seeds_B)
        losses["gradient_norm"] = self._update_generator()
        if self._adversary is not None:
            losses |= self._adversary.update()
            clean_mag_BFT, _ = stft(clean, self._spectral)
            enhanced = istft(mag_BFT, pha_BFT, self._spectral, clean.shape[-1])
            self._adversary.enqueue(clean_mag_BFT, mag_BFT, clean, enhanced)
        return {name: value.detach() for name, value in losses.items()}

    def _on_device(self, wav: Tensor) -> Tensor:
        """Copied while the device works: from memory that is not pinned, a copy waits for it."""
        if self.device.type != "cuda":
            return wav.to(self.device)
        return wav.pin_memory().to(self.device, non_blocking=True)

    def _dropout_seeds(self) -> Tensor | None:
        """Seeds of the dropout of this rank's segments, keyed by their places in the global batch."""
        if self._config.model.mixer != "conformer":
            return None
        key = np.random.SeedSequence([self._config.seed, self.state.step, *b"dropout"])
        seeds = key.generate_state(self._config.global_batch_size).astype(np.int64)
        return torch.from_numpy(seeds)[self._share]

    def _backward(
        self, noisy: Tensor, clean: Tensor, seeds_B: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Accumulate gradients over all parts; returns the mean losses, magnitudes and phases."""
        parts = self._config.accumulate
        masks = self._adversary.dropout_mask("metric").chunk(parts) if self._adversary else [None] * parts
        seeds = [None] * parts if seeds_B is None else seeds_B.chunk(parts)
        part_losses, magnitudes, phases = list[dict[str, Tensor]](), list[Tensor](), list[Tensor]()
        for number, (noisy_part, clean_part, dropout_mask_BH, seeds_part) in enumerate(
            zip(noisy.chunk(parts), clean.chunk(parts), masks, seeds, strict=True)
        ):
            with self._no_sync() if number + 1 < parts else nullcontext():
                losses, mag_BFT, pha_BFT = self._losses(noisy_part, clean_part, dropout_mask_BH, seeds_part)
                self.state.scaler.scale(losses["total"] / parts).backward()
            part_losses.append({name: value.detach() for name, value in losses.items()})
            magnitudes.append(mag_BFT.detach())
            phases.append(pha_BFT.detach())
        means = {
            name: torch.stack([losses[name] for losses in part_losses]).mean() for name in part_losses[0]
        }
        return means, torch.cat(magnitudes), torch.cat(phases)

    def _losses(
        self, noisy: Tensor, clean: Tensor, dropout_mask_BH: Tensor | None, seeds_B: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        precision = _PRECISIONS.get(self._config.precision)
        with torch.autocast(self.device.type, precision, enabled=precision is not None):
            inputs = stft(noisy, self._spectral)
            mag_BFT, pha_BFT = self.generate(*inputs) if seeds_B is None else self.generate(*inputs, seeds_B)
        mag_BFT, pha_BFT = mag_BFT.float(), pha_BFT.float()
        losses = spectral_losses(mag_BFT, pha_BFT, clean, self._spectral)
        if self._adversary is not None:
            assert dropout_mask_BH is not None
            clean_mag_BFT, _ = stft(clean, self._spectral)
            losses["metric"] = self._adversary.generator_loss(clean_mag_BFT, mag_BFT, dropout_mask_BH)
        losses["total"] = weighted_total(losses, self._config.loss_weights)
        return losses, mag_BFT, pha_BFT

    def _no_sync(self) -> Any:
        return (
            self.generate.no_sync() if isinstance(self.generate, DistributedDataParallel) else nullcontext()
        )

    def _update_generator(self) -> Tensor:
        """One optimiser step, skipped if a float16 gradient overflowed; returns the gradient norm."""
        scaler, optimiser = self.state.scaler, self.state.generator_optimiser
        scaler.unscale_(optimiser)
        norm = clip(optimiser, self._config.optimiser.max_gradient_norm)
        scaler.step(optimiser)
        scaler.update()
        self.state.update_average()
        return norm
