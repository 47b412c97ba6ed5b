"""The metric discriminator in training: one step behind the generator, so that nobody waits for PESQ.

Step t trains it on the pair that step t-1 made, whose PESQ was computed while the device worked on step t.
The pair that waits belongs to the checkpoint.

Legend: B segments of this rank, F frequency bins, T frames, H hidden values of the discriminator.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from rwsa.losses import discriminator_losses, metric_loss
from rwsa.shards.sampling import share_of
from rwsa.training.context import WorkerContext
from rwsa.training.optimisation import update
from rwsa.training.pesq_pool import PesqPool, PesqTargets
from rwsa.training.ranks import concatenated, distributed, summed, world_size
from rwsa.training.state import TrainState


@dataclass(frozen=True)
class Pair:
    """Compressed magnitudes of clean and enhanced segments, and their scaled PESQ `[B]`."""

    clean_BFT: Tensor
    enhanced_BFT: Tensor
    target: PesqTargets | Tensor


class Adversary:
    """The discriminator, its optimiser, its pool of PESQ processes and the pair that it learns from next.

    Use as a context manager: leaving it ends the processes.
    """

    def __init__(self, state: TrainState, context: WorkerContext) -> None:
        assert state.discriminator is not None
        assert state.discriminator_optimiser is not None
        config = state.config
        self._state, self._device = state, context.device
        self._discriminator, self._optimiser = state.discriminator, state.discriminator_optimiser
        self._learning = distributed(state.discriminator)
        self._batch = config.global_batch_size
        self._share = share_of(self._batch, rank=context.rank, world_size=context.world_size)
        self._pool = PesqPool(config.pesq_processes)
        self._next = self._restored(state.pending)
        self.waited_seconds = 0.0  # for PESQ, in all

    def _restored(self, tensors: Mapping[str, Tensor]) -> Pair | None:
        if not tensors:
            return None
        mine = {name: tensor[self._share].to(self._device) for name, tensor in tensors.items()}
        return Pair(mine["clean"], mine["enhanced"], mine["target"])

    def loss(self, clean_BFT: Tensor, enhanced_BFT: Tensor, dropout_mask_BH: Tensor) -> Tensor:
        """The generator's metric loss on some of this rank's segments."""
        with _frozen(self._discriminator) as discriminator:
            return metric_loss(discriminator(clean_BFT, enhanced_BFT, dropout_mask_BH))

    def dropout_factors(self, name: str) -> Tensor:
        """This rank's part `[B, H]` of what this step draws for the whole global batch, under a name."""
        words = np.frombuffer(name.encode().ljust(16)[:16], "<u4").tolist()
        key = np.random.SeedSequence([self._state.config.seed, self._state.step, *words])
        rng = torch.Generator().manual_seed(int(key.generate_state(1)[0]))
        return self._discriminator.dropout_factors(rng, self._batch)[self._share].to(self._device)

    def learn(self) -> dict[str, Tensor]:
        """Train on the pair of the step before; nothing where there is none."""
        if self._next is None:
            return {}
        clean_BFT, enhanced_BFT, target = self._next.clean_BFT, self._next.enhanced_BFT, self._target()
        dropout_mask_BH = torch.cat((self.dropout_factors("clean"), self.dropout_factors("enhanced")))
        # One pass over both pairs: DDP allows one forward pass before its backward pass.
        scores = self._learning(
            torch.cat((clean_BFT, clean_BFT)), torch.cat((clean_BFT, enhanced_BFT)), dropout_mask_BH
        )
        clean_score, enhanced_score = scores.chunk(2)
        target = target.to(scores.device)
        scored = torch.isfinite(target).sum()
        known = summed(scored, self._device).item() / world_size()
        losses = discriminator_losses(clean_score, enhanced_score, target, known)
        total = torch.stack(list(losses.values())).sum()
        update(self._optimiser, total, self._state.config.optimiser.max_gradient_norm)
        self._next = None
        return losses | {"pesq_refused_share": 1 - scored / len(target)}

    def remember(self, clean_BFT: Tensor, enhanced_BFT: Tensor, clean: Tensor, enhanced: Tensor) -> None:
        """Keep this step's pair for the next, and begin on its PESQ; signals are `[B, samples]`."""
        self._next = Pair(clean_BFT.detach(), enhanced_BFT.detach(), self._pool.submit(clean, enhanced))

    def pending(self) -> dict[str, Tensor]:
        """The pair that waits, over all ranks in the order of the global batch, for a checkpoint.

        Every rank calls it; waits for PESQ.
        """
        if self._next is None:
            return {}
        target = self._target()
        self._next = dataclasses.replace(self._next, target=target)
        mine = {
            "clean": self._next.clean_BFT,
            "enhanced": self._next.enhanced_BFT,
            "target": target.to(self._device),
        }
        return {name: concatenated(tensor).cpu() for name, tensor in mine.items()}

    def _target(self) -> Tensor:
        assert self._next is not None
        if isinstance(self._next.target, Tensor):
            return self._next.target
        began = time.perf_counter()
        target = self._next.target.wait()
        self.waited_seconds += time.perf_counter() - began
        return target

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model without gradients of its own, so that the generator's loss leaves none behind."""
    model.requires_grad_(False)
    try:
        yield model
    finally:
        model.requires_grad_(True)
