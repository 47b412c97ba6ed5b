"""Damaged and hostile files: every reader reads them, or says in a few lines why not.

No traceback, no hang, no command, no connection, and no file outside the named folders. `--inputs` sets how
many inputs each test tries: the same ones in every run, or new ones if there are more than `SAME_UP_TO`.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import socket
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipelines.core.runtime_env import CHECKOUT
from pipelines.mixing.plan_table import PlanTable, plan_path, write_plan
from pipelines.training.config import TrainRunConfig
from rwsa.audio import read_audio, read_blocks, read_info
from rwsa.audio_facts import audio_facts
from rwsa.config import as_mapping, build, read_config
from rwsa.corpora.cards import read_card
from rwsa.corpora.scanning import scan
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.mixing.plans import plan_split
from rwsa.mixing.recipes import read_recipe
from rwsa.models.build import build_model
from rwsa.models.config import ModelConfig
from rwsa.models.weights import load_model, save_model
from rwsa.shards import ShardReader, as_webdataset, verify
from rwsa.shards.examples import ExampleEntry, Examples, Member
from rwsa.shards.index import INDEX_NAME, entry_path, merge_index, read_entry, read_index, write_entry
from rwsa.shards.table import TABLE_NAME
from rwsa.training.checkpoints import STATE_FILE, Checkpoints, local_folder
from rwsa.training.state import TrainState
from tests.clips import manifest, recipe
from tests.fuzz.damage import HOSTILE, damaged_bytes, damaged_json, damaged_yaml
from tests.fuzz.guard import GreedError, check_reader
from tests.toy_corpus import CARD, RECIPE, write_corpus
from tests.training_runs import TINY, config_of
from tests.unit.shards.test_shards import write_two_shards
from tune.sweep_config import read_sweep

# Up to here the inputs are the same in every run.
SAME_UP_TO = 2000

Check = Callable[..., bool]
TINY_MODEL = build(ModelConfig, TINY, where="tiny")


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """`check_reader` in the test's folder."""
    return lambda read, **options: check_reader(read, tmp_path, capsys, **options)


