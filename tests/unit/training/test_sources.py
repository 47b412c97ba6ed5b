"""Sources: online mixing equals shards; missing examples are replaced and counted."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from pipelines.train import CONFIGS, absolute
from pipelines.training.config import TrainRunConfig
from rwsa.config import as_mapping, build, merge, read_config
from rwsa.corpora import scan
from rwsa.corpora.cards import SPLITS, CorpusCard, read_card
from rwsa.errors import InputError
from rwsa.mixing import render_example
from rwsa.mixing.plans import plan_hash, plan_split
from rwsa.mixing.recipes import read_recipe, recipe_hash
from rwsa.shards import Example, write_shard
from rwsa.shards.index import Failure, merge_index, read_index
from rwsa.shards.sampling import Cursor
from rwsa.training.config import DataConfig, card_of, self_contained
from rwsa.training.context import LocalContext
from rwsa.training.data import SegmentBatch, TrainData, ValidData
from rwsa.training.loop import fit
from tests.training_runs import TINY, Log

RATE_HZ = 16_000
SHARD_EXAMPLES = 4
SAMPLES = 3000
CARD = {
    "name": "toy",
    "description": "Noise bursts in place of speech.",
    "sample_rate_hz": RATE_HZ,
    "licence": "CC0",
    "speech": [{"root": "speech", "pattern": r"(?P<split>\w+)/(?P<speaker>\w+)\.wav"}],
    "noise": [{"root": "noise", "pattern": r"(?P<split>\w+)/(?P<recording>\w+)\.wav"}],
}
RECIPE = {
    "name": "toy",
    "seconds": 0.3,
    "min_speech_seconds": 0.1,
    "min_snr_db": -5,
    "max_snr_db": 10,
    "noise_transforms": [{"name": "Gain", "parameters": {"min_gain_db": -6, "max_gain_db": 6}, "p": 0.5}],
    "examples": {"train": 14, "valid": 5},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Card, recipe, recordings (one silent speaker per split), and their shards."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for kind, count in (("speech", 4), ("noise", 2)):
        for split in ("train", "valid"):
            (root / kind / split).mkdir(parents=True)
            for number in range(count):
                silent = kind == "speech" and number == 1
                wav = np.zeros(RATE_HZ) if silent else rng.normal(scale=0.1, size=RATE_HZ)
                soundfile.write(root / kind / split / f"{split}{kind}{number}.wav", wav, RATE_HZ)
    values = merge(CARD, {})
    for kind in ("speech", "noise"):
        values[kind] = [{**values[kind][0], "root": str(root / kind)}]
    (root / "card.yaml").write_text(yaml.safe_dump(values))
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    write_shards(root)
    return root


def write_shards(root: Path) -> None:
    recipe = read_recipe(root / "recipe.yaml")
    manifest = scan(read_card(root / "card.yaml"))
    for split in ("train", "valid"):
        plans = plan_split(manifest, recipe, split)
        items = [render(plan) for plan in plans]
        for number, at in enumerate(range(0, len(items), SHARD_EXAMPLES)):
            write_shard(
                root / "shards",
                split,
                number,
                items[at : at + SHARD_EXAMPLES],
                sample_rate_hz=RATE_HZ,
                recipe_hash=recipe_hash(recipe),
                plan_hash=plan_hash(plans[at : at + SHARD_EXAMPLES]),
            )
    merge_index(root / "shards")


def render(plan: Any) -> Example | Failure:
    try:
        return render_example(plan)
    except InputError as error:
        return Failure(example_id=plan.example_id, reason=str(error))


def online(corpus: Path, **changes: Any) -> DataConfig:
    mix = {
        "card": str(corpus / "card.yaml"),
        "recipe": str(corpus / "recipe.yaml"),
        "shard_examples": SHARD_EXAMPLES,
        "workers": 0,
    }
    return build(DataConfig, {"mix": merge(mix, changes), "open_shards": 2}, where="test")


def offline(shards: Path, **changes: Any) -> DataConfig:
    return build(DataConfig, merge({"shards": str(shards), "open_shards": 2}, changes), where="test")


def batches_of(
    config: DataConfig,
    count: int,
    *,
    seed: int = 3,
    cursor: Cursor | None = None,
    size: int = 4,
    rank: int = 0,
    world_size: int = 1,
) -> list[SegmentBatch]:
    data = TrainData(config, seed=seed, segment_samples=SAMPLES)
    segments = data.segments(cursor or Cursor(), global_batch_size=size, rank=rank, world_size=world_size)
    try:
        return list(itertools.islice(segments, count))
    finally:
        segments.close()


def bits(batches: list[SegmentBatch]) -> list[tuple[Any, ...]]:
    return [
        (b.ids, b.cursor_after, b.replaced, b.noisy.numpy().tobytes(), b.clean.numpy().tobytes())
        for b in batches
    ]


class TestOnline:
    def test_segments_are_bit_identical_to_those_of_shards(self, corpus: Path) -> None:
        # Ten batches of 4 span three epochs of 14.
        mixed, read = batches_of(online(corpus), 10), batches_of(offline(corpus / "shards"), 10)
        assert bits(mixed) == bits(read)
        assert mixed[-1].cursor_after.epoch == 2
        assert sum(batch.replaced for batch in mixed) > 0  # those of the silent speaker

    def test_rendering_processes_on_one_of_two_ranks_give_the_same_bits(self, corpus: Path) -> None:
        share: dict[str, Any] = {"rank": 1, "world_size": 2, "cursor": Cursor(0, 6)}
        mixed = batches_of(online(corpus, workers=2), 4, **share)
        assert bits(mixed) == bits(batches_of(offline(corpus / "shards"), 4, **share))

    def test_identity_equals_that_of_shards_and_depends_on_recipe_and_corpus(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        def identity(config: DataConfig) -> str:
            return TrainData(config, seed=3, segment_samples=SAMPLES).identity()

        assert identity(online(corpus)) == identity(offline(corpus / "shards"))
        others = [
            online(corpus, fresh=True),
            online(corpus, recipe={**RECIPE, "max_snr_db": 11}),
            online(corpus, shard_examples=5),
        ]
        shutil.copytree(corpus, tmp_path / "fewer")
        card = tmp_path / "fewer" / "card.yaml"
        card.write_text(card.read_text().replace(str(corpus), str(tmp_path / "fewer")))
        next((tmp_path / "fewer" / "speech" / "train").iterdir()).unlink()
        others.append(online(tmp_path / "fewer"))
        assert len({identity(config) for config in (online(corpus), *others)}) == 5

    def test_validation_examples_equal_those_of_shards(self, corpus: Path) -> None:
        configs = (online(corpus), online(corpus, fresh=True), offline(corpus / "shards"))
        seen = []
        for config in configs:
            shares = [list(ValidData(config).examples(rank=rank, world_size=2)) for rank in (0, 1)]
            seen.append([[(e.example_id, e.noisy.tobytes()) for e in share] for share in shares])
        assert seen[0] == seen[1] == seen[2]
        assert 0 < sum(map(len, seen[0])) < 5
        two = dataclasses.replace(configs[0], valid_examples=2)
        of_shards = dataclasses.replace(configs[2], valid_examples=2)
        few = [[e.example_id for e in ValidData(c).examples(rank=0, world_size=1)] for c in (two, of_shards)]
        assert few[0] == few[1]

    def test_strict_stops_at_an_example_that_cannot_be_mixed(self, corpus: Path) -> None:
        with pytest.raises(InputError, match="silent throughout"):
            batches_of(online(corpus, strict=True), 4)

    def test_training_equals_training_from_shards(self, corpus: Path, tmp_path: Path) -> None:
        logs = []
        for name, data in (("online", online(corpus)), ("shards", offline(corpus / "shards"))):
            log = Log()
            fit(tiny(data), LocalContext(tmp_path / name, log))
            logs.append(log.steps)
        assert logs[0] == logs[1]
        assert logs[0].keys() == {1, 2}
        assert sum(values["replaced_samples"] for values in logs[0].values()) > 0
        assert logs[0][2]["valid_clips"] < 5

    def test_a_recipe_without_examples_is_refused(self, corpus: Path) -> None:
        config = online(corpus, recipe={**RECIPE, "examples": {"valid": 1}})
        with pytest.raises(InputError, match=r"has no examples of 'train'; set examples\.train"):
            TrainData(config, seed=0, segment_samples=SAMPLES)


class TestFresh:
    def test_epochs_have_different_examples(self, corpus: Path) -> None:
        batches = batches_of(online(corpus, fresh=True), 11)  # 44 samples: three epochs
        segments = [s.tobytes() for batch in batches for s in batch.noisy.numpy()]
        # Replacements occur twice in an epoch; no segment occurs in two epochs.
        assert len(set(segments)) == len(segments) - sum(batch.replaced for batch in batches)
        assert batches[0].noisy.numpy().tobytes() != batches_of(online(corpus), 1)[0].noisy.numpy().tobytes()

    def test_it_resumes_and_is_sharded_over_ranks(self, corpus: Path) -> None:
        config = online(corpus, fresh=True)
        straight = batches_of(config, 8)
        assert bits(batches_of(config, 4, cursor=straight[3].cursor_after)) == bits(straight[4:])
        ranks = [batches_of(config, 4, rank=rank, world_size=2) for rank in (0, 1)]
        for step in range(4):
            ids = [name for rank in ranks for name in rank[step].ids]
            assert tuple(ids) == straight[step].ids

    def test_another_seed_gives_other_examples(self, corpus: Path) -> None:
        config = online(corpus, fresh=True)
        one, two = (
            {s.tobytes() for b in batches_of(config, 4, seed=seed) for s in b.noisy.numpy()}
            for seed in (1, 2)
        )
        assert not one & two


RENDERING = """
if __name__ == "__main__":
    import sys
    from multiprocessing import active_children

    from rwsa.config import build
    from rwsa.shards.sampling import Cursor
    from rwsa.training.config import DataConfig, card_of, self_contained
    from rwsa.training.data import TrainData

    mix = {"card": sys.argv[1] + "/card.yaml", "recipe": sys.argv[1] + "/recipe.yaml", "workers": 2}
    data = TrainData(build(DataConfig, {"mix": mix}, where="test"), seed=0, segment_samples=100)
    segments = data.segments(Cursor(), global_batch_size=4, rank=0, world_size=1)
    next(segments)
    print(*[child.pid for child in active_children()], flush=True)
    sys.stdin.read()
