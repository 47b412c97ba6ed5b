"""Plan tables: the very rows come back, the same plan gives the same bytes, damage is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.mix_shards import main, write_plans
from pipelines.mixing import plan_columns
from pipelines.mixing.plan_table import PlanTable, plan_path, write_plan
from rwsa.config import build
from rwsa.corpora import scan
from rwsa.corpora.cards import read_card
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.mixing import render_example
from rwsa.mixing.plans import plan_split
from rwsa.mixing.recipes import Recipe, read_recipe
from rwsa.mixing.transforms import Transform
from rwsa.shards import ShardReader
from rwsa.shards.index import read_index
from tests.toy_corpus import write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def manifest(corpus: Path) -> Manifest:
    return scan(read_card(corpus / "card.yaml"))


@pytest.fixture
def recipe(corpus: Path) -> Recipe:
    recipe = read_recipe(
        corpus / "recipe.yaml", ["examples.train=2500", "min_level_dbfs=-30", "max_level_dbfs=-20"]
    )
    clipping = Transform(name="Clip", p=0.5, parameters={"a_min": -0.5, "a_max": 0.5})
    return dataclasses.replace(recipe, mixture_transforms=(clipping,))


def written(folder: Path, manifest: Manifest, recipe: Recipe, shard_examples: int = 7) -> PlanTable:
    plans = plan_split(manifest, recipe, "train")
    write_plan(folder, "train", plans, corpus="toy", recipe=recipe, shard_examples=shard_examples)
    return PlanTable(plan_path(folder, "train"))


@pytest.mark.parametrize("shard_examples", [7, 2000])
def test_the_very_rows_come_back_in_shards(
    manifest: Manifest, recipe: Recipe, tmp_path: Path, shard_examples: int
) -> None:
    table = written(tmp_path, manifest, recipe, shard_examples)
    plans = plan_split(manifest, recipe, "train")
    assert list(table) == plans[:]
    last = table.info.shards - 1
    assert table.shard(last) == plans[last * shard_examples :]
    assert table.info.rows == 2500
    assert table.info.seconds == pytest.approx(2500 * 0.5)
    assert build(Recipe, table.info.recipe, where="the table") == recipe


def test_the_bytes_follow_from_manifest_and_recipe(
    manifest: Manifest, recipe: Recipe, tmp_path: Path
) -> None:
    infos = [written(tmp_path / name, manifest, recipe).info for name in ("a", "b")]
    assert infos[0] == infos[1]
    assert len({sha256_of(plan_path(tmp_path / name, "train")) for name in ("a", "b")}) == 1
    other = written(tmp_path / "c", manifest, dataclasses.replace(recipe, seed=4)).info
    assert other.plan_hash != infos[0].plan_hash


def test_where_recordings_are_kept_is_not_in_the_hash(
    manifest: Manifest, recipe: Recipe, tmp_path: Path
) -> None:
    moved = [dataclasses.replace(clip, path=f"/elsewhere{clip.path}") for clip in manifest.clips]
    there = written(tmp_path / "there", dataclasses.replace(manifest, clips=tuple(moved)), recipe)
    here = written(tmp_path / "here", manifest, recipe)
    assert there.info == here.info
    assert there.shard(0) != here.shard(0)


def test_any_reader_of_parquet_reads_it(manifest: Manifest, recipe: Recipe, tmp_path: Path) -> None:
    written(tmp_path, manifest, recipe)
    table = pq.read_table(plan_path(tmp_path, "train"))
    plan = plan_split(manifest, recipe, "train")[1234]
    row = table.slice(1234, 1).to_pylist()[0]
    assert (row["example_id"], row["snr_db"]) == (plan.example_id, plan.snr_db)
    assert row["mixture_transforms"][0]["parameters"] == '{"a_max": 0.5, "a_min": -0.5}'
    assert table.num_rows == 2500


def test_damage_is_named(manifest: Manifest, recipe: Recipe, tmp_path: Path) -> None:
    path = written(tmp_path, manifest, recipe).path
    whole = path.read_bytes()
    with pytest.raises(InputError, match=r"valid\.plan\.parquet: no such plan"):
        PlanTable(plan_path(tmp_path, "valid"))
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"train\.plan\.parquet: not a plan"):
        PlanTable(path)
    path.write_bytes(b"\0" * 20_000 + whole[20_000:])
    with pytest.raises(InputError, match=r"train\.plan\.parquet: row group 0 is unreadable"):
        PlanTable(path).shard(0)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InputError, match=r"train\.plan\.parquet: not a plan"):
        PlanTable(path)


def test_every_kind_of_field_makes_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_columns, "MixPlan", Row)
    rows = [
        Row(room=None, rooms=(), kind="dry", either=1, numbers=None, anything={"a": [1, None]}),
        Row(
            room=Room(1.5, ("x", None)),
            rooms=(Room(2.0, ()), None),
            kind="wet",
            either="a",
            numbers=(),
            anything=None,
        ),
        Row(
            room=Room(0.0, ()),
            rooms=(),
            kind="dry",
            either=[1.5],
            numbers=(1, 2),
            anything=(1, Room(1.0, ())),
        ),
    ]
    table = plan_columns.encoded(rows)  # type: ignore[arg-type]
    assert table.schema.field("rooms").type == pa.list_(table.schema.field("room").type)
    back = plan_columns.decoded(table)
    expected = [dataclasses.asdict(row) for row in rows]
    expected[2]["anything"] = [1, {"gain_db": 1.0, "names": []}]  # JSON knows no tuples
    assert back == expected


@dataclasses.dataclass(frozen=True)
class Room:
    gain_db: float
    names: tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    room: Room | None
    rooms: tuple[Room | None, ...]
    kind: Literal["dry", "wet"]
    either: int | str | list[float]
    numbers: tuple[int, ...] | None
    anything: Any


def test_shards_hold_what_the_rows_render_to(corpus: Path, tmp_path: Path) -> None:
    arguments = ["--card", str(corpus / "card.yaml"), "--recipe", str(corpus / "recipe.yaml")]
    arguments += ["--out", str(tmp_path / "out"), "--shard-examples", "4"]
    assert main(["plan", *arguments]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "train.plan.parquet",
        "valid.plan.parquet",
    ]
    assert main([*arguments, "--workers", "0"]) == 0
    plans = list(PlanTable(plan_path(tmp_path / "out", "train")))
    with ShardReader(read_index(tmp_path / "out", "train")) as reader:
        for plan in plans:
            offline, online = reader.read(*divmod(plan.plan_row, 4)), render_example(plan)
            assert offline.example_id == online.example_id
            assert (offline.noisy == online.noisy).all()
            assert (offline.clean == online.clean).all()
            assert offline.meta == {**online.meta, "id": online.example_id}


def test_planning_a_folder_of_other_shards_is_refused(
    manifest: Manifest, recipe: Recipe, tmp_path: Path
) -> None:
    write_plans(manifest, recipe, tmp_path, splits=["train"], shard_examples=4)
    before = sha256_of(plan_path(tmp_path, "train"))
    with pytest.raises(InputError, match=r"train\.plan\.parquet: belongs to another plan"):
        write_plans(
            manifest, dataclasses.replace(recipe, seed=9), tmp_path, splits=["train"], shard_examples=4
        )
    assert sha256_of(plan_path(tmp_path, "train")) == before
