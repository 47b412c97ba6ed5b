"""Training of the metric discriminator, one step behind the generator to hide PESQ's latency.

Step t trains it on the pair of step t-1, whose PESQ is computed while the device works on step t.
The pending pair is part of the checkpoint.

Legend: B segments of this rank, F frequency bins, T frames, H hidden units of the discriminator.
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
from rwsa.training.optimiser import update
from rwsa.training.pesq_pool import PesqPool, PesqTargets
from rwsa.training.ranks import added, concatenated_on_first, distributed, world_size
from rwsa.training.state import TrainState


@dataclass(frozen=True)
class _PendingPair:
    """Compressed magnitudes of clean and enhanced segments, and their scaled PESQ `[B]`."""

    clean_BFT: Tensor
    enhanced_BFT: Tensor
    target: PesqTargets | Tensor


class Adversary:
    """The discriminator with its optimiser, its PESQ processes and the pending pair.

    Use as a context manager: leaving it ends the processes.
    """

    def __init__(self, state: TrainState, context: WorkerContext) -> None:
        assert state.discriminator is not None
        assert state.discriminator_optimiser is not None
        config = state.config
        self._state, self._device = state, context.device
        self._discriminator, self._optimiser = state.discriminator, state.discriminator_optimiser
        self._ddp = distributed(state.discriminator)
        self._batch = config.global_batch_size
        self._share = share_of(self._batch, rank=context.rank, world_size=context.world_size)
        self._pool = PesqPool(config.pesq_processes)
        self._pair = self._restore(state.pending)
        self.pesq_wait_seconds = 0.0  # in total

    def _restore(self, tensors: Mapping[str, Tensor]) -> _PendingPair | None:
        if not tensors:
            return None
        own = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        return _PendingPair(own["clean"], own["enhanced"], own["target"])

    def generator_loss(self, clean_BFT: Tensor, enhanced_BFT: Tensor, dropout_mask_BH: Tensor) -> Tensor:
        """The generator's metric loss on some of this rank's segments."""
        with _frozen(self._discriminator) as discriminator:
            return metric_loss(discriminator(clean_BFT, enhanced_BFT, dropout_mask_BH))

    def dropout_mask(self, name: str) -> Tensor:
        """This rank's part `[B, H]` of this step's mask over the global batch, drawn by `name`."""
        words = np.frombuffer(name.encode().ljust(16)[:16], "<u4").tolist()
        key = np.random.SeedSequence([self._state.config.seed, self._state.step, *words])
        rng = torch.Generator().manual_seed(int(key.generate_state(1)[0]))
        return self._discriminator.dropout_factors(rng, self._batch)[self._share].to(self._device)

    def update(self) -> dict[str, Tensor]:
        """Train on the pending pair; returns the losses, empty if there is no pair."""
        if self._pair is None:
            return {}
        clean_BFT, enhanced_BFT, target = self._pair.clean_BFT, self._pair.enhanced_BFT, self._target()
        dropout_mask_BH = torch.cat((self.dropout_mask("clean"), self.dropout_mask("enhanced")))
        # Both pairs in one pass: DDP allows one forward pass before its backward pass.
        scores = self._ddp(
            torch.cat((clean_BFT, clean_BFT)), torch.cat((clean_BFT, enhanced_BFT)), dropout_mask_BH
        )
        clean_score, enhanced_score = scores.chunk(2)
        target = target.to(scores.device)
        scored = torch.isfinite(target).sum()
        known = added(scored) / world_size()
        losses = discriminator_losses(clean_score, enhanced_score, target, known)
        total = torch.stack(list(losses.values())).sum()
        update(self._optimiser, total, self._state.config.optimiser.max_gradient_norm)
        self._pair = None
        return losses | {"pesq_refused_share": 1 - scored / len(target)}

    def enqueue(self, clean_BFT: Tensor, enhanced_BFT: Tensor, clean: Tensor, enhanced: Tensor) -> None:
        """Store this step's pair for the next step and start its PESQ; signals are `[B, samples]`."""
        self._pair = _PendingPair(
            clean_BFT.detach(), enhanced_BFT.detach(), self._pool.submit(clean, enhanced)
        )

    def pending(self) -> dict[str, Tensor]:
        """On rank 0 the pending pair of all ranks in the order of the global batch, for a checkpoint.

        Every rank calls it, sends its part and waits for PESQ. The other ranks get nothing: with 4,096
        segments of xs the pair takes 2.1 GB.
        """
        if self._pair is None:
            return {}
        target = self._target()
        self._pair = dataclasses.replace(self._pair, target=target)
        own = {
            "clean": self._pair.clean_BFT,
            "enhanced": self._pair.enhanced_BFT,
            "target": target.to(self._device),
        }
        whole = {name: concatenated_on_first(tensor) for name, tensor in own.items()}
        return {name: tensor.cpu() for name, tensor in whole.items() if tensor is not None}

    def _target(self) -> Tensor:
        assert self._pair is not None
        if isinstance(self._pair.target, Tensor):
            return self._pair.target
        start = time.perf_counter()
        target = self._pair.target.wait()
        self.pesq_wait_seconds += time.perf_counter() - start
        return target

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model with its parameters frozen, so that the generator's loss leaves no gradients in it."""
    model.requires_grad_(False)
    try:
        yield model
    finally:
        model.requires_grad_(True)
