"""File names of any bytes as text, and through every step that reads recordings."""

from __future__ import annotations

import json
import os
import sqlite3
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.mixing.plan_table import PlanTable, plan_path, write_plan
from rwsa.audio import read_audio, read_info, write_audio
from rwsa.command_line import path_argument
from rwsa.corpora import scan
from rwsa.corpora.cards import read_card
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import atomic_write, check_writable, location
from rwsa.folder_scores import format_table, score_folders
from rwsa.mixing import plan_split, render_example
from rwsa.mixing.recipes import read_recipe
from rwsa.names import as_utf8, local_path, shown, stored_path
from tests.toy_corpus import RECIPE

RATE_HZ = 16_000
NAMES = {
    "latin-1": b"caf\xe9",
    "longest": b"L" * 251,
    "apostrophe": b"it's",
    "quotes": b'say "hi"',
    "glob": b"a[b]*?",
    "uri": b"50%25 #1?",
    "newline": b"two\nlines",
    "escape": b"\x1b[31mred\ttab",
    "spaces": b" end ",
    "dots": b"dots..",
    "dash": b"-x",
    "backslash": b"a\\nb",
    "decomposed": unicodedata.normalize("NFD", "é").encode(),
    "utf-8": "日本語".encode(),
}
CARD = """
name: odd
description: One file with an odd name, in a folder with an odd name.
sample_rate_hz: 16000
licence: CC0
speech: [{{root: {root}/speech, pattern: '(?s)(?P<split>train)/(?P<speaker>[^/]+)/.+\\.wav'}}]
noise: [{{root: {root}/noise, pattern: '(?s)(?P<split>train)/(?P<recording>.+)\\.wav'}}]
"""


def write(path: Path, seed: int = 0, samples: int = RATE_HZ) -> None:
    wav = np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)
    write_audio(path, wav, RATE_HZ)


@pytest.fixture(params=NAMES.values(), ids=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return os.fsdecode(request.param)


def test_text_of_a_name_is_one_line_of_utf_8(name: str) -> None:
    assert shown(f"/a/{name}.wav").isprintable()
    assert as_utf8(name).encode()
    stored = stored_path(f"/a/{name}.wav")
    assert stored.encode()
    assert str(local_path(stored)) == f"/a/{name}.wav"


def test_ordinary_names_are_stored_and_shown_unchanged() -> None:
    for path in ("/a/b.wav", "/日本語/é ü.wav", "/a/50%25 #1?.wav"):
        assert stored_path(path) == shown(path) == as_utf8(path) == path


def test_a_file_is_written_read_and_scored(tmp_path: Path, name: str) -> None:
    for folder in ("clean", "enhanced"):
        write(tmp_path / folder / f"{name}.wav", seed=len(folder))
        write(tmp_path / folder / "other.wav", seed=len(folder) + 1)
    assert read_audio(tmp_path / "clean" / f"{name}.wav")[0].shape == (1, RATE_HZ)
    check_writable(tmp_path / "clean" / f"{name}.csv")
    scores = score_folders(tmp_path / "clean", tmp_path / "enhanced", metrics=("ssnr",), workers=1)
    assert scores.summaries["ssnr"].count == 2
    assert as_utf8(f"{name}.wav") in scores.clips
    json.dumps(scores.as_json(), ensure_ascii=False).encode()
    assert format_table(scores).encode()


def test_a_file_is_scanned_planned_and_mixed(tmp_path: Path, name: str) -> None:
    root = tmp_path / "corpus"
    speaker = name[:200]
    for path in (f"speech/train/{speaker}/{name}.wav", "speech/train/b/b.wav", f"noise/train/{name}.wav"):
        write(root / path, seed=len(path), samples=2 * RATE_HZ)
    (tmp_path / "card.yaml").write_text(CARD.format(root=root))
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("train: 21, valid: 5", "train: 8"))
    cache = FileCache(tmp_path / "cache")
    for _ in range(2):
        manifest = scan(read_card(tmp_path / "card.yaml"), cache=cache)
        assert len(manifest.clips) == 3
        assert not manifest.problems
    with sqlite3.connect(cache.path) as database:
        assert database.execute("SELECT count(*) FROM facts").fetchone() == (3,)
    database.close()
    recipe = read_recipe(tmp_path / "recipe.yaml")
    plans = plan_split(manifest, recipe, "train")
    write_plan(tmp_path, "train", plans, corpus="odd", recipe=recipe, shard_examples=4)
    pq.read_table(plan_path(tmp_path, "train"))
    read = list(PlanTable(plan_path(tmp_path, "train")))
    assert read == list(plans)
    assert {local_path(plan.speech.path).name for plan in read} == {f"{name}.wav", "b.wav"}
    odd = next(plan for plan in read if local_path(plan.speech.path).name == f"{name}.wav")
    assert render_example(odd).noisy.any()


def test_names_that_differ_in_unicode_form_only_are_a_pair(tmp_path: Path) -> None:
    write(tmp_path / "clean" / (unicodedata.normalize("NFC", "café") + ".wav"))
    write(tmp_path / "enhanced" / (unicodedata.normalize("NFD", "café") + ".wav"), seed=1)
    scores = score_folders(tmp_path / "clean", tmp_path / "enhanced", metrics=("ssnr",), workers=1)
    assert (scores.summaries["ssnr"].count, scores.failures) == (1, ())


def test_a_temporary_file_fits_beside_the_longest_name(tmp_path: Path) -> None:
    for longest in ("é" * 125 + ".flac", "x" * 5 + "." + "y" * 249):
        with atomic_write(tmp_path / longest) as temporary:
            temporary.write_text("complete")
        assert (tmp_path / longest).read_text() == "complete"
    with (
        pytest.raises(InputError, match="cannot be written"),
        atomic_write(tmp_path / ("x" * 256)) as temporary,
    ):
        temporary.touch()
    assert len(list(tmp_path.iterdir())) == 2


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(InputError, match="the path is empty"):
        location("")
    with pytest.raises(Exception, match="the path is empty"):
        path_argument("")
    assert path_argument(".") == Path()


def test_the_name_of_a_bad_file_is_shown(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.wav"))
    path.write_bytes(b"no audio")
    with pytest.raises(InputError) as caught:
        read_info(path)
    assert str(caught.value).startswith(f"{tmp_path}/caf\\xe9\\n.wav: not readable as audio")
