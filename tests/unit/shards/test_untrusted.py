"""Indexes, tables, tars and examples that the writer did not make: one error, nothing run or opened."""

from __future__ import annotations

import copy
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwsa.errors import InputError
from rwsa.files import read_json, sha256_of
from rwsa.shards import DamagedShardError, Example, ShardReader, as_webdataset, verify, write_shard
from rwsa.shards.examples import Examples
from rwsa.shards.index import entry_or_none, entry_path, index_sha256, index_splits, merge_index, read_index
from rwsa.shards.metadata import METADATA_BYTES, read_metadata

RATE_HZ = 16000


def example(name: str, **meta: Any) -> Example:
    wav = (np.random.default_rng(len(name)).integers(-(1 << 12), 1 << 12, 800) / 32768).astype(np.float32)
    return Example(example_id=name, noisy=wav, clean=wav, sample_rate_hz=RATE_HZ, meta=meta)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = tmp_path / "shards"
    write_shard(shards, "train", 0, [example("a", speaker="s"), example("bb")], sample_rate_hz=RATE_HZ)
    write_shard(shards, "train", 1, [example("ccc")], sample_rate_hz=RATE_HZ)
    merge_index(shards)
    return shards


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first entry of the index, which then has no table."""
    index = folder / "index.json"
    entries = copy.deepcopy(read_json(index)["shards"])
    change(entries[0])
    lines = ",\n".join(json.dumps(entry, sort_keys=True) for entry in entries)
    index.write_text(f'{{"schema_version": 2, "shards": [\n{lines}\n]}}\n')
    (folder / "index.table").unlink(missing_ok=True)


def read_all(folder: Path) -> list[str]:
    names = []
    with ShardReader(read_index(folder, "train")) as reader:
        for shard, entry in enumerate(reader.index.entries):
            names += [reader.read(shard, at).example_id for at in range(len(entry.examples))]
    return names


def row(at: int, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entry: entry["examples"][0].__setitem__(at, value)


def key(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entry: entry.__setitem__(name, value)


IMPOSSIBLE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a name of text": key("shard", 7),
    "a folder above": key("shard", "../train-000000.tar"),
    "an absolute name": key("shard", "/etc/passwd"),
    "a url": key("shard", "https://example.org/train-000000.tar"),
    "another shard": key("shard", "train-000001.tar"),
    "a split with a folder": key("split", "../train"),
    "a number of text": key("number", "0"),
    "a negative number": key("number", -1),
    "a huge number": key("number", 10**400),
    "a fraction of a byte": key("bytes", 1e300),
    "a negative size": key("bytes", -1),
    "a tar too small": key("bytes", 512),
    "no rate": key("sample_rate_hz", 0),
    "a list of rates": key("sample_rate_hz", [16000]),
    "seconds that are NaN": key("seconds", float("nan")),
    "other seconds": key("seconds", 1e6),
    "a checksum": key("sha256", "x" * 64),
    "a hash with escapes": key("plan_hash", "\x1b[2J"),
    "a version of numbers": key("made_with", {"numpy": 1}),
    "no examples": key("examples", None),
    "examples as text": key("examples", "abc"),
    "a row of text": key("examples", ["abcdefghijk"]),
    "an unknown key": key("extra", 1),
    "a missing key": lambda entry: entry.__delitem__("seconds"),
    "failures in one slot": key("failures", [{"example_id": "x", "reason": "r", "slot": 0}] * 2),
    "a failure beyond": key("failures", [{"example_id": "x", "reason": "r", "slot": 9}]),
    "an id with a folder": row(0, "../a"),
    "an id of numbers": row(0, 5),
    "an id twice": row(0, "bb"),
    "a fraction of a sample": row(1, 800.5),
    "samples as text": row(1, "800"),
    "samples as a long text": row(1, "8" * 10_000),
    "samples as a truth": row(1, True),
    "no samples": row(1, 0),
    "too many samples": row(1, (1 << 32) - 1),
    "an offset beyond": row(2, 1 << 62),
    "an offset beyond 64 bits": row(2, 1 << 70),
    "a negative offset": row(2, -1),
    "a length beyond": row(3, (1 << 32) - 1),
    "members on each other": lambda entry: entry["examples"][0].__setitem__(2, entry["examples"][0][5]),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_an_impossible_entry_is_one_error_with_a_remedy(folder: Path, what: str) -> None:
    rewrite(folder, IMPOSSIBLE[what])
    with pytest.raises(
        InputError, match=r"index\.json: not a shard entry .*; delete it and mix again$"
    ) as error:
        read_all(folder)
    assert len(str(error.value)) < 600
    entry = entry_path(folder, "train", 0)
    entry.write_text(json.dumps(read_json(folder / "index.json")["shards"][0]))
    assert entry_or_none(entry) is None  # so that mixing makes the shard again


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema_version": 2}', "null", '{"a": 1' + "0" * 5000 + "}", ""]
)
def test_an_impossible_line_is_one_error(folder: Path, text: str) -> None:
    (folder / "index.json").write_text('{"schema_version": 2, "shards": [\n' + text + "\n]}\n")
    with pytest.raises(InputError, match=r"index\.json: .*mix again$"):
        read_index(folder, "train")


def test_a_name_from_the_index_never_runs_a_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    rewrite(Path(), key("shard", "pipe:touch ran"))
    with pytest.raises(InputError, match=r"is not train-000000\.tar"):
        list(as_webdataset(read_index(Path(), "train"), empty_check=False))
    assert not (folder / "ran").exists()


def test_webdataset_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's name is special to webdataset; a shard that is a gzip bomb is not unpacked."""
    shards = tmp_path / "pipe:touch {ran,ran2}::x"
    write_shard(shards, "train", 0, [example("a")], sample_rate_hz=RATE_HZ)
    merge_index(shards)
    monkeypatch.setattr(
        "webdataset.cache.gopen.gopen", lambda *_, **__: pytest.fail("webdataset opened a file")
    )
    monkeypatch.chdir(tmp_path)
    samples = list(as_webdataset(read_index(Path(shards.name), "train"), empty_check=False))
    assert [sample["__key__"] for sample in samples] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == [shards.name]
    bomb = zlib.compressobj(wbits=31)
    (shards / "train-000000.tar").write_bytes(bomb.compress(bytes(1 << 24)) + bomb.flush())
    with pytest.raises(DamagedShardError, match=r"train-000000\.tar: member a\.json"):
        list(as_webdataset(read_index(shards, "train"), empty_check=False))
    with pytest.raises(InputError, match="cache_dir has no effect"):
        as_webdataset(read_index(shards, "train"), cache_dir=str(tmp_path))


