"""Shards in object stores: the same bytes as in a folder, atomic writes, errors that name the URL."""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from pipelines.evaluation.systems import read_systems
from pipelines.mix_shards import MixSummary, mix_shards
from rwsa.audio import round_to_int16
from rwsa.corpora.cards import read_card
from rwsa.errors import InputError, UnreachableError
from rwsa.files import atomic_write, is_remote, location, read_json, sha256_of, write_json
from rwsa.mixing.recipes import read_recipe
from rwsa.models import build_model, load_model, save_model
from rwsa.shards import DamagedShardError, Example, ShardReader, is_intact, verify, write_shard
from rwsa.shards.index import INDEX_NAME, entry_or_none, merge_index, read_index
from rwsa.shards.sampling import Cursor
from rwsa.training.config import DataConfig
from rwsa.training.data import TrainData
from tests.object_store import SECRET, Store, environment, served
from tests.toy_corpus import checksums, write_corpus

RATE_HZ = 16000


@pytest.fixture(scope="module")
def s3() -> Iterator[Store]:
    with served() as store:
        yield store


@pytest.fixture
def bucket(s3: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bucket of its own on the S3 server, as a location."""
    for name, value in environment(s3.url).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    path = location(f"s3://rwsa-{uuid.uuid4().hex[:8]}")
    path.mkdir()
    yield path / "shards"
    s3.refuse_every = 0
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(params=["s3", "memory"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A folder in a store."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return location(f"memory://{uuid.uuid4().hex}/shards")


def example(number: int) -> Example:
    rng = np.random.default_rng(number)
    clean, noise = rng.normal(scale=0.1, size=(2, 4000 + number))
    return Example(
        example_id=f"train-{number}",
        noisy=round_to_int16(clean + noise),
        clean=round_to_int16(clean),
        sample_rate_hz=RATE_HZ,
        meta={"number": number},
    )


def write_two_shards(folder: Path) -> None:
    write_shard(folder, "train", 0, [example(n) for n in (0, 1, 2)], sample_rate_hz=RATE_HZ)
    write_shard(folder, "train", 1, [example(n) for n in (3, 4)], sample_rate_hz=RATE_HZ)
    merge_index(folder)


def test_a_store_holds_the_same_bytes_as_a_folder(folder: Path, tmp_path: Path) -> None:
    for place in (folder, tmp_path):
        write_two_shards(place)
    assert is_remote(folder)
    names = {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    assert len(names) == 6
    for name in names:
        assert sha256_of(folder / name) == sha256_of(tmp_path / name), name


def test_mixing_into_a_store_gives_the_bytes_of_a_folder_and_resumes(folder: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    card = read_card(tmp_path / "corpus" / "card.yaml")
    recipe = read_recipe(tmp_path / "corpus" / "recipe.yaml")

    def mixed(out: Path) -> MixSummary:
        return mix_shards(card, recipe, out, workers=0, shard_examples=8, report=lambda _: None)

    mixed(tmp_path / "here")
    assert mixed(folder).reused == 0
    assert checksums(folder) == checksums(tmp_path / "here")
    (folder / "train-000001.json").unlink()
    assert mixed(folder).reused == 3
    assert checksums(folder) == checksums(tmp_path / "here")


def test_weights_are_read_from_a_store(tmp_path: Path) -> None:
    folder = location(f"memory://{uuid.uuid4().hex}/runs/first")
    model = build_model("nano").eval()
    save_model(folder / "model.safetensors", model)
    (system,), networks = read_systems([folder / "model.safetensors"], [])
    assert system.name == "enhanced"
    assert torch.equal(next(networks["enhanced"].parameters()), next(model.parameters()))
    with pytest.raises(InputError, match=r"memory://.*/other\.safetensors: no such file"):
        read_systems([f"x={folder}/other.safetensors"], [])
    with pytest.raises(InputError, match=r"memory://.*/other: no such file"):
        load_model(folder / "other")


def test_each_example_is_one_read(folder: Path, s3: Store) -> None:
    write_two_shards(folder)
    index = read_index(folder, "train")
    with ShardReader(index) as reader:
        for shard in (0, 1):  # whose entries are one read each
            reader.read(shard, 0)
        before = s3.requests
        for number in (4, 1, 3):
            read = reader.read(*divmod(number, 3))
            np.testing.assert_array_equal(read.noisy, example(number).noisy)
            np.testing.assert_array_equal(read.clean, example(number).clean)
            assert read.meta == {"number": number, "id": f"train-{number}"}
        assert s3.requests - before == (3 if folder.protocol == "s3" else 0)  # type: ignore[attr-defined]
    assert all(is_intact(folder, entry) for entry in index.entries)
    assert verify(index) == []


def test_a_failing_rewrite_leaves_the_old_shard_and_nothing_else(folder: Path) -> None:
    write_two_shards(folder)
    before = {path.name: sha256_of(path) for path in folder.iterdir()}

    def broken() -> Iterator[Example]:
        yield example(9)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_shard(folder, "train", 0, broken(), sample_rate_hz=RATE_HZ)
    assert {path.name: sha256_of(path) for path in folder.iterdir()} == before


def test_the_name_appears_only_when_the_block_has_ended(folder: Path) -> None:
    with atomic_write(folder / "a.json") as temporary:
        temporary.write_text("{}")
        assert temporary.suffix == ".json"
        assert not (folder / "a.json").exists()
    assert read_json(folder / "a.json") == {}
    assert not temporary.parent.exists()


def test_damage_is_named_by_url_and_member(folder: Path) -> None:
    write_two_shards(folder)
    index = read_index(folder, "train")
    member = index.entries[0].examples[1].clean
    data = bytearray((folder / "train-000000.tar").read_bytes())
    data[member.offset + member.length // 2] ^= 0xFF
    (folder / "train-000000.tar").write_bytes(bytes(data))
    (folder / "train-000001.tar").unlink()
    with ShardReader(index) as reader:
        reader.read(0, 0)
        with pytest.raises(
            DamagedShardError, match=r"//.+train-000000\.tar: member train-1\.clean\.flac: its"
        ):
            reader.read(0, 1)
        with pytest.raises(DamagedShardError, match=r"//.+train-000001\.tar: member train-3\.json:"):
            reader.read(1, 0)
    assert len(verify(index)) == 2


def test_missing_files_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"//.+index\.json: no such index"):
        read_index(folder, "train")
    with pytest.raises(InputError, match=r"//.+shards: holds no shards"):
        merge_index(folder)
    with pytest.raises(InputError, match=r"//.+a\.json: no such file"):
        read_json(folder / "a.json")


def test_a_run_gets_the_same_segments_from_a_store(bucket: Path, tmp_path: Path) -> None:
    seen = []
    for place in (bucket, tmp_path):
        write_two_shards(place)
        data = TrainData(DataConfig(shards=str(place)), seed=1, segment_samples=3000)
        segments = data.segments(Cursor(), global_batch_size=4, rank=0, world_size=1)
        seen.append([(batch.ids, batch.noisy.numpy().tobytes()) for batch in itertools.islice(segments, 5)])
        segments.close()
    assert seen[0] == seen[1]


def test_every_tenth_request_refused_is_survived(bucket: Path, s3: Store) -> None:
    s3.refuse_every, before = 10, s3.refused
    write_two_shards(bucket)
    index = read_index(bucket, "train")
    with ShardReader(index) as reader, ThreadPoolExecutor(4) as pool:
        places = [divmod(number % 5, 3) for number in range(40)]
        read = list(pool.map(lambda place: reader.read(*place).example_id, places))
    assert read == [f"train-{number % 5}" for number in range(40)]
    assert s3.refused - before >= 4


def test_a_store_that_always_refuses_is_named_after_the_retries(
    bucket: Path, s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    s3.refuse_every = 1
    away = location(str(bucket))
    with pytest.raises(InputError, match=rf"^{away}/a\.json: the store refused or is unreachable \(.*reduce"):
        write_json(away / "a.json", {})
    with pytest.raises(InputError, match=rf"^{away}/{INDEX_NAME}: the store refused or is unreachable"):
        read_index(away, "train")
    with pytest.raises(UnreachableError):  # not taken for an entry that is missing or damaged
        entry_or_none(away / "train-000000.json")


def test_an_unreachable_store_is_named_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in environment(f"http://127.0.0.1:{port}").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(
        InputError, match=r"s3://away/shards/a\.json: the store refused or is unreachable"
    ) as caught:
        write_json(location("s3://away/shards") / "a.json", {})
    assert SECRET not in str(caught.value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_bucket_that_is_missing_is_named(bucket: Path) -> None:
    with pytest.raises(
        InputError, match=r"s3://no-such-bucket/a\.json: cannot be written .*create the bucket"
    ):
        write_json(location("s3://no-such-bucket") / "a.json", {})


def _read_in_child(reader: ShardReader, answer: multiprocessing.SimpleQueue) -> None:  # type: ignore[type-arg]
    answer.put(reader.read(1, 1).example_id)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("remote", [True, False])
def test_a_reader_in_use_may_be_inherited_by_a_fork(bucket: Path, tmp_path: Path, remote: bool) -> None:
    folder = bucket if remote else tmp_path
    write_two_shards(folder)
    context = multiprocessing.get_context("fork")
    with ShardReader(read_index(folder, "train")) as reader:
        reader.read(1, 0)
        answer = context.SimpleQueue()
        child = context.Process(target=_read_in_child, args=(reader, answer))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert answer.get() == "train-4"
        assert reader.read(1, 1).example_id == "train-4"


def test_locations() -> None:
    assert location("a/b") == Path("a/b")
    assert location("file:///a/b") == Path("/a/b")
    assert str(location("s3://bucket/a") / "b") == "s3://bucket/a/b"


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match=r"^s3://…: contains a password; remove it") as caught:
        location(f"s3://person:{SECRET}@bucket/shards")
    assert SECRET not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError("Install the driver")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(
        InputError, match=r"^gs://b/a: this installation has no driver for gs://; pip install"
    ):
        location("gs://b/a")
    with pytest.raises(InputError, match="Install the driver"):
        location("abfs://b/a")


def test_an_unknown_url_scheme_is_named() -> None:
    for url in ("nfs9://b/a", "http://host/a", "ssh://host/a", "reference://a"):
        with pytest.raises(
            InputError, match=rf"^{url}: \w+:// is not supported; use a folder, s3:// or gs://"
        ):
            location(url)