@pytest.fixture
def inputs(request: pytest.FixtureRequest) -> Callable[[Any, Callable[[Any], None]], None]:
    """Run a check on `--inputs` inputs of a strategy."""
    number = request.config.option.inputs

    def run(strategy: st.SearchStrategy[Any], try_one: Callable[[Any], None]) -> None:
        @settings(
            max_examples=number,
            derandomize=number <= SAME_UP_TO,
            database=None,
            deadline=None,
            # Inputs are small changes of valid files already, and a hang is slow to shrink.
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(value: Any) -> None:
            try_one(value)

        each()

    return run


def test_the_guard_notices(check: Check, tmp_path: Path) -> None:
    def bomb() -> None:
        raise InputError("x" * 10_000)

    for read, error in (
        (lambda: subprocess.run(["true"], check=True), AssertionError),
        (lambda: Path("/etc/passwd").read_text(), AssertionError),
        (lambda: (tmp_path.parent / "elsewhere").write_text(""), AssertionError),
        (lambda: socket.create_connection(("127.0.0.1", 9), 0.1), (AssertionError, OSError)),
        (lambda: bytearray(8 << 30), GreedError),
        (lambda: {}["x"], KeyError),
    ):
        with pytest.raises(error):
            check(read)
    assert check(lambda: (tmp_path / "here").write_text("")) is True


def test_cards(check: Check, inputs: Any, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    card = tmp_path / "card.yaml"

    def try_one(data: bytes) -> None:
        card.write_bytes(data)
        check(lambda: scan(read_card(card)), reads_elsewhere=True, own_processes=True)

    inputs(damaged_yaml(yaml.safe_load(CARD.format(root=tmp_path))), try_one)


def test_recipes(check: Check, inputs: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    tree = yaml.safe_load(RECIPE) | {
        "noise": {"kinds": {"recording": 1, "babble": 1}, "min_talkers": 3, "max_talkers": 4},
        "speech_transforms": [{"name": "gain", "share": 0.5}],
        "room_share": 0.3,
        "target": "early",
    }

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        check(lambda: plan_split(manifest(), read_recipe(path), "train"))

    inputs(damaged_yaml(tree), try_one)


def test_training_configurations(check: Check, inputs: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    tree = as_mapping(config_of(tmp_path))

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        check(lambda: read_config(TrainRunConfig, [path]))

    inputs(damaged_yaml(tree), try_one)


def test_sweeps(check: Check, inputs: Any, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    tree = yaml.safe_load((CHECKOUT / "tune" / "ablations" / "loss.yaml").read_text())

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        check(lambda: (read_sweep(path), read_sweep(path, smoke=True)))

    inputs(damaged_yaml(tree), try_one)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_names_of_shards_for_webdataset(check: Check, tmp_path: Path) -> None:
    """It opens whatever an index names, commands included, and raises what it likes on a damaged tar."""
    write_two_shards(tmp_path)
    path = tmp_path / INDEX_NAME
    first, *lines, last = path.read_text().splitlines(keepends=True)
    values = json.loads(lines[0].removesuffix(",\n"))

    def read() -> None:
        index = read_index(tmp_path, "train")
        try:
            list(as_webdataset(index))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: webdataset: {type(error).__name__}") from error

    for name in HOSTILE:
        entry = json.dumps(values | {"shard": name})
        path.write_text("".join([first, entry + ",\n", *lines[1:], last]))
        assert not check(read), name
    gc.collect()


def test_shard_indexes(check: Check, inputs: Any, tmp_path: Path) -> None:
    write_two_shards(tmp_path)
    path = tmp_path / INDEX_NAME
    first, *lines, last = path.read_text().splitlines(keepends=True)

    def try_one(entry: bytes) -> None:
        path.write_bytes(first.encode() + entry + b",\n" + "".join(lines[1:]).encode() + last.encode())
        check(lambda: read_all(tmp_path))

    inputs(damaged_json(lines[0].removesuffix(",\n")), try_one)


def read_all(folder: Path) -> None:
    """Read every example of every shard."""
    index = read_index(folder, "train")
    with ShardReader(index) as reader:
        for shard, size in enumerate(index.shard_sizes):
            for number in range(min(size, 8)):
                reader.read(shard, number)
    verify(index)


def test_tables_of_indexes(check: Check, inputs: Any, tmp_path: Path) -> None:
    write_two_shards(tmp_path)
    path = tmp_path / TABLE_NAME
    data = path.read_bytes()
    head, rows = data[: data.index(b"\n")], data[data.index(b"\n") + 1 :]

    def agreeing(damaged: bytes) -> bytes:
        """With the checksum that an attacker writes."""
        return head.rpartition(b" ")[0] + f" {zlib.crc32(damaged):08x}\n".encode() + damaged

    def try_one(damaged: bytes) -> None:
        path.write_bytes(damaged)
        check(lambda: read_all(tmp_path))

    whole = damaged_bytes(data, header=len(data))
    inputs(whole | damaged_bytes(rows, header=len(rows)).map(agreeing), try_one)


def test_shard_entries(check: Check, inputs: Any, tmp_path: Path) -> None:
    write_two_shards(tmp_path)
    path = entry_path(tmp_path, "train", 0)
    text = path.read_text()

    def try_one(data: bytes) -> None:
        path.write_bytes(data)
        if check(lambda: (read_entry(path), merge_index(tmp_path))):
            check(lambda: read_all(tmp_path))

    inputs(damaged_json(text), try_one)


def test_shards(check: Check, inputs: Any, tmp_path: Path) -> None:
    write_two_shards(tmp_path)
    path = tmp_path / "train-000000.tar"
    data = path.read_bytes()

    def try_one(damaged: bytes) -> None:
        path.write_bytes(damaged)
        check(lambda: read_all(tmp_path))

    inputs(damaged_bytes(data, header=len(data)), try_one)


def test_shards_whose_index_agrees(check: Check, inputs: Any, tmp_path: Path) -> None:
    """An attacker writes checksums that fit; what a member contains must not matter."""
    write_two_shards(tmp_path)
    members = {}
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        for name in ("train-0.clean.flac", "train-0.json", "train-0.noisy.flac"):
            members[name] = cast(Any, tar.extractfile(name)).read()
    clean, meta, noisy = members.values()

    def try_one(damaged: tuple[bytes, bytes, bytes]) -> None:
        write_hostile_shard(tmp_path, damaged)
        check(lambda: read_all(tmp_path))

    inputs(st.tuples(damaged_bytes(clean), damaged_json(meta.decode()), damaged_bytes(noisy)), try_one)


def write_hostile_shard(folder: Path, contents: tuple[bytes, bytes, bytes]) -> None:
    path, offset, members = folder / "train-000000.tar", 0, []
    with tarfile.open(path, "w") as tar:
        for name, data in zip(("clean.flac", "json", "noisy.flac"), contents, strict=True):
            info = tarfile.TarInfo(f"train-0.{name}")
            info.size = len(data)
            members.append(Member(tar.offset + tarfile.BLOCKSIZE, len(data), zlib.crc32(data)))
            tar.addfile(info, io.BytesIO(data))
            offset = tar.offset
    clean, meta, noisy = members
    examples = Examples(
        [ExampleEntry(example_id="train-0", samples=800, clean=clean, json=meta, noisy=noisy)]
    )
    assert offset
    old = read_entry(entry_path(folder, "train", 1))
    changes = {
        "shard": path.name,
        "number": 0,
        "bytes": path.stat().st_size,
        "examples": examples,
        "seconds": 0.05,
    }
    write_entry(folder, dataclasses.replace(old, sha256=sha256_of(path), **changes))
    merge_index(folder)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "w64"])
def test_audio(check: Check, inputs: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=3000), 16_000)
    data = path.read_bytes()

    def read() -> None:
        read_info(path)
        wav, rate = read_audio(path)
        assert rate > 0
        assert wav.size
        for _ in read_blocks(path):
            pass
        audio_facts(path, channel=0)

    def try_one(damaged: bytes) -> None:
        path.write_bytes(damaged)
        check(read)

    inputs(damaged_bytes(data, header=64), try_one)


def test_weights(check: Check, inputs: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_model(path, build_model(TINY_MODEL))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")

    def try_one(damaged: bytes) -> None:
        path.write_bytes(damaged)
        check(lambda: load_model(path))

    def with_header(header: bytes) -> bytes:
        return len(header).to_bytes(8, "little") + header + data[8 + size :]

    headers = damaged_json(data[8 : 8 + size].decode()).map(with_header)
    inputs(headers | damaged_bytes(data, header=size), try_one)


def test_published_weights(check: Check, inputs: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"generator": {"x.weight": torch.zeros(3, 4), "y": torch.ones(2)}}, path)
    data = path.read_bytes()

    def try_one(damaged: bytes) -> None:
        path.write_bytes(damaged)
        check(lambda: load_model(path))

    inputs(damaged_bytes(data, header=len(data)), try_one)


def test_checkpoints(check: Check, inputs: Any, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-000004"
    folder.mkdir(parents=True)
    state = TrainState(config_of(tmp_path), torch.device("cpu"))
    state.save(folder, order_identity="order")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    text = files.pop(STATE_FILE).decode()

    def try_one(damaged: tuple[bytes, str, bytes]) -> None:
        described, name, content = damaged
        (folder / STATE_FILE).write_bytes(described)
        for other, data in files.items():
            (folder / other).write_bytes(content if other == name else data)

        def read() -> None:
            found = Checkpoints(folder.parent)
            found.best()
            newest = found.latest()
            assert newest is not None
            with local_folder(newest) as copy:
                state.load(copy, order_identity="order")

        check(read)

    def agreeing(name: str, content: bytes) -> tuple[bytes, str, bytes]:
        values = json.loads(text)
        values["files"][name] = hashlib.sha256(content).hexdigest()
        return json.dumps(values).encode(), name, content

    described = damaged_json(text).map(lambda data: (data, "", b""))
    damaged = [
        damaged_bytes(data, header=int.from_bytes(data[:8], "little")).map(
            lambda content, name=name: agreeing(name, content)
        )
        for name, data in files.items()
    ]
    inputs(described | st.one_of(damaged), try_one)


def test_plans(check: Check, inputs: Any, tmp_path: Path) -> None:
    mix = recipe()
    write_plan(
        tmp_path, "train", plan_split(manifest(), mix, "train"), corpus="toy", recipe=mix, shard_examples=8
    )
    path = plan_path(tmp_path, "train")
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8

    def try_one(damaged: bytes) -> None:
        path.write_bytes(damaged)
        check(lambda: (list(PlanTable(path)), PlanTable(path).shard(1)))

    in_footer = damaged_bytes(data[-footer:], header=footer).map(lambda end: data[:-footer] + end)
    inputs(in_footer | damaged_bytes(data, header=len(data)), try_one)