"""


def test_rendering_processes_exit_when_their_parent_is_killed(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "render.py").write_text(RENDERING)
    command = [sys.executable, str(tmp_path / "render.py"), str(corpus)]
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parents[1])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in children)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def damaged(corpus: Path, folder: Path, *, shards: tuple[int, ...] = (), member: bool = False) -> Path:
    """A copy of the shards with missing shards, or with a changed byte in the first noisy file."""
    shutil.copytree(corpus / "shards", folder)
    for number in shards:
        (folder / f"train-{number:06d}.tar").unlink()
    if member:
        tar = folder / "train-000000.tar"
        noisy = read_index(folder, "train").entries[0].examples[0].noisy
        data = bytearray(tar.read_bytes())
        data[noisy.offset + 100] ^= 0xFF
        tar.write_bytes(bytes(data))
    return folder


class TestCorruptShards:
    def test_by_default_a_damaged_shard_is_an_error(self, corpus: Path, tmp_path: Path) -> None:
        shards = damaged(corpus, tmp_path / "shards", member=True)
        with pytest.raises(InputError, match=r"train-000000\.tar: member .+noisy\.flac: its checksum"):
            batches_of(offline(shards), 4)

    def test_skipped_examples_are_replaced_by_the_previous_one(
        self, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shards = damaged(corpus, tmp_path / "shards", shards=(1,), member=True)
        config = offline(shards, on_corrupt="skip")
        with caplog.at_level(logging.WARNING):
            batches = batches_of(config, 7, size=2)  # one epoch
        entries = read_index(shards, "train").entries
        intact = {e.example_id for n in (0, 2, 3) for e in entries[n].examples}
        intact -= {entries[0].examples[0].example_id}
        order = TrainData(config, seed=3, segment_samples=SAMPLES).order.epoch(0)
        expected, usable = list[str](), list[str | None]()
        for shard, slot in order.tolist():
            at = entries[shard].at_slot(slot)
            name = None if isinstance(at, Failure) else entries[shard].examples[at].example_id
            usable.append(name if name in intact else None)
        for at in range(len(usable)):
            expected.append(next(filter(None, (usable[at - back] for back in range(len(usable))))))
        assert [name for batch in batches for name in batch.ids] == expected
        assert set(expected) == intact
        assert sum(batch.replaced for batch in batches) == usable.count(None)
        # One warning per shard; the other shards have examples that could not be mixed.
        named = [record.getMessage().partition(":")[0] for record in caplog.records]
        assert {"train-000000.tar", "train-000001.tar"} <= set(named)
        assert len(named) == len(set(named))

    def test_samples_do_not_depend_on_world_size_or_resuming(self, corpus: Path, tmp_path: Path) -> None:
        config = offline(damaged(corpus, tmp_path / "shards", shards=(2,)), on_corrupt="skip")
        straight = batches_of(config, 8)
        assert bits(batches_of(config, 4, cursor=straight[3].cursor_after)) == bits(straight[4:])
        ranks = [batches_of(config, 8, rank=rank, world_size=2) for rank in (0, 1)]
        for step, batch in enumerate(straight):
            parts = [rank[step] for rank in ranks]
            assert tuple(name for part in parts for name in part.ids) == batch.ids
            assert sum(part.replaced for part in parts) == batch.replaced
            assert {len(part.ids) for part in parts} == {2}

    def test_no_usable_example_is_an_error(self, corpus: Path, tmp_path: Path) -> None:
        shards = damaged(corpus, tmp_path / "shards", shards=(0, 1, 2, 3))
        with pytest.raises(InputError, match=r"no training example is usable; the last, train-00000\d\.tar"):
            batches_of(offline(shards, on_corrupt="skip"), 1)


@pytest.mark.parametrize(("threads", "world_size"), [(1, 1), (3, 2), (2, 4)])
def test_threads_and_ranks_do_not_duplicate_examples(corpus: Path, threads: int, world_size: int) -> None:
    config = offline(corpus / "shards", loader_threads=threads)
    steps = 7  # of 4 samples: two epochs of 14
    ids = list[str]()
    for rank in range(world_size):
        ids += [name for b in batches_of(config, steps, rank=rank, world_size=world_size) for name in b.ids]
    index = read_index(corpus / "shards", "train")
    stored = [e.example_id for entry in index.entries for e in entry.examples]
    counts = Counter(ids)
    assert counts.keys() == set(stored)
    assert sum(counts.values()) == 28
    assert min(counts.values()) == 2
    failed = sum(len(entry.failures) for entry in index.entries)
    assert sum(counts.values()) - 2 * len(stored) == 2 * failed


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({}, "split 'train' has no source; set data.shards"),
            ({"mix": {"splits": ["train"]}}, "split 'valid' has no source"),
            ({"mix": {}, "shards": "x"}, "data.mix covers every split; remove data.shards"),
            ({"mix": {"splits": ["train", "valid", "test"]}}, "names 'test', which is not used"),
            ({"mix": {"fersh": True}}, "unknown key 'mix.fersh'; did you mean 'fresh'"),
        ],
    )
    def test_every_split_has_one_source(self, values: dict[str, Any], message: str) -> None:
        if "mix" in values:
            values = {**values, "mix": {"card": "c", "recipe": "r", **values["mix"]}}
        with pytest.raises(InputError, match=message):
            build(DataConfig, values, where="test")

    def test_one_split_can_be_mixed_and_the_other_read(self, corpus: Path) -> None:
        mix = {"card": str(corpus / "card.yaml"), "recipe": RECIPE, "splits": ["train"], "workers": 0}
        config = build(DataConfig, {"mix": mix, "shards": str(corpus / "shards")}, where="test")
        assert batches_of(config, 1)[0].noisy.shape == (4, SAMPLES)
        assert list(ValidData(config).examples(rank=0, world_size=1))

    def test_a_self_contained_configuration_works_in_another_folder(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        card = merge(CARD, {"name": "relative"})
        monkeypatch.chdir(corpus)
        config = build(
            DataConfig, {"mix": {"card": card, "recipe": "recipe.yaml", "workers": 0}}, where="test"
        )
        expected = batches_of(config, 2)
        packed = as_mapping(self_contained(absolute(tiny(config)).data))
        monkeypatch.chdir(tmp_path)
        elsewhere = build(DataConfig, packed, where="test")
        assert elsewhere.mix is not None
        assert isinstance(card_of(elsewhere.mix), CorpusCard)
        assert bits(batches_of(elsewhere, 2)) == bits(expected)

    def test_urls_are_unchanged(self, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(corpus)
        assert absolute(tiny(offline(Path("shards")))).data.shards == str(corpus / "shards")
        url = dataclasses.replace(offline(Path("x")), shards="memory://bucket/shards")
        assert absolute(tiny(url)).data.shards == "memory://bucket/shards"


def tiny(data: DataConfig) -> TrainRunConfig:
    return build(TrainRunConfig, {**CONFIG, "data": as_mapping(data)}, where="test")


CONFIG = {
    "name": "test",
    "model": TINY,
    "loss_weights": {"metric": 0},
    "global_batch_size": 8,
    "max_steps": 2,
    "best_metric": "si_sdr",
    "checkpoint_every_steps": 2,
    "log_every_steps": 1,
}


def test_the_online_overlay_trains_without_shards(corpus: Path, tmp_path: Path) -> None:
    small = {**CONFIG, "data": {"mix": {"card": str(corpus / "card.yaml"), "recipe": RECIPE, "workers": 1}}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    overlays = [CONFIGS / "base.yaml", CONFIGS / "online.yaml", tmp_path / "small.yaml"]
    config = read_config(TrainRunConfig, overlays)
    assert config.data.shards is None
    assert config.data.mix is not None
    assert config.data.mix.fresh
    log = Log()
    state = fit(config, LocalContext(tmp_path / "run", log))
    assert state.step == 2
    assert state.cursor == Cursor(1, 2)
    assert {"total", "learning_rate", "replaced_samples"} < log.steps[1].keys()


def test_the_card_and_recipe_of_the_online_overlay_exist() -> None:
    config = read_config(
        TrainRunConfig, [CONFIGS / f"{name}.yaml" for name in ("base", "nano", "demo", "online")], ["name=x"]
    )
    assert config.data.mix is not None
    for path in (config.data.mix.card, config.data.mix.recipe):
        assert isinstance(path, str)
        assert (CONFIGS.parents[1] / path).is_file()
    assert set(config.data.mix.splits) <= set(SPLITS)
