"""Environment variables in cards and configurations: named ones in paths only, on parsed values."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines.training.config import TrainRunConfig
from rwsa.config import config, read_config
from rwsa.corpora import read_card
from rwsa.corpora.cards import CorpusCard, sources
from rwsa.errors import InputError
from rwsa.mixing import read_recipe
from rwsa.variables import FOLDERS, PathText, path_fields
from tune.search_space import base_values
from tune.sweep_config import SweepConfig, read_sweep

SECRET = "not-to-be-copied"
CHECKOUT = Path(__file__).parents[2]
CARD = "name: a\ndescription: d\nsample_rate_hz: 16000\nlicence: l\n"
CARD += "speech: [{root: r, pattern: p, split: train}]\n"
RECIPE = "name: a\nseconds: 1\nmin_snr_db: 0\nmax_snr_db: 1\nexamples: {train: 1}\n"


@config
class Folder:
    root: PathText | None = None
    label: str = ""


@config
class Outer:
    name: str = "a"
    folders: tuple[Folder, ...] = ()
    number: int = 1


def read(folder: Path, text: str, *settings: str) -> Outer:
    path = folder / "c.yaml"
    path.write_text(text)
    return read_config(Outer, [path], settings)


def root_of(folder: Path, text: str) -> str | None:
    return read(folder, f"folders: [{{root: {text}}}]").folders[0].root


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("RWSA_TEST_A", "/data")
    monkeypatch.delenv("RWSA_TEST_B", raising=False)


def test_a_variable_in_a_path_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert root_of(tmp_path, "${RWSA_TEST_A}/x") == "/data/x"
    assert root_of(tmp_path, "${RWSA_TEST_B:-fall back}/x") == "fall back/x"
    assert root_of(tmp_path, "${RWSA_TEST_B:-}") is None
    assert root_of(tmp_path, "$HOME") == "$HOME"
    monkeypatch.setenv("LIBRISPEECH_ROOT", "/libri")
    assert root_of(tmp_path, "${LIBRISPEECH_ROOT}") == "/libri"
    settings = read(tmp_path, "name: b", "folders=[{root: '${RWSA_TEST_A}'}]")
    assert settings.folders[0].root == "/data"


def test_an_unset_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.yaml: 'folders\.0\.root' uses \$\{RWSA_TEST_B\}.* export RWSA"):
        root_of(tmp_path, "${RWSA_TEST_B}/x")


def test_a_later_value_replaces_an_unset_variable(tmp_path: Path) -> None:
    assert read(tmp_path, "name: '${RWSA_TEST_B}'", "name=b").name == "b"


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a: b\nname: x", "a: b\nname: x"), ("${HOME}", "${HOME}"), ("*x", "*x"), ("12", "12"), ("~", "~")],
)
def test_the_content_of_a_variable_is_never_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: str
) -> None:
    monkeypatch.setenv("RWSA_TEST_A", content)
    assert root_of(tmp_path, "${RWSA_TEST_A}") == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("name: ${RWSA_TEST_A}", "name"),
        ("name: '${AWS_SECRET_ACCESS_KEY}'", "name"),
        ("folders: [{label: x ${AWS_SECRET_ACCESS_KEY}}]", r"folders\.0\.label"),
        ("number: ${RWSA_TEST_A:-3}", "number"),
        ("? ${AWS_SECRET_ACCESS_KEY}\n: 1", r"\$\{AWS_SECRET_ACCESS_KEY\}"),
    ],
)
def test_a_variable_elsewhere_is_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(InputError, match=f"c.yaml: '{key}' uses .*only in paths") as caught:
        read(tmp_path, text)
    assert SECRET not in str(caught.value)


def test_text_may_look_like_a_hidden_variable(tmp_path: Path) -> None:
    assert root_of(tmp_path, "a\ue000ff\ue001b") == "a\ufffdb"


def test_a_variable_of_another_name_is_refused(tmp_path: Path) -> None:
    for text in ("${AWS_SECRET_ACCESS_KEY}", "${AWS_SECRET_ACCESS_KEY:-x}"):
        with pytest.raises(InputError, match=r"export RWSA_AWS_SECRET_ACCESS_KEY=") as caught:
            root_of(tmp_path, text)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("key", ["name", "description", "licence", "get"])
def test_no_text_of_a_card_takes_a_variable(tmp_path: Path, key: str) -> None:
    lines = [line for line in CARD.splitlines() if not line.startswith(f"{key}:")]
    path = tmp_path / "card.yaml"
    path.write_text("\n".join([*lines, f"{key}: ${{AWS_SECRET_ACCESS_KEY}}"]))
    with pytest.raises(InputError, match=f"'{key}' uses"):
        read_card(path)


def test_no_text_of_a_recipe_takes_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + "description: ${RWSA_TEST_A}\n")
    with pytest.raises(InputError, match="'description' uses"):
        read_recipe(path)
    path.write_text(RECIPE)
    with pytest.raises(InputError, match=r"'mixture_transforms\.0\.parameters\.x' uses"):
        read_recipe(path, ["mixture_transforms=[{name: Gain, parameters: {x: '${RWSA_TEST_A}'}}]"])


def test_a_sweep_takes_variables_in_paths_only(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    sweep = (
        "name: s\nquestion: q\nbase: [base, nano, demo]\ncorpora: ['${RWSA_TEST_A}/card.yaml']\n"
        "set: {data: {shards: '${RWSA_TEST_A}/shards'}}\n"
        "axes: {data: {named: {a: {data: {shards: '${RWSA_TEST_A}/a'}}}}, "
        "data.shards: ['${RWSA_TEST_A}/b']}\n"
    )
    path.write_text(sweep)
    read = read_sweep(path)
    assert read.corpora == ("/data/card.yaml",)
    assert read.set == {"data": {"shards": "/data/shards"}}
    assert read.axes["data"].named == {"a": {"data": {"shards": "/data/a"}}}
    assert read.axes["data.shards"].values == ("/data/b",)
    assert base_values(read, ["storage.root=${RWSA_TEST_A}/out"])["storage"]["root"] == "/data/out"
    with pytest.raises(InputError, match=r"'storage\.experiment' uses"):
        base_values(read, ["storage.experiment=${RWSA_TEST_A}"])
    for old, new in (
        ("question: q", "question: '${RWSA_TEST_A}'"),
        ("set: {", "set: {name: '${RWSA_TEST_A}', "),
    ):
        path.write_text(sweep.replace(old, new))
        with pytest.raises(InputError, match="only in paths"):
            read_sweep(path)


def test_the_fields_that_hold_paths_are_found_at_any_depth() -> None:
    assert path_fields(Outer) == (("folders", "*", "root"),)
    assert ("speech", "*", "root") in path_fields(CorpusCard)
    assert ("evaluation", "recipe") in path_fields(CorpusCard)
    assert {("data", "shards"), ("data", "mix", "card"), ("storage", "tracking_uri")} <= set(
        path_fields(TrainRunConfig)
    )
    assert set(path_fields(SweepConfig)) == {("base", "*"), ("corpora", "*")}


def test_the_cards_use_allowed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOLDERS:
        monkeypatch.setenv(name, f"/{name}")
    for path in (CHECKOUT / "datasets").glob("*.yaml"):
        card = read_card(path)
        assert all("$" not in source.root for _, source in sources(card))
        assert dataclasses.replace(card) == card


def test_every_allowed_variable_is_documented() -> None:
    readme = (CHECKOUT / "datasets" / "README.md").read_text(encoding="utf-8")
    assert [name for name in FOLDERS if f"`{name}`" not in readme] == []
