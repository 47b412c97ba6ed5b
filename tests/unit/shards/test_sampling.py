"""The sample order: permutations, independence of world size, exact resumption, ends of epochs."""

from __future__ import annotations

import itertools
import multiprocessing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwsa.errors import InputError
from rwsa.shards.sampling import Batch, Cursor, Order, batches, in_order, sample_rng

ORDERS = st.builds(
    Order,
    shard_sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8).map(tuple).filter(sum),
    seed=st.integers(0, 2**32),
    open_shards=st.integers(1, 4),
)


def take(order: Order, count: int, cursor: Cursor | None = None, **sizes: int) -> list[Batch]:
    return list(itertools.islice(batches(order, cursor, **sizes), count))


@given(order=ORDERS, epoch=st.integers(0, 1000))
def test_each_epoch_is_a_permutation(order: Order, epoch: int) -> None:
    expected = [(shard, index) for shard, size in enumerate(order.shard_sizes) for index in range(size)]
    assert sorted(map(tuple, order.epoch(epoch).tolist())) == expected


@given(order=ORDERS, world_size=st.integers(1, 5), share=st.integers(1, 4))
def test_ranks_together_see_the_same_global_batches_at_any_world_size(
    order: Order, world_size: int, share: int
) -> None:
    size = world_size * share
    alone = take(order, 6, global_batch_size=size)
    ranks = [
        take(order, 6, global_batch_size=size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for step, whole in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        assert tuple(itertools.chain.from_iterable(part.samples for part in parts)) == whole.samples
        assert {part.cursor_after for part in parts} == {whole.cursor_after}
        assert {len(part.samples) for part in parts} == {share}


@given(order=ORDERS, size=st.integers(1, 7), done=st.integers(1, 9))
def test_resuming_at_any_cursor_equals_the_uninterrupted_order(order: Order, size: int, done: int) -> None:
    uninterrupted = take(order, done + 5, global_batch_size=size)
    resumed = take(order, 5, uninterrupted[done - 1].cursor_after, global_batch_size=size)
    assert resumed == uninterrupted[done:]


@given(order=ORDERS, done=st.integers(0, 9))
def test_resuming_with_another_global_batch_continues_the_same_sequence(order: Order, done: int) -> None:
    first = take(order, done, global_batch_size=4)
    cursor = first[-1].cursor_after if first else None
    then = take(order, 6, cursor, global_batch_size=3)
    seen = [sample for batch in first + then for sample in batch.samples]
    straight = take(order, len(seen), global_batch_size=1)
    assert seen == [batch.samples[0] for batch in straight]


@given(order=ORDERS, size=st.integers(1, 12))
def test_tails_are_carried_without_loss_or_repetition(order: Order, size: int) -> None:
    epochs = 3
    steps = -(-epochs * order.samples // size)
    seen = [s for batch in take(order, steps, global_batch_size=size) for s in batch.samples]
    for epoch in range(epochs):
        of_epoch = [sample for sample in seen if sample.epoch == epoch]
        assert [sample.position for sample in of_epoch] == list(range(order.samples))
        assert len({(sample.shard, sample.index) for sample in of_epoch}) == order.samples


def all_at_once(order: Order, epoch: int) -> np.ndarray:
    """The order as the first version computed it, which saved cursors rest on."""
    rng = np.random.default_rng(np.random.SeedSequence([order.seed, epoch]))
    shards, rows = rng.permutation(len(order.shard_sizes)), []
    for at in range(0, len(shards), order.open_shards):
        group = shards[at : at + order.open_shards]
        sizes = [order.shard_sizes[shard] for shard in group]
        indices = np.concatenate([np.arange(size, dtype=np.int64) for size in sizes])
        rows.append(rng.permutation(np.stack([np.repeat(group, sizes), indices], axis=1)))
    return np.concatenate(rows)


@given(order=ORDERS, epoch=st.integers(0, 9), start=st.integers(0, 80), size=st.integers(1, 100))
def test_the_order_made_group_by_group_is_the_order_made_at_once(
    order: Order, epoch: int, start: int, size: int
) -> None:
    epochs = [all_at_once(order, epoch + after) for after in range(2 + 100 // order.samples)]
    assert order.epoch(epoch).tolist() == epochs[0].tolist()
    start %= order.samples
    sequence = [
        (epoch + after, position, *row)
        for after, rows in enumerate(epochs)
        for position, row in enumerate(rows.tolist())
    ][start:]
    (batch,) = take(order, 1, Cursor(epoch, start), global_batch_size=size)
    assert [(s.epoch, s.position, s.shard, s.index) for s in batch.samples] == sequence[:size]
    assert batch.cursor_after == Cursor(*sequence[size][:2])


def test_order_is_pinned() -> None:
    """A change here makes every saved cursor mean other samples: raise the schema with it."""
    order = Order(shard_sizes=(3, 2, 4), seed=7, open_shards=2)
    assert order.epoch(0).tolist() == [[0, 0], [2, 3], [0, 1], [2, 0], [2, 2], [0, 2], [2, 1], [1, 1], [1, 0]]
    assert order.identity() == "e995ddbc1f43"


def test_epochs_and_seeds_differ() -> None:
    order = Order(shard_sizes=(50, 50), seed=1)
    other = Order(shard_sizes=(50, 50), seed=2)
    assert order.epoch(0).tolist() != order.epoch(1).tolist()
    assert order.epoch(0).tolist() != other.epoch(0).tolist()
    assert order.identity() != other.identity()


def test_samples_are_mixed_across_shards_but_only_open_ones() -> None:
    order = Order(shard_sizes=(20,) * 12, seed=3, open_shards=4)
    shards = order.epoch(0)[:, 0]
    for start in range(0, len(shards), 80):
        assert len(set(shards[start : start + 80])) == 4
    # Neighbours from one shard are as rare as chance has it (a quarter), not the rule.
    assert np.mean(shards[1:] == shards[:-1]) < 0.4


def test_adjacent_samples_of_a_shard_are_separated() -> None:
    order = Order(shard_sizes=(64,) * 32, seed=5, open_shards=8)
    rows = order.epoch(0)
    position = np.empty((32, 64), dtype=np.int64)
    position[rows[:, 0], rows[:, 1]] = np.arange(len(rows))
    apart = np.abs(np.diff(position, axis=1))
    # In groups of 512 chance leaves 0.4% side by side, a third of a group apart on average.
    assert np.mean(apart == 1) < 0.015
    assert 512 / 3 * 0.9 < apart.mean() < 512 / 3 * 1.1
    # Each shard is spread over its group's whole stretch.
    assert np.ptp(position, axis=1).min() > 0.85 * 512


@given(
    order=ORDERS, before=st.sampled_from([1, 2, 3, 6]), after=st.sampled_from([1, 2, 3, 6]), done=st.data()
)
def test_a_run_may_change_its_world_size_at_any_step(
    order: Order, before: int, after: int, done: st.DataObject
) -> None:
    steps = 3 * order.samples // 6 + 1
    broken_off = done.draw(st.integers(0, steps))
    seen, cursor = list[tuple[int, int, int]](), Cursor()
    for world_size, count in ((before, broken_off), (after, steps - broken_off)):
        ranks = [
            take(order, count, cursor, global_batch_size=6, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        seen += [(s.epoch, s.shard, s.index) for rank in ranks for batch in rank for s in batch.samples]
        cursor = ranks[0][-1].cursor_after if count else cursor
    assert len(set(seen)) == len(seen) == 6 * steps
    for epoch in range(cursor.epoch):
        assert sum(one[0] == epoch for one in seen) == order.samples


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple), world_size=st.integers(1, 6))
def test_validation_shares_cover_everything_once(sizes: tuple[int, ...], world_size: int) -> None:
    shares = [list(in_order(sizes, rank=rank, world_size=world_size)) for rank in range(world_size)]
    places = sorted((ref.shard, ref.index) for share in shares for ref in share)
    assert places == [(shard, index) for shard, size in enumerate(sizes) for index in range(size)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def first_number(sample_id: str) -> float:
    return sample_rng(5, 2, sample_id).random()


def test_sample_randomness_depends_on_seed_epoch_and_id_alone() -> None:
    # A fresh interpreter has another hash salt: Python's own hash() would show here.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(first_number, ("a-1",)) == first_number("a-1")
    keys = [(5, 2, "a-1"), (5, 2, "a-2"), (5, 3, "a-1"), (6, 2, "a-1")]
    assert len({sample_rng(*key).random() for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"global_batch_size": 8, "world_size": 3}, "multiple of 3"),
        ({"global_batch_size": 0}, "cannot be shared"),
        ({"global_batch_size": 4, "rank": 2, "world_size": 2}, "rank 2 does not exist"),
    ],
)
def test_impossible_shares_are_refused_when_called(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batches(Order(shard_sizes=(4,), seed=0), **sizes)


@pytest.mark.parametrize("cursor", [Cursor(0, 4), Cursor(0, -1), Cursor(-1, 0)])
def test_a_cursor_of_other_shards_is_refused(cursor: Cursor) -> None:
    with pytest.raises(InputError, match="outside an epoch of 4 samples"):
        batches(Order(shard_sizes=(4,), seed=0), cursor, global_batch_size=1)


@pytest.mark.parametrize(
    "values",
    [
        {"shard_sizes": (), "seed": 0},
        {"shard_sizes": (0,), "seed": 0},
        {"shard_sizes": (1,), "seed": -1},
        {"shard_sizes": (1,), "seed": 0, "open_shards": 0},
        {"shard_sizes": (2, -1), "seed": 0},
    ],
)
def test_impossible_orders_are_refused(values: dict) -> None:
    with pytest.raises(InputError, match="sample order"):
        Order(**values)
