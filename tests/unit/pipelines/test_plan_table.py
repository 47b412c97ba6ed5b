"""Plan tables: rows are read back unchanged, the same plan gives the same bytes, damage is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.mix_shards import main, write_plans
from pipelines.mixing.plan_schema import SCHEMA
from pipelines.mixing.plan_table import PlanTable, plan_path, write_plan
from rwsa.config import build
from rwsa.corpora import scan
from rwsa.corpora.cards import read_card
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.mixing import render_example
from rwsa.mixing.plans import Layer, MixPlan, Noise, SourceRange, plan_hash, plan_split
from rwsa.mixing.recipes import Recipe, read_recipe
from rwsa.mixing.transforms import Transform
from rwsa.shards import ShardReader
from rwsa.shards.index import read_index
from tests.clips import clip, every_choice
from tests.clips import recipe as clip_recipe
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
def test_rows_are_read_back_unchanged_by_shard(
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


def test_the_folder_of_the_recordings_is_not_in_the_hash(
    manifest: Manifest, recipe: Recipe, tmp_path: Path
) -> None:
    moved = [dataclasses.replace(clip, path=f"/elsewhere{clip.path}") for clip in manifest.clips]
    there = written(tmp_path / "there", dataclasses.replace(manifest, clips=tuple(moved)), recipe)
    here = written(tmp_path / "here", manifest, recipe)
    assert there.info == here.info
    assert there.shard(0) != here.shard(0)


def test_any_parquet_reader_can_read_it(manifest: Manifest, recipe: Recipe, tmp_path: Path) -> None:
    written(tmp_path, manifest, recipe)
    table = pq.read_table(plan_path(tmp_path, "train"))
    plan = plan_split(manifest, recipe, "train")[1234]
    row = table.slice(1234, 1).to_pylist()[0]
    assert (row["example_id"], row["snr_db"]) == (plan.example_id, plan.snr_db)
    assert row["mixture_transforms"][0]["parameters"] == '{"a_max": 0.5, "a_min": -0.5}'
    assert table.num_rows == 2500


def test_damage_is_named(manifest: Manifest, recipe: Recipe, tmp_path: Path) -> None:
    path = written(tmp_path, manifest, recipe).path
    intact = path.read_bytes()
    with pytest.raises(InputError, match=r"valid\.plan\.parquet: no such plan"):
        PlanTable(plan_path(tmp_path, "valid"))
    path.write_bytes(intact[:-100])
    with pytest.raises(InputError, match=r"train\.plan\.parquet: not a plan"):
        PlanTable(path)
    path.write_bytes(b"\0" * 20_000 + intact[20_000:])
    with pytest.raises(InputError, match=r"train\.plan\.parquet: row group 0 is unreadable"):
        PlanTable(path).shard(0)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InputError, match=r"train\.plan\.parquet: not a plan"):
        PlanTable(path)


def test_every_field_of_a_plan_has_a_column() -> None:
    def names(kind: pa.DataType) -> list[str]:
        return [field.name for field in kind]

    def fields(kind: type) -> list[str]:
        return [field.name for field in dataclasses.fields(kind)]

    noise = SCHEMA.field("noises").type.value_type
    layer = noise.field("layers").type.value_type
    assert SCHEMA.names == fields(MixPlan)
    assert names(noise) == fields(Noise)
    assert names(layer) == fields(Layer)
    for name in ("speech_transforms", "noise_transforms", "mixture_transforms"):
        assert names(SCHEMA.field(name).type.value_type) == fields(Transform)
    parts = layer.field("parts").type.value_type
    ranges = (SCHEMA.field("speech"), SCHEMA.field("room"), noise.field("room"))
    for kind in (parts, SCHEMA.field("more_speech").type.value_type, *(field.type for field in ranges)):
        assert names(kind) == fields(SourceRange)


def test_a_plan_of_an_earlier_version_is_read_and_drawn_again_to_the_byte(tmp_path: Path) -> None:
    """`train.plan.parquet` was written before the columns were listed in `SCHEMA`."""
    before = Path(__file__).parents[2] / "fixtures/before/train.plan.parquet"
    speech = [*(clip(number) for number in range(6)), clip(9, sample_rate_hz=48000, channel=1, speaker="s0")]
    noises = [clip(number, "noise", environment=None if number else "street") for number in range(3)]
    manifest = Manifest(card="toy", clips=(*speech, *noises, clip(0, "room"), clip(1, "room")))
    clipping = Transform(name="Clip", p=0.5, parameters={"a_min": -0.5, "a_max": 0.5})
    recipe = clip_recipe(
        **every_choice(min_talkers=2, max_talkers=3),
        examples={"train": 24},
        mix_rate_hz=48000,
        min_level_dbfs=-30.0,
        max_level_dbfs=-20.0,
        speech_transforms=(Transform(name="Gain", p=0.5),),
        mixture_transforms=(clipping,),
    )
    plans = plan_split(manifest, recipe, "train")
    assert list(PlanTable(before)) == plans[:]
    assert plan_hash(PlanTable(before)) == "56d13a9ffc2b4883"
    info = write_plan(tmp_path, "train", plans, corpus="toy", recipe=recipe, shard_examples=10)
    assert info == PlanTable(before).info
    again = plan_path(tmp_path, "train")
    if pq.read_metadata(before).created_by == pq.read_metadata(again).created_by:
        assert sha256_of(again) == sha256_of(before)


def test_shards_hold_the_rendered_rows(corpus: Path, tmp_path: Path) -> None:
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
