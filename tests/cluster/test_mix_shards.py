"""Mixing on a real Ray: the same bytes with any workers, after any interruption; faults counted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.mix_shards import main, mix_shards
from pipelines.mixing import plan_table
from pipelines.mixing.plan_table import PlanTable, plan_path, write_plan
from rwsa.corpora.cards import CorpusCard, read_card
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.mixing.plans import plan_split
from rwsa.mixing.recipes import Recipe, read_recipe
from rwsa.shards import verify
from rwsa.shards.index import read_index
from tests.clips import clip, every_choice
from tests.clips import recipe as clip_recipe
from tests.toy_corpus import RATE_HZ, checksums, write_corpus

pytestmark = pytest.mark.usefixtures("ray_address")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def card(corpus: Path) -> CorpusCard:
    return read_card(corpus / "card.yaml")


@pytest.fixture
def recipe(corpus: Path) -> Recipe:
    return read_recipe(corpus / "recipe.yaml")


def quiet(_: str) -> None:
    pass


def test_one_and_two_workers_give_the_same_bytes(card: CorpusCard, recipe: Recipe, tmp_path: Path) -> None:
    lines: list[str] = []
    one = mix_shards(card, recipe, tmp_path / "one", workers=1, shard_examples=4, report=lines.append)
    two = mix_shards(card, recipe, tmp_path / "two", workers=2, shard_examples=4, report=quiet)
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")
    assert (one.examples, one.shards, one.reused, one.failures) == (26, 8, 0, 0)
    assert one.hours == two.hours == pytest.approx(26 * 0.5 / 3600)
    assert re.fullmatch(
        r"mix: 0\.00/0\.00 h, [\d.]+ h/min, 00:\d\d elapsed, 00:00 left, shards 8/8 \(0 reused\), failures 0",
        lines[-1],
    )
    for split, sizes in (("train", (4, 4, 4, 4, 4, 1)), ("valid", (4, 1))):
        index = read_index(tmp_path / "one", split)
        assert index.shard_sizes == sizes
        assert verify(index) == []


def test_running_again_makes_only_incomplete_shards(card: CorpusCard, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mix_shards(card, recipe, out, shard_examples=4, report=quiet)
    undisturbed = checksums(out)
    (out / "train-000000.json").unlink()
    (out / "train-000001.tar").unlink()
    (out / "train-000002.tar").write_bytes(b"damaged")
    (out / "train-000003.json").write_text("{")
    (out / ".train-000004.0123abcd.tar").write_bytes(b"half-written")
    (out / "index.json").unlink()
    summary = mix_shards(card, recipe, out, shard_examples=4, report=quiet)
    assert summary.reused == 4
    assert checksums(out) == undisturbed


def test_more_examples_keep_the_shards_made_before(card: CorpusCard, recipe: Recipe, corpus: Path) -> None:
    out = corpus / "out"
    mix_shards(card, recipe, out, splits=["train"], shard_examples=4, report=quiet)
    more = read_recipe(corpus / "recipe.yaml", ["examples.train=30"])
    summary = mix_shards(card, more, out, splits=["train"], shard_examples=4, report=quiet)
    assert (summary.shards, summary.reused, summary.examples) == (8, 5, 30)


def test_a_split_left_half_made_stays_out_of_the_index(
    card: CorpusCard, recipe: Recipe, corpus: Path
) -> None:
    out, lines = corpus / "out", list[str]()
    mix_shards(card, recipe, out, workers=0, shard_examples=4, report=quiet)
    undisturbed = checksums(out)
    (out / "train-000003.json").unlink()
    mix_shards(card, recipe, out, splits=["valid"], workers=0, shard_examples=4, report=lines.append)
    assert read_index(out, "valid").shard_sizes == (4, 1)
    with pytest.raises(InputError, match="has no split 'train'"):
        read_index(out, "train")
    assert any("split 'train' has only 5 of its 6 shards" in line for line in lines)
    mix_shards(card, recipe, out, splits=["train"], workers=0, shard_examples=4, report=quiet)
    assert checksums(out) == undisturbed


def test_a_bad_source_is_counted_and_the_rest_made(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(corpus / "noise/train/train_noise1.wav", np.zeros(2 * RATE_HZ), RATE_HZ)
    (corpus / "speech/train/train_speech4.wav").write_text("not audio")
    out = corpus / "out"
    arguments = ["--card", f"{corpus}/card.yaml", "--recipe", f"{corpus}/recipe.yaml", "--out", str(out)]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "left out" in shown.out
    assert "train_speech4.wav" in shown.out
    failures = shown.err.count("train_noise1.wav: silent throughout")
    assert failures >= 4
    assert f"{26 - failures} examples" in shown.out
    assert f"{failures} failures, 1 unusable file" in shown.out
    index = read_index(out, "train")
    assert len(index.entries[0].failures) == failures
    assert verify(index) == []


def test_strict_ends_at_a_bad_source(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(corpus / "noise/train/train_noise1.wav", np.zeros(2 * RATE_HZ), RATE_HZ)
    out = corpus / "out"
    arguments = ["--card", f"{corpus}/card.yaml", "--recipe", f"{corpus}/recipe.yaml", "--out", str(out)]
    assert main([*arguments, "--splits", "train", "--strict"]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert "train_noise1.wav: silent throughout" in error
    assert [path.name for path in out.iterdir()] == ["train.plan.parquet"]


def test_a_repaired_source_is_taken_in_on_the_next_run(
    card: CorpusCard, recipe: Recipe, corpus: Path
) -> None:
    noise = corpus / "noise/train/train_noise1.wav"
    whole = noise.read_bytes()
    mix_shards(card, recipe, corpus / "whole", shard_examples=4, report=quiet)
    soundfile.write(noise, np.zeros(2 * RATE_HZ), RATE_HZ)
    broken = mix_shards(card, recipe, corpus / "out", shard_examples=4, report=quiet)
    assert broken.failures
    noise.write_bytes(whole)
    assert mix_shards(card, recipe, corpus / "out", shard_examples=4, report=quiet).failures == 0
    assert checksums(corpus / "out") == checksums(corpus / "whole")


def test_nothing_usable_in_a_split_is_an_error(card: CorpusCard, recipe: Recipe, corpus: Path) -> None:
    for path in (corpus / "noise/valid").iterdir():
        soundfile.write(path, np.zeros(2 * RATE_HZ), RATE_HZ)
    with pytest.raises(InputError, match=r"split 'valid': no example could be rendered; the first: .*silent"):
        mix_shards(card, recipe, corpus / "out", report=quiet)
    assert not (corpus / "out" / "index.json").exists()


def test_a_folder_of_other_shards_is_left_alone(card: CorpusCard, recipe: Recipe, corpus: Path) -> None:
    out = corpus / "out"
    mix_shards(card, recipe, out, shard_examples=4, report=quiet)
    before = checksums(out)
    for settings in (["seed=4"], ["examples.train=4"]):
        other = read_recipe(corpus / "recipe.yaml", settings)
        with pytest.raises(InputError, match="belongs to another plan"):
            mix_shards(card, other, out, shard_examples=4, report=quiet)
    assert checksums(out) == before


def test_a_corpus_that_changed_does_not_replace_what_was_made_of_it(
    card: CorpusCard, recipe: Recipe, corpus: Path
) -> None:
    out = corpus / "out"
    mix_shards(card, recipe, out, workers=0, shard_examples=4, report=quiet)
    undisturbed = checksums(out)
    next((corpus / "speech/train").iterdir()).unlink()
    with pytest.raises(InputError, match=r"train\.plan\.parquet: was drawn from other recordings of corpus"):
        mix_shards(card, recipe, out, workers=0, shard_examples=4, report=quiet)
    assert checksums(out) == undisturbed


def test_unusable_arguments_get_one_error_line(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "file").write_text("")
    given = {"--card": f"{corpus}/card.yaml", "--recipe": f"{corpus}/recipe.yaml", "--out": f"{corpus}/out"}
    cases = [
        ({"--out": f"{corpus}/file"}, "file: is a file; choose a folder"),
        ({"--out": "/proc/nowhere"}, "cannot be written"),
        ({"--card": f"{corpus}/none.yaml"}, "none.yaml"),
        ({"--recipe": f"{corpus}/none.yaml"}, "none.yaml"),
        ({"--set": "min_snr=3"}, "did you mean 'min_snr_db'"),
        ({"--splits": "test"}, "has no examples for ['test']"),
        ({"--set": "examples.test=3"}, "has no speech in split 'test'"),
        ({"--shard-examples": "0"}, "--shard-examples 0: must be at least 1"),
        ({"--workers": "-1"}, "--workers -1: must be at least 1"),
    ]
    for change, message in cases:
        arguments = [part for pair in {**given, **change}.items() for part in pair]
        assert main(arguments) == 2, message
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert not (corpus / "out").exists()


@pytest.mark.parametrize(("workers", "at_once"), [(1, 3), (2, 1), (3, 128)])
def test_a_plan_drawn_by_any_number_of_workers_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, at_once: int
) -> None:
    kinds = ("speech", "noise", "room")
    manifest = Manifest(card="toy", clips=tuple(clip(n, kind) for kind in kinds for n in range(9)))
    recipe = clip_recipe(**every_choice(min_talkers=1, max_talkers=2), examples={"train": 333})
    rows = plan_split(manifest, recipe, "train")
    monkeypatch.setattr(plan_table, "_GROUP_ROWS", 32)
    settings = {"corpus": "toy", "recipe": recipe, "shard_examples": 16}
    alone = write_plan(tmp_path / "alone", "train", rows, **settings)
    monkeypatch.setattr(plan_table, "_ROWS_FOR_RAY", 1)
    monkeypatch.setattr(plan_table, "_GROUPS_AT_ONCE", at_once)
    assert write_plan(tmp_path / "ray", "train", rows, **settings, workers=workers) == alone
    paths = [plan_path(tmp_path / name, "train") for name in ("alone", "ray")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert list(PlanTable(paths[1])) == rows[:]
