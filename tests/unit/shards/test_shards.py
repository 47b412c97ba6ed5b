"""Shards: the same bytes for the same examples, exact reading by offset, errors that name the damage."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset

from rwsa.audio import round_to_int16
from rwsa.errors import InputError
from rwsa.files import read_json, sha256_of
from rwsa.shards import Example, ShardReader, as_webdataset, is_intact, verify, write_shard
from rwsa.shards.index import Failure, entry_path, made_alike, made_with, merge_index, read_entry, read_index
from rwsa.shards.sampling import Order, batches

RATE_HZ = 16000


def example(name: str, samples: int = 800) -> Example:
    rng = np.random.default_rng([ord(letter) for letter in name])
    clean, noise = rng.normal(scale=0.1, size=(2, samples))
    return Example(
        example_id=name,
        noisy=round_to_int16(clean + noise),
        clean=round_to_int16(clean),
        sample_rate_hz=RATE_HZ,
        meta={"snr_db": 2.5, "speech": {"clip_id": f"clip-{name}"}},
    )


def write_two_shards(folder: Path) -> list[Example]:
    examples = [example(f"train-{number}", 800 + number) for number in range(5)]
    write_shard(folder, "train", 0, examples[:3], sample_rate_hz=RATE_HZ, recipe_hash="r", plan_hash="p")
    write_shard(folder, "train", 1, examples[3:], sample_rate_hz=RATE_HZ)
    write_shard(folder, "valid", 0, [example("valid-0")], sample_rate_hz=RATE_HZ)
    merge_index(folder)
    return examples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_two_shards(tmp_path)
    return tmp_path


def assert_same(read: Example, written: Example) -> None:
    np.testing.assert_array_equal(read.noisy, written.noisy)
    np.testing.assert_array_equal(read.clean, written.clean)
    assert read.noisy.dtype == np.float32
    assert read.sample_rate_hz == written.sample_rate_hz
    assert read.meta == {**written.meta, "id": written.example_id}


def test_reading_returns_the_written_samples(tmp_path: Path) -> None:
    written = write_two_shards(tmp_path)
    index = read_index(tmp_path, "train")
    assert index.shard_sizes == (3, 2)
    assert index.seconds == pytest.approx(sum(len(e.noisy) for e in written) / RATE_HZ)
    with ShardReader(index, max_open=1) as reader:
        for number in (4, 0, 2, 3, 1):
            assert_same(reader.read(*divmod(number, 3)), written[number])


def test_full_scale_survives(tmp_path: Path) -> None:
    wav = round_to_int16(np.array([-2.0, -1.0, -(2.0**-15), 0.0, 2.0**-15, 1.0, 2.0], np.float32))
    loud = dataclasses.replace(example("a"), noisy=wav, clean=wav)
    write_shard(tmp_path, "test", 0, [loud], sample_rate_hz=RATE_HZ)
    merge_index(tmp_path)
    with ShardReader(read_index(tmp_path, "test")) as reader:
        np.testing.assert_array_equal(reader.read(0, 0).noisy, wav)


def test_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_two_shards(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 8
    for file in files:
        assert sha256_of(tmp_path / "one" / file) == sha256_of(tmp_path / "two" / file), file


def test_tar_members_carry_no_time_and_no_user(folder: Path) -> None:
    with tarfile.open(folder / "train-000000.tar") as tar:
        owners = {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) for info in tar}
    assert owners == {(0, 0, 0, "rwsa", "rwsa", 0o644)}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its tars to the collector
def test_plain_webdataset_reads_the_shards(tmp_path: Path) -> None:
    written = write_two_shards(tmp_path)
    urls = [str(path) for path in sorted(tmp_path.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [one.example_id for one in written]
    assert {"noisy.flac", "clean.flac", "json"} <= samples[0].keys()
    assert json.loads(samples[0]["json"])["snr_db"] == 2.5
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_other_training_code_gets_a_webdataset(tmp_path: Path) -> None:
    written = write_two_shards(tmp_path)
    merge_index(tmp_path)
    samples = list(as_webdataset(read_index(tmp_path, "train"), empty_check=False))
    assert [sample["__key__"] for sample in samples] == [one.example_id for one in written]
    for sample, one in zip(samples, written, strict=True):
        np.testing.assert_array_equal(sample["noisy"], one.noisy)
        np.testing.assert_array_equal(sample["clean"], one.clean)
        assert sample["json"]["snr_db"] == 2.5
    gc.collect()


def test_order_and_reader_fit_together(folder: Path) -> None:
    index = read_index(folder, "train")
    order = Order(shard_sizes=index.shard_sizes, seed=0)
    with ShardReader(index) as reader:
        for batch in itertools.islice(batches(order, global_batch_size=5), 2):
            ids = [reader.read(ref.shard, ref.index).example_id for ref in batch.samples]
            assert sorted(ids) == [f"train-{number}" for number in range(5)]


def test_a_reader_opens_on_demand_closes_and_can_be_pickled(folder: Path) -> None:
    reader = ShardReader(read_index(folder, "train"), max_open=1)
    assert not reader._files
    before = reader.read(0, 0)
    first = reader._files[0]
    reader.read(1, 0)
    assert first.closed
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    with copy:
        np.testing.assert_array_equal(copy.read(0, 0).noisy, before.noisy)
    assert not copy._files


def test_failures_are_counted_in_the_entry(tmp_path: Path) -> None:
    items = [example("a"), Failure(example_id="b", reason="noise.wav: silent"), example("c")]
    entry = write_shard(tmp_path, "train", 0, items, sample_rate_hz=RATE_HZ)
    assert [one.example_id for one in entry.examples] == ["a", "c"]
    assert read_entry(entry_path(tmp_path, "train", 0)) == entry
    assert entry.failures == (dataclasses.replace(items[1], slot=1),)
    assert [entry.at_slot(slot) for slot in range(3)] == [0, entry.failures[0], 1]
    assert entry.planned == 3


def test_a_shard_may_be_empty_when_everything_failed(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", 0, [Failure(example_id="a", reason="x")], sample_rate_hz=RATE_HZ)
    merge_index(tmp_path)
    assert read_index(tmp_path, "train").shard_sizes == (0,)


def test_a_failing_rewrite_leaves_the_old_shard_intact(folder: Path) -> None:
    before = {path.name: sha256_of(path) for path in folder.iterdir()}

    def broken() -> Iterator[Example]:
        yield example("new")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_shard(folder, "train", 0, broken(), sample_rate_hz=RATE_HZ)
    assert {path.name: sha256_of(path) for path in folder.iterdir()} == before


def test_verify_reports_nothing_for_intact_shards(folder: Path) -> None:
    assert verify(read_index(folder, "train")) == []


def flip_a_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_a_flipped_byte_is_named_by_shard_and_member(folder: Path) -> None:
    index = read_index(folder, "train")
    member = index.entries[0].examples[1].clean
    flip_a_byte(folder / "train-000000.tar", member.offset + member.length // 2)
    assert not is_intact(folder, index.entries[0])
    assert verify(index) == [f"{folder / 'train-000000.tar'}: its bytes do not match the index"]
    with ShardReader(index) as reader:
        reader.read(0, 0)
        with pytest.raises(InputError, match=r"train-000000\.tar: member train-1\.clean\.flac: its checksum"):
            reader.read(0, 1)


def test_a_truncated_or_missing_shard_is_named(folder: Path) -> None:
    index = read_index(folder, "train")
    tar = folder / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with ShardReader(index) as reader:
        with pytest.raises(InputError, match=r"train-000001\.tar: member train-4\.json: ends after 0 of"):
            reader.read(1, 1)
        (folder / "train-000000.tar").unlink()
        with pytest.raises(InputError, match=r"train-000000\.tar: member train-0\.json: No such file"):
            reader.read(0, 0)
    assert len(verify(index)) == 2


def off_grid() -> Example:
    return dataclasses.replace(example("a"), noisy=np.full(800, 1e-6, np.float32))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dataclasses.replace(example("a"), example_id="a.b"), "a dot ends the id"),
        (dataclasses.replace(example("a"), sample_rate_hz=8000), "at 8000 Hz in a shard of 16000 Hz"),
        (dataclasses.replace(example("a"), clean=np.zeros(799, np.float32)), "equally long"),
        (dataclasses.replace(example("a"), noisy=np.full(800, 1.0, np.float32)), "beyond full scale"),
        (dataclasses.replace(example("a"), noisy=np.full(800, np.nan, np.float32)), "beyond full scale"),
        (off_grid(), "between 16-bit steps"),
    ],
)
def test_malformed_examples_are_refused(tmp_path: Path, bad: Example, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_shard(tmp_path, "train", 0, [bad], sample_rate_hz=RATE_HZ)
    assert not list(tmp_path.iterdir())


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="appears twice"):
        write_shard(tmp_path, "train", 0, [example("a"), example("a")], sample_rate_hz=RATE_HZ)


def test_unusable_folders_get_one_clear_error(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="no such index"):
        read_index(tmp_path / "none", "train")
    with pytest.raises(InputError, match="holds no shards"):
        merge_index(tmp_path / "none")
    with pytest.raises(InputError, match=r"no split 'test', only \['train', 'valid'\]"):
        read_index(folder, "test")
    with pytest.raises(InputError, match="cannot be written"):
        write_shard(Path("/proc/nowhere"), "train", 0, [example("a")], sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "schema version None"),
        ('{"schema_version": 99}', "schema version 99, but this program reads 2"),
        ('{"schema_version": 2}', "not a shard entry"),
        ("{", "not a readable JSON file"),
    ],
)
def test_damaged_entries_are_named(folder: Path, text: str, message: str) -> None:
    path = entry_path(folder, "train", 0)
    path.write_text(text)
    with pytest.raises(InputError, match=f"train-000000.json: {message}"):
        merge_index(folder)


def test_a_split_of_two_sample_rates_is_refused(folder: Path) -> None:
    other = dataclasses.replace(example("train-9"), sample_rate_hz=8000)
    write_shard(folder, "train", 2, [other], sample_rate_hz=8000)
    merge_index(folder)
    with pytest.raises(InputError, match=r"mixes sample rates \[8000, 16000\]"):
        read_index(folder, "train")


def test_index_holds_no_time_and_no_absolute_path(folder: Path) -> None:
    text = (folder / "index.json").read_text()
    assert str(folder) not in text
    names = [shard["shard"] for shard in read_json(folder / "index.json")["shards"]]
    assert names == ["train-000000.tar", "train-000001.tar", "valid-000000.tar"]


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({}, True),
        ({"rwsa": "0.1.0"}, True),  # which mixed the same bytes
        ({"cpu": "another"}, True),
        ({"rwsa": "99.0"}, False),
        ({"numpy": "1.0"}, False),
    ],
)
def test_shards_of_versions_that_mix_the_same_bytes_are_reused(changes: dict[str, str], alike: bool) -> None:
    current = {**made_with(), "rwsa": "0.2.0"} if not changes else made_with()
    assert made_alike({**current, **changes}) == alike
