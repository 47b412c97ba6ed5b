"""A plan table that somebody else wrote: one line, and no recording outside the card's folders is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.mixing.plan_schema import SCHEMA
from pipelines.mixing.plan_table import PlanTable, plan_path, write_plan
from pipelines.mixing.shard_jobs import ShardJobs
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.mixing.plans import plan_split
from rwsa.mixing.transforms import Transform
from tests.clips import clip, every_choice
from tests.clips import recipe as clip_recipe

_KEY = b"rwsa.plan"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    kinds = ("speech", "noise", "room")
    manifest = Manifest(card="toy", clips=tuple(clip(n, kind) for kind in kinds for n in range(9)))
    recipe = clip_recipe(
        **every_choice(min_talkers=1, max_talkers=2),
        mixture_transforms=(Transform(name="Clip", parameters={"a_min": -0.5, "a_max": 0.5}),),
        min_level_dbfs=-30.0,
        max_level_dbfs=-20.0,
    )
    rows = plan_split(manifest, recipe, "train")
    write_plan(tmp_path, "train", rows, corpus="toy", recipe=recipe, shard_examples=4)
    return plan_path(tmp_path, "train")


def rewrite(
    path: Path,
    change: Callable[[dict[str, Any]], None] = lambda row: None,
    about: Callable[[dict[str, Any]], None] = lambda info: None,
    schema: pa.Schema = SCHEMA,
) -> None:
    """Change the first row, and the information in the footer."""
    table = pq.read_table(path)
    rows, info = table.to_pylist(), json.loads(pq.read_metadata(path).metadata[_KEY])
    change(rows[0])
    about(info)
    with pq.ParquetWriter(path, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        writer.add_key_value_metadata({_KEY: json.dumps(info).encode()})


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        PlanTable(path).shard(0, roots=["/nowhere"])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    return str(refused.value)


def test_an_unchanged_table_is_read(path: Path) -> None:
    rewrite(path)
    assert len(PlanTable(path).shard(0, roots=["/nowhere"])) == 4


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "nowhere/speech-0.wav", "/nowhere/../etc/passwd", "../x.wav", "/nowhereelse/a.wav", "",
     "/nowhere", "/nowhere/a\0.wav", "file:///etc/passwd", "file:///nowhere/..%2fx.wav", None],
)  # fmt: skip
@pytest.mark.parametrize("role", ["speech", "more_speech", "noise", "room"])
def test_no_recording_outside_the_cards_folders_is_read(path: Path, name: str | None, role: str) -> None:
    def change(row: dict[str, Any]) -> None:
        source = {**row["speech"], "path": name}
        if role == "more_speech":
            row["more_speech"] = [source]
        elif role == "noise":
            row["noises"][0].update(kind="recording", layers=[{"gain_db": 0.0, "parts": [source]}])
        else:
            row[role] = source

    rewrite(path, change)
    assert "row group 0" in refusal(path)
    jobs = ShardJobs(
        folder=str(path.parent), run=str(path), splits=(("train", 5),), strict=True, roots=("/nowhere",)
    )
    assert "row group 0" in str(jobs.make(0).error)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_recording_whose_name_is_not_utf8_is_below_its_folder(path: Path) -> None:
    rewrite(path, lambda row: row["speech"].update(path="file:///nowhere/caf%E9.wav"))
    assert PlanTable(path).shard(0, roots=["/nowhere"])[0].speech.path == "file:///nowhere/caf%E9.wav"


ROW = {
    "plan_row": [1, -1, None],
    "example_id": ["../../x", "toy-train-0000001", "", None, "a\nb"],
    "recipe": ["other", None],
    "split": ["valid", None],
    "sample_rate_hz": [0, -1, 2**62, None],
    "mix_rate_hz": [0, 2**40, None],
    "samples": [0, -5, 2**62, None],
    "speech": [None],
    "noises": [None],
    "target": ["wet", None],
    "snr_measure": ["", None],
    "peak": ["x", None],
    "snr_db": [float("nan"), float("inf"), 1e300, None],
    "early_ms": [float("inf"), None],
    "max_peak": [float("nan"), None],
    "level_dbfs": [float("nan"), 40.0],
    "mixture_transforms": [None, [{"name": "AddBackgroundNoise", "p": 1.0, "parameters": '{"a": "/etc"}'}]],
    "speech_transforms": [[{"name": None, "p": 1.0, "parameters": "["}], [{"name": "x", "p": 1.0}]],
    "transform_seed": [-1, None],
}
SOURCE = {
    "sample_rate_hz": [0, -1, 2**40, None],
    "clip_samples": [0, -1, 2**62, None],
    "offset": [-1, 2**62, 3 * 16000, None],
    "samples": [0, -1, 2**62, None],
    "channel": [-1, 2**40],
    "clip_id": [None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in ROW for value in ROW[name]])
def test_a_row_with_an_invalid_value_is_refused(path: Path, name: str, value: Any) -> None:
    rewrite(path, lambda row: row.update({name: value}))
    assert "row group 0 is unreadable" in refusal(path)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in SOURCE for value in SOURCE[name]])
def test_a_source_with_an_invalid_value_is_refused(path: Path, name: str, value: Any) -> None:
    rewrite(path, lambda row: row["speech"].update({name: value}))
    assert "row group 0 is unreadable" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 10**12}, {"rows": -1}, {"rows": 19}, {"rows": "20"}, {"rows": None}, {"shard_examples": 0},
        {"shard_examples": 10**18}, {"recipe": None}, {"recipe": []}, {"recipe": {"sample_rate_hz": 0}},
        {"seconds": float("nan")}, {"seconds": "x"}, {"split": "valid"}, {"corpus": 5}, {"recipe_hash": None},
        {"schema_version": [1]}, {"schema_version": 2}, {"another": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_footer_with_invalid_values_is_refused(path: Path, change: dict[str, Any]) -> None:
    rewrite(path, about=lambda info: info.update(change))
    assert "train.plan.parquet" in refusal(path)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"5", b"null", b"[" * 100_000, b"\xff", b'{"schema_version": 1}']
)
def test_a_footer_that_is_no_mapping_is_refused(path: Path, text: bytes) -> None:
    table = pq.read_table(path)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_KEY: text})
    assert "not a plan table" in refusal(path)


def test_columns_of_other_types_are_refused(path: Path) -> None:
    at = SCHEMA.get_field_index("samples")
    rewrite(path, lambda row: None, schema=SCHEMA.set(at, pa.field("samples", pa.float64())))
    assert "other columns or types" in refusal(path)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(at=st.floats(0, 1, exclude_max=True), data=st.binary(min_size=1, max_size=30))
def test_no_damage_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, at: float, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    rows = plan_split(Manifest(card="toy", clips=(clip(0), clip(0, "noise"))), clip_recipe(), "train")
    write_plan(folder, "train", rows, corpus="toy", recipe=clip_recipe(), shard_examples=4)
    file = plan_path(folder, "train")
    intact = file.read_bytes()
    start = int(at * len(intact))
    file.write_bytes(intact[:start] + data + intact[start + len(data) :])
    with suppress(InputError):
        assert all(plan.speech.path.startswith("/") for plan in PlanTable(file))
