"""512 ranks as plain objects: each draws and reads its own part, and little else."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from rwsa.shards import sampling
from rwsa.shards.sampling import SampleRef, share_of
from rwsa.training.state import TrainState
from tests.benchmarks.bench_ranks import SEGMENTS, draw, drawing_bytes, order_of
from tests.training_runs import config_of

RANKS = 512


def test_each_rank_makes_its_own_references_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SampleRef] = []

    def reference(*values: int) -> SampleRef:
        made.append(SampleRef(*values))
        return made[-1]

    monkeypatch.setattr(sampling, "SampleRef", reference)
    order = order_of(20_480)  # five global batches, so that they end where an epoch does
    seen = list[SampleRef]()
    for rank in range(RANKS):
        (batch,) = itertools.islice(draw(order, RANKS, rank), 1)
        assert len(batch.samples) == SEGMENTS
        seen += batch.samples
    assert len(made) == len(set(seen)) == RANKS * SEGMENTS
    assert [ref.position for ref in seen] == list(range(RANKS * SEGMENTS))


def test_drawing_batches_takes_less_than_a_megabyte() -> None:
    assert drawing_bytes(order_of(10_000_000), RANKS) < 1e6


def test_each_rank_reads_its_own_part_of_the_pending_pair(tmp_path: Path) -> None:
    config = config_of(tmp_path, loss_weights={"metric": 0.05}, global_batch_size=RANKS * SEGMENTS)
    pending = {name: torch.arange(RANKS * SEGMENTS)[:, None].float() for name in ("clean", "enhanced")}
    pending["target"] = torch.arange(RANKS * SEGMENTS).float()
    state = TrainState(config, torch.device("cpu"))
    state.save(tmp_path, order_identity="order", pending=pending)
    for rank in (0, 1, 300, RANKS - 1):
        own = share_of(RANKS * SEGMENTS, rank=rank, world_size=RANKS)
        state.load(tmp_path, order_identity="order", share=own)
        assert {name: len(part) for name, part in state.pending.items()} == dict.fromkeys(pending, SEGMENTS)
        assert state.pending["target"].tolist() == list(range(own.start, own.stop))
        assert torch.equal(state.pending["enhanced"], pending["enhanced"][own])
