"""Systems by name: weights and their seeds, folders of outputs, and the match of files to clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.evaluation.clips import EvaluationClip, EvaluationSet
from pipelines.evaluation.published_tables import TABLE1, read_published
from pipelines.evaluation.systems import Model, Outputs, match_outputs, read_systems, read_trained_on
from rwsa.corpora.cards import read_card
from rwsa.corpora.manifest import ClipPair
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.models import ModelConfig, build_model, save_model
from tests.evaluations import model

TINY = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs and two files."""
    root = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("runs/a/model", "runs/b/model", "one", "two=2")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_model(root / f"{name}.safetensors", build_model(TINY, seed=seed))
    return root


def names(given: list[str | Path], outputs: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    systems, _ = read_systems(given, outputs)
    return [(system.name, system.configuration) for system in systems]


def test_a_model_is_identified_by_its_weights(weights: Path) -> None:
    (system,), networks = read_systems([weights / "one.safetensors"], ())
    assert isinstance(system, Model)
    assert system.sha256 == sha256_of(weights / "one.safetensors")
    assert system.parameters == sum(p.numel() for p in networks["enhanced"].parameters())
    assert system.giga_flops > 0
    assert system.config == TINY


def test_names_are_given_or_generated(weights: Path) -> None:
    a, b = (f"{weights}/runs/{run}/model.safetensors" for run in "ab")
    one, two = f"{weights}/one.safetensors", f"{weights}/two=2.safetensors"
    assert names([one]) == [("enhanced", "enhanced")]
    assert names([f"xs={one}"]) == [("xs", "xs")]
    # An existing path is not read as NAME=FILE.
    assert names([Path(two)]) == [("enhanced", "enhanced")]
    assert names([a, b]) == [("a", "a"), ("b", "b")]
    assert names([one, a]) == [("one", "one"), ("model", "model")]
    assert names([f"xs={one}", a]) == [("xs", "xs"), ("model", "model")]


def test_one_name_for_several_weights_means_runs_of_one_configuration(weights: Path) -> None:
    a, b = (f"xs={weights}/runs/{run}/model.safetensors" for run in "ab")
    assert names([a, b, f"s={weights}/one.safetensors"]) == [("xs 1", "xs"), ("xs 2", "xs"), ("s", "s")]


@pytest.mark.parametrize(
    ("given", "outputs", "message"),
    [
        (["{root}/none.safetensors"], (), "none.safetensors: no such file"),
        (["xs"], (), "'xs' is a model size, not a weights file"),
        (["mine=xs"], (), "'xs' is a model size, not a weights file"),
        (["noisy={root}/one.safetensors"], (), "'noisy' cannot name a system"),
        (["a/b={root}/one.safetensors"], (), "'a/b' cannot name a system"),
        (["x={root}/one.safetensors"], ("x={root}",), "two systems are named 'x'"),
        (["{root}/one.safetensors"] * 2, (), "neither files nor folders have names that differ"),
        ([], ("other",), "--system other: give NAME=FOLDER"),
        ([], ("other={root}/none",), "give NAME=FOLDER"),
    ],
)
def test_invalid_systems_are_one_error(
    weights: Path, given: list[str], outputs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_systems(
            [text.format(root=weights) for text in given], [one.format(root=weights) for one in outputs]
        )


def evaluation_set(*ids: str, complete: bool = True) -> EvaluationSet:
    clips = tuple(
        EvaluationClip(
            corpus="toy",
            clip_id=f"toy/{name}",
            seconds=1.0,
            speaker=None,
            environment=None,
            source=ClipPair(
                clip_id=f"toy/{name}", clean="c", noisy="n", split="test", samples=1, sample_rate_hz=16000,
                speaker=None, licence="",
            ),
        )
        for name in ids
    )  # fmt: skip
    return EvaluationSet(
        name="toy", clips=clips, of_clips=len(clips), complete=complete, problems=(), noisy_row=None
    )


def outputs(folder: Path, *files: str) -> Outputs:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / file, np.zeros(10), 16000)
    return Outputs(name="other", folder=str(folder))


def test_files_belong_to_the_clips_that_end_in_their_names(tmp_path: Path) -> None:
    one = evaluation_set("noisy/p1/a", "noisy/p2/a", "noisy/p1/b", "noisy/p1/c")
    system = outputs(tmp_path, "p1/a.wav", "p2/a.flac", "b.wav", "z.wav", "y/z.wav")
    matched = match_outputs(system, one, several_corpora=False)
    found = {clip: path.relative_to(tmp_path).as_posix() for clip, path in matched.paths.items()}
    assert found == {"toy/noisy/p1/a": "p1/a.wav", "toy/noisy/p2/a": "p2/a.flac", "toy/noisy/p1/b": "b.wav"}
    assert matched.faults == {"toy/noisy/p1/c": f"has no file in {tmp_path}"}
    assert matched.extra == (f"{tmp_path}/y/z.wav", f"{tmp_path}/z.wav")


def test_ambiguous_files_are_faults(tmp_path: Path) -> None:
    one = evaluation_set("noisy/p1/a", "noisy/p2/a", "noisy/p1/b")
    system = outputs(tmp_path, "a.wav", "b.wav", "b.flac")
    matched = match_outputs(system, one, several_corpora=False)
    assert "a.wav is named as several clips" in matched.faults["toy/noisy/p1/a"]
    assert "has several files" in matched.faults["toy/noisy/p1/b"]
    assert not matched.paths


def test_extra_files_are_unknown_if_only_some_clips_are_scored(tmp_path: Path) -> None:
    one = evaluation_set("a", complete=False)
    assert match_outputs(outputs(tmp_path, "a.wav", "z.wav"), one, several_corpora=False).extra is None


def test_outputs_of_several_corpora_are_in_folders(tmp_path: Path) -> None:
    system = outputs(tmp_path, "toy/a.wav", "else/a.wav")
    matched = match_outputs(system, evaluation_set("a"), several_corpora=True)
    assert list(matched.paths.values()) == [tmp_path / "toy/a.wav"]
    (tmp_path / "toy/a.wav").rename(tmp_path / "toy/b.wav")
    with pytest.raises(InputError, match="is named as a clip of toy, such as a"):
        match_outputs(system, evaluation_set("a"), several_corpora=True)
    (tmp_path / "toy").rename(tmp_path / "tou")
    with pytest.raises(InputError, match="has no folder 'toy'"):
        match_outputs(system, evaluation_set("a"), several_corpora=True)


def test_the_published_table_agrees_with_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noisy rows of the cards, which are checksums, equal those of the table."""
    table = read_published()
    noisy = table.rows[0]
    cards = TABLE1.parents[1]
    for variable in ("VB_DEMANDEX_ROOT", "DNS2020_ROOT", "EARS_WHAM_V2_ROOT"):
        monkeypatch.setenv(variable, "/nowhere")
    for file in ("vb_demandex", "dns2020", "ears_wham_v2"):
        card = read_card(cards / f"{file}.yaml")
        assert card.noisy_row is not None
        cells = table.cells(noisy, card.name)
        assert {name: cell.mean for name, cell in cells.items()} == vars(card.noisy_row)
    assert table.cells(table.rows[-1], "dns2020")["pesq"].std == 0.011


def test_a_published_row_with_a_missing_cell_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(TABLE1.read_text().replace("[1.582, 6.218, 0.810, 9.071]", "[1.582, 6.218, 0.810]"))
    with pytest.raises(InputError, match="row noisy has 3 cells for dns2020; give 4"):
        read_published(path)


def test_the_corpus_that_a_system_was_trained_on() -> None:
    corpora = {"libri-esc50": Path("cards/libri.yaml"), "voices": Path("cards/voices.yaml")}
    systems = [model("a 1", "a"), model("a 2", "a"), model("b")]
    given = ["a=cards/voices.yaml", "a=voices", "b=libri-esc50"]
    assert read_trained_on(given, systems, corpora) == {"a": "voices", "b": "libri-esc50"}
    assert read_trained_on([], systems, corpora) == {}
    for entry, message in (
        ("c=voices", r"no system is named 'c', only \['a', 'b'\]"),
        ("a=dns", r"'dns' is not among the --corpora \['libri-esc50', 'voices'\]"),
        ("a", "'' is not among the --corpora"),
    ):
        with pytest.raises(InputError, match=f"--trained-on {entry}: {message}"):
            read_trained_on([entry], systems, corpora)
    with pytest.raises(InputError, match="--trained-on a=libri-esc50: 'a' was trained on voices"):
        read_trained_on(["a=voices", "a=libri-esc50"], systems, corpora)
