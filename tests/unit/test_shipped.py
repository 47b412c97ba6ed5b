"""The weights in the package: small, described, loaded and used without any argument, whichever they are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import rwsa
from pipelines.evaluation.systems import Model, read_systems
from pipelines.workflow.verbs import VERBS, inputs_of
from rwsa import shipped
from rwsa.audio import read_mono, write_audio
from rwsa.cli import main
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.metrics import score
from rwsa.models import SIZES, build_model, save_model
from rwsa.models.weights import weights_of

RATE_HZ = 16_000
# Published pairs with much noise.
PAIRS = (("vbdmd", "p257_054"), ("dns2020", "fileid_58"))


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation without weights."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_shipped_weights_are_small_described_and_have_a_card() -> None:
    names = shipped.shipped_names()
    assert names
    assert (shipped.FOLDER / shipped.DEFAULT).read_text(encoding="utf-8").strip() == names[0]
    assert sum(path.stat().st_size for path in shipped.FOLDER.iterdir()) <= shipped.MAX_BYTES
    assert not set(names) & set(SIZES)
    for name in names:
        facts = shipped.about(shipped.shipped_file(name))
        assert {"licence", "corpus", "data", "commit", "command", "seed", "run_sha256"} <= facts.keys(), name
        assert facts["name"] == name
        assert facts["steps"] > 0
        for corpus, scores in facts["scores"].items():
            assert {"noisy", "enhanced", "clips"} <= scores.keys(), f"{name} on {corpus}"
    package_data = tomllib.loads((shipped.FOLDER.parents[1] / "pyproject.toml").read_text())
    assert "weights/*" in package_data["tool"]["setuptools"]["package-data"]["rwsa"]


def test_the_default_improves_recordings_that_it_has_never_seen(recordings: Path) -> None:
    model = rwsa.load_model()
    gains_db = []
    for corpus, pair in PAIRS:
        clean, noisy = (
            read_mono(recordings / "pairs" / corpus / kind / f"{pair}.flac", RATE_HZ)
            for kind in ("clean", "noisy")
        )
        before, after = (
            score(clean, wav, ("si_sdr",))["si_sdr"] for wav in (noisy, rwsa.enhance(noisy, RATE_HZ, model))
        )
        assert isinstance(before, float)
        assert isinstance(after, float)
        gains_db.append(after - before)
    assert min(gains_db) > 0


def test_weights_load_by_name_and_the_first_is_the_default() -> None:
    name = shipped.shipped_names()[0]
    default, named = weights_of(rwsa.load_model()), weights_of(rwsa.load_model(name))
    assert all(torch.equal(tensor, named[key]) for key, tensor in default.items())


def test_without_weights_the_message_says_so(no_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights come with this installation of rwsa; give trained ones"):
        rwsa.load_model()
    write_audio(tmp_path / "a.wav", noise(3000), RATE_HZ)
    assert main(["enhance", str(tmp_path / "a.wav")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "weights"]


def test_a_name_that_is_not_shipped_lists_those_that_are(no_weights: Path) -> None:
    save_model(no_weights / "small.safetensors", build_model("nano"))
    save_model(no_weights / "large.safetensors", build_model("nano"))
    assert shipped.shipped_names() == ("large", "small")
    (no_weights / shipped.DEFAULT).write_text("small\n")
    assert shipped.shipped_file().stem == "small"
    with pytest.raises(InputError, match=r"or the name of shipped ones \(small, large\)"):
        rwsa.load_model("smal")
    with pytest.raises(InputError, match="'smal' is not among the shipped weights: small, large"):
        shipped.shipped_file("smal")


def test_info_names_hash_licence_and_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name in shipped.shipped_names():
        path = shipped.shipped_file(name)
        facts = shipped.about(path)
        assert {name, sha256_of(path)} <= set(out.split())
        assert f"licence {facts['licence']} " in out
        for corpus, scores in facts["scores"].items():
            assert f"{corpus} " in out
            assert f"PESQ {scores['noisy']['pesq'][0]:.2f} → {scores['enhanced']['pesq'][0]:.2f}" in out


def test_info_describes_weights_that_say_nothing_of_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "mine.safetensors", build_model("nano"))
    assert main(["info", "--weights", str(tmp_path / "mine.safetensors")]) == 0
    assert "licence unknown" in capsys.readouterr().out
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match=r"broken.safetensors: its metadata cannot be read"):
        shipped.about(tmp_path / "broken.safetensors")


def test_enhancing_needs_no_argument_but_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noisy, enhanced = tmp_path / "noisy.wav", tmp_path / "noisy-enhanced.wav"
    write_audio(noisy, noise(8000), RATE_HZ)
    before = noisy.read_bytes()
    assert main(["enhance", str(noisy)]) == 0
    assert capsys.readouterr().err == f"{enhanced}\n"
    assert noisy.read_bytes() == before
    assert len(read_mono(enhanced, RATE_HZ)) == 8000
    assert not np.array_equal(read_mono(enhanced, RATE_HZ), read_mono(noisy, RATE_HZ))
    assert sorted(tmp_path.iterdir()) == [enhanced, noisy]
    assert main(["enhance", str(noisy), str(enhanced)]) == 2
    assert f"{enhanced}: is an input and would be overwritten" in capsys.readouterr().err


def test_a_folder_is_enhanced_into_a_folder_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "day.1/a/b.wav", noise(3000), RATE_HZ)
    monkeypatch.chdir(tmp_path / "day.1")
    assert main(["enhance", "."]) == 0
    assert (tmp_path / "day.1-enhanced/a/b.wav").is_file()
    monkeypatch.chdir(tmp_path)
    assert main(["enhance", "day.1", "day.1/a/b.wav", "--untrained", "nano"]) == 0
    assert capsys.readouterr().err.splitlines()[1:] == ["day.1-enhanced", "day.1/a/b-enhanced.wav"]
    assert main(["enhance", "/"]) == 2
    assert "/: has no folder beside it; give --out" in capsys.readouterr().err


def test_an_evaluation_takes_shipped_weights_by_name(tmp_path: Path) -> None:
    name = shipped.shipped_names()[0]
    save_model(tmp_path / "other.safetensors", build_model("nano"))
    systems, networks = read_systems([name, f"other={tmp_path}/other.safetensors"], ())
    assert [system.name for system in systems] == [name, "other"]
    assert isinstance(systems[0], Model)
    assert systems[0].sha256 == sha256_of(shipped.shipped_file(name))
    assert [system.name for system in read_systems([name], ())[0]] == [name]
    assert [system.name for system in read_systems([f"ours={name}"], ())[0]] == ["ours"]
    assert networks.keys() == {name, "other"}


def test_a_workflow_rests_on_the_shipped_weights_that_a_step_uses() -> None:
    name = shipped.shipped_names()[0]
    enhance = VERBS["enhance"]
    default = enhance.parser().parse_args(["noisy.wav"])
    assert ("weights", shipped.shipped_file()) in list(inputs_of(enhance, default))
    named = enhance.parser().parse_args(["noisy.wav", "--weights", name])
    assert ("weights", shipped.shipped_file(name)) in list(inputs_of(enhance, named))
    random = enhance.parser().parse_args(["noisy.wav", "--untrained", "nano"])
    assert [kind for kind, _ in inputs_of(enhance, random)] == ["folder"]