def test_an_entry_of_another_shard_is_not_merged(folder: Path) -> None:
    entry_path(folder, "train", 1).write_bytes(entry_path(folder, "train", 0).read_bytes())
    with pytest.raises(InputError, match=r"train-000001\.json: describes train-000000\.tar, another shard"):
        merge_index(folder)


def test_a_shard_twice_in_the_index_is_refused(folder: Path) -> None:
    rewrite(folder, lambda entry: entry.update(read_json(entry_path(folder, "train", 1))))
    with pytest.raises(InputError, match="lists a shard of split 'train' twice"):
        read_index(folder, "train")


def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    shard = folder / "train-000000.tar"
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(DamagedShardError, match="is not a regular file"):
        read_all(folder)
    (folder / "index.table").unlink()
    (folder / "index.json").unlink()
    os.mkfifo(folder / "index.json")
    with pytest.raises(InputError, match="is not a regular file"):
        read_index(folder, "train")


def repacked(folder: Path, replace: dict[str, bytes]) -> None:
    """A shard with other members and an entry that fits them, as an attacker writes it."""
    tar = folder / "train-000000.tar"
    with tarfile.open(tar) as old:
        members = [(info.name, old.extractfile(info).read()) for info in old]  # type: ignore[union-attr]
    buffer, places = io.BytesIO(), {}
    with tarfile.open(fileobj=buffer, mode="w") as new:
        for name, data in ((name, replace.get(name, data)) for name, data in members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
            places[name] = [new.offset - -(-len(data) // 512) * 512, len(data), zlib.crc32(data)]
    tar.write_bytes(buffer.getvalue())

    def fit(entry: dict[str, Any]) -> None:
        entry.update(bytes=tar.stat().st_size, sha256=sha256_of(tar))
        for example in entry["examples"]:
            example[2:] = [
                number
                for suffix in ("noisy.flac", "clean.flac", "json")
                for number in places[f"{example[0]}.{suffix}"]
            ]

    rewrite(folder, fit)


def flac(samples: int, *, channels: int = 1, rate_hz: int = RATE_HZ, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((samples, channels), np.int16), rate_hz, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def claiming(samples: int) -> bytes:
    """A FLAC file of 800 samples whose header claims another number."""
    data = bytearray(flac(800))
    data[21] = data[21] & 0xF0 | samples >> 32
    data[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.noisy.flac", claiming((1 << 36) - 1), "is not the signal in the index"),
        ("a.noisy.flac", flac(80_000), "is not the signal in the index .FLAC, 1 channels, 80000 samples"),
        ("a.clean.flac", flac(800, channels=2), "2 channels"),
        ("a.clean.flac", flac(800, rate_hz=8000), "at 8000 Hz"),
        ("a.clean.flac", flac(800, kind="WAV"), "WAV"),
        ("a.clean.flac", b"", "Format not recognised"),
        ("a.json", b"[" * 100_000, "is not readable JSON"),
        ("a.json", b'{"x":' * 40 + b"1" + b"}" * 40, "nested more than 32 deep"),
        ("a.json", b"[]", "is not a JSON object"),
        ("a.json", b'{"id": "../bb"}', "describes another example"),
        ("a.json", b'{"speaker": ["s"]}', "speaker is not text"),
        ("a.json", b'{"snr_db": "loud"}', "snr_db is not a number"),
        ("a.json", b'{"snr_db": 1' + b"0" * 400 + b"}", "snr_db is out of range"),
        ("a.json", b'{"noises": [1]}', "noises is not a list of objects"),
    ],
)
def test_a_member_is_checked_before_it_is_decoded(folder: Path, name: str, data: bytes, message: str) -> None:
    repacked(folder, {name: data})
    with pytest.raises(
        DamagedShardError, match=rf"train-000000\.tar: member {name}: .*{message}.*mix again$"
    ):
        read_all(folder)
    if name.endswith("json"):
        with (
            pytest.raises(DamagedShardError, match=message),
            ShardReader(read_index(folder, "train")) as reader,
        ):
            list(reader.metadata(0))


def test_metadata_that_the_writer_would_not_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="example a: its metadata has"):
        write_shard(tmp_path, "train", 0, [example("a", x="y" * METADATA_BYTES)], sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize(
    "header",
    [
        {"type": tarfile.SYMTYPE},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"name": "../../a.json"},
        {"size": 1 << 30},
    ],
)
def test_verify_names_a_tar_header_that_is_not_of_the_index(folder: Path, header: dict[str, Any]) -> None:
    """Our reader never looks at it; other programs do."""
    tar = folder / "train-000000.tar"
    position = read_index(folder, "train").entries[0].examples[0].json.offset
    data = bytearray(tar.read_bytes())
    info = tarfile.TarInfo.frombuf(bytes(data[position - 512 : position]), "ascii", "strict")
    for name, value in header.items():
        setattr(info, name, value)
    data[position - 512 : position] = info.tobuf(tarfile.USTAR_FORMAT)
    tar.write_bytes(data)
    rewrite(folder, key("sha256", sha256_of(tar)))
    assert verify(read_index(folder, "train")) == [f"{tar}: its header of a.json does not match the index"]


def test_a_long_text_among_numbers_takes_no_memory() -> None:
    rows = [[f"a{at}", *[1] * 10] for at in range(1000)]
    rows[7][3] = "8" * 1_000_000  # as wide in an array of NumPy, all take 40 GB
    with pytest.raises(ValueError, match="must have an id and ten non-negative numbers"):
        Examples.of_rows(rows)


class TestTable:
    def test_reading_does_not_depend_on_it(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        with_table, digest = read_index(folder, "train"), index_sha256(folder)
        entries, names = list(with_table.entries), read_all(folder)
        (folder / "index.table").unlink()
        without = read_index(folder, "train")
        assert list(without.entries) == entries == [without.entries[0], without.entries[1]]
        assert read_all(folder) == names
        assert without.entries.samples_sha256() == with_table.entries.samples_sha256()
        assert index_sha256(folder) == digest == sha256_of(folder / "index.json")
        assert not caplog.records

    def test_opening_reads_no_entry(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rwsa.shards.table.parse_line", lambda *_: pytest.fail("an entry was read"))
        index = read_index(folder, "train")
        assert (index.planned_sizes, index.sample_rate_hz) == ((2, 1), RATE_HZ)
        assert index.seconds == pytest.approx(0.15)
        assert [index.locate(number) for number in range(3)] == [(0, 0), (0, 1), (1, 0)]

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_damaged_table_is_not_used(
        self, folder: Path, caplog: pytest.LogCaptureFixture, data: st.DataObject
    ) -> None:
        path = folder / "index.table"
        merge_index(folder)
        good = path.read_bytes()
        at = data.draw(st.integers(0, len(good) - 1))
        kept = data.draw(st.sampled_from([good[:at], good[at + 1 :], good[:at] + b"\xff" + good[at + 1 :]]))
        path.write_bytes(kept)
        assert index_splits(folder) == ["train"]
        assert read_all(folder) == ["a", "bb", "ccc"]

    @pytest.mark.parametrize("rate", ["Infinity", "1e999", "null", '"x"', "[]", "NaN"])
    def test_a_hostile_header_is_not_used(
        self, folder: Path, caplog: pytest.LogCaptureFixture, rate: str
    ) -> None:
        path = folder / "index.table"
        contents = path.read_bytes().partition(b"\n")[2]
        contents = contents.replace(b'"sample_rates_hz": [16000]', b'"sample_rates_hz": [%s]' % rate.encode())
        path.write_bytes(b"rwsa index table 1 crc32 %08x\n" % zlib.crc32(contents) + contents)
        assert read_index(folder, "train").sample_rate_hz == RATE_HZ
        assert "is not the table of index.json" in caplog.text

    def test_of_another_index_is_not_used(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        table = (folder / "index.table").read_bytes()
        write_shard(folder, "train", 2, [example("dddd")], sample_rate_hz=RATE_HZ)
        merge_index(folder)
        (folder / "index.table").write_bytes(table)
        assert read_all(folder) == ["a", "bb", "ccc", "dddd"]
        assert "it belongs to another index" in caplog.text

    def test_of_another_index_of_the_same_size_is_an_error(self, folder: Path) -> None:
        text = (folder / "index.json").read_text()
        (folder / "index.json").write_text(text.replace('"ccc"', '"ddd"'))
        with pytest.raises(
            InputError, match=r"index\.json: has changed, .*; delete index\.table and start again"
        ):
            read_all(folder)

    def test_an_index_appears_after_its_table(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "index.json").unlink()
        (folder / "index.table").unlink()
        monkeypatch.setattr("rwsa.shards.index.table_bytes", lambda table: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge_index(folder)
        assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".tar", ".tar"]


KEYS = st.sampled_from(["id", "snr_db", "noises", "speaker", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_metadata_is_read_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(read_metadata(data, "a"), dict)
