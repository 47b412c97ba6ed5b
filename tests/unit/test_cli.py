"""`rwsa enhance`, `score` and `info`: output and exit status."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from rwsa import cli
from rwsa.audio import read_audio, write_audio
from rwsa.cli import main
from rwsa.files import read_json
from rwsa.models import SIZES, ModelConfig, build_model, save_model
from rwsa.size_rows import SIZE_ROWS

RATE_HZ = 16_000
TINY = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    save_model(tmp_path / "tiny.safetensors", build_model(TINY))
    return str(tmp_path / "tiny.safetensors")


def piped(data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "rwsa.cli", "enhance", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=False)


def test_the_exit_status_shows_whether_files_were_skipped(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "in/good.wav", noise(3000), RATE_HZ)
    command = ["enhance", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--weights", weights]
    assert main(command) == 0
    assert capsys.readouterr() == ("", "")
    (tmp_path / "in/bad.wav").write_text("no audio")
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith(f"skipped: {tmp_path}/in/bad.wav: not readable as audio")
    assert second == "1 file(s) skipped"
    assert main([*command, "--strict"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/in/bad.wav: not readable as audio")


def test_memory_that_runs_out_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> list[str]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr("rwsa.enhancement.files.enhance_files", full)
    assert main(["enhance", str(tmp_path), "--out", str(tmp_path / "out"), "--untrained", "nano"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory; lower --batch-size, or use --device cpu: CUDA out of")


def test_a_file_may_have_the_name_of_the_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text("no audio")
    assert main(["enhance", "./-", "--out", "out", "--untrained", "nano"]) == 1
    assert capsys.readouterr().err.startswith(f"skipped: {tmp_path}/-: not readable as audio")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.wav"], "none.wav: no such file or folder"),
        (["a.wav", "--out", "-"], "--out: give a folder to write to"),
        (["-", "--out", "folder"], "- enhances stdin to stdout; give it alone"),
        (["-", "a.wav"], "- enhances stdin to stdout; give it alone"),
        (["none.wav", "--out", "folder"], "none.wav: no such file or folder"),
        (["none.wav", "--out", "folder", "--device", "abacus"], "--device abacus: cannot be used ("),
    ],
)
def test_contradictory_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["enhance", *arguments, "--untrained", "nano"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_random_weights_are_used_only_on_explicit_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "a.wav", noise(3000), RATE_HZ)
    command = ["enhance", str(tmp_path / "a.wav"), "--out", str(tmp_path / "out")]
    assert main([*command, "--weights", "nano"]) == 2
    assert capsys.readouterr().err.startswith("error: 'nano' is a model size, not a weights file")
    assert not (tmp_path / "out").exists()
    assert main([*command, "--untrained", "nanno"]) == 2
    assert "model size 'nanno' is unknown; choose nano, xs" in capsys.readouterr().err
    assert main([*command, "--untrained", "nano"]) == 0
    assert (tmp_path / "out/a.wav").is_file()
    with pytest.raises(SystemExit):
        main([*command, "--untrained", "nano", "--weights", "nano.safetensors"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_terminal_stdin_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["enhance", "-", "--untrained", "nano"]) == 2
    assert capsys.readouterr().err == "error: stdin is a terminal; pipe in audio\n"


def test_a_pipe_gives_the_audio_of_a_file_and_nothing_else(tmp_path: Path, weights: str) -> None:
    write_audio(tmp_path / "a.wav", noise(20_000), 44_100)
    main(["enhance", str(tmp_path / "a.wav"), "--out", str(tmp_path / "out"), "--weights", weights])
    done = piped((tmp_path / "a.wav").read_bytes(), "-", "--weights", weights)
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "piped.wav").write_bytes(done.stdout)
    found, expected = (read_audio(tmp_path / name)[0] for name in ("piped.wav", "out/a.wav"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.01 / 32768)  # threads may differ


def test_an_empty_pipe_is_one_error_and_no_output(weights: str) -> None:
    done = piped(b"", "-", "--out", "-", "--weights", weights)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: stdin: not readable as audio (")
    assert done.stderr.count(b"\n") == 1


def scored(root: Path, *options: str) -> int:
    return main(["score", "--clean", str(root / "clean"), "--enhanced", str(root / "enhanced"), *options])


def test_score_uses_the_requested_metrics_and_its_status_shows_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "clean/a.wav", noise(RATE_HZ), RATE_HZ)
    write_audio(tmp_path / "enhanced/a.wav", np.roll(noise(RATE_HZ), 1), RATE_HZ)
    options = ["--workers", "1", "--metrics", "si_sdr", "ssnr", "--json", str(tmp_path / "scores.json")]
    assert scored(tmp_path, *options) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["metric", "si_sdr", "ssnr"]
    assert read_json(tmp_path / "scores.json")["clips"]["a.wav"].keys() == {"si_sdr", "ssnr"}
    write_audio(tmp_path / "clean/b.wav", noise(RATE_HZ), RATE_HZ)
    assert scored(tmp_path, *options) == 1
    assert "b.wav: not in" in capsys.readouterr().out
    assert scored(tmp_path, "--metrics", "dnsmos") == 2
    assert "unknown metric 'dnsmos'; did you mean 'dnsmos_" in capsys.readouterr().err


def test_scores_are_printed_even_if_their_file_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "clean/a.wav", noise(RATE_HZ), RATE_HZ)
    write_audio(tmp_path / "enhanced/a.wav", noise(RATE_HZ) + 0.1, RATE_HZ)
    (tmp_path / "file").touch()
    options = ["--workers", "1", "--metrics", "si_sdr", "--json", str(tmp_path / "file/scores.json")]
    assert scored(tmp_path, *options) == 2
    out, err = capsys.readouterr()
    assert "si_sdr" in out
    assert "cannot be written" in err


def modules_after(program: str) -> set[str]:
    program += "\nimport sys; print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.skipif(any(Path(name).exists() for name in cli._GPU_DRIVERS), reason="torch finds the GPU")
def test_info_and_help_import_no_torch() -> None:
    for arguments in (["info"], ["info", "--weights", "xs"], ["--help"]):
        program = f"from rwsa.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
        assert modules_after(program).isdisjoint({"torch", "numba", "scipy", "audiomentations", "pydantic"})


def test_attention_and_deformable_convolution_import_no_compiler_without_gradients() -> None:
    program = """
import torch
from rwsa.kernels.attention import attend
from rwsa.kernels.deformable import deform_conv
from rwsa.kernels.layout import SequenceAxis
with torch.inference_mode():
    attend(torch.ones(1, 2, 2, 24), 2, SequenceAxis.TIME)
    deform_conv(torch.ones(1, 8, 2, 2), torch.zeros(1, 18, 2, 2), torch.ones(8, 9))
"""
    assert modules_after(program).isdisjoint({"torch._dynamo", "torch._inductor", "pandas", "matplotlib"})


def test_info_shows_the_costs_of_the_sizes_as_built() -> None:
    assert list(SIZE_ROWS) == list(SIZES)
    with torch.device("meta"):
        assert {name: cli.cost_row(build_model(name)) for name in SIZES} == SIZE_ROWS


def test_enhancing_needs_no_package_of_mixing(tmp_path: Path, weights: str) -> None:
    write_audio(tmp_path / "a.wav", noise(3000), RATE_HZ)
    program = f"""
import sys
sys.modules.update(dict.fromkeys(["audiomentations", "scipy", "sklearn", "librosa", "pyloudnorm"]))
from rwsa.cli import main
files = [{str(tmp_path / "a.wav")!r}, "--out", {str(tmp_path / "o")!r}]
assert main(["enhance", *files, "--weights", {weights!r}]) == 0
import rwsa.training.loop
from rwsa.errors import InputError
from rwsa.mixing.transforms import Transform, check_transform
try:
    check_transform(Transform(name="Gain"), 16000, aligned=False)
except InputError as error:
    assert "needs audiomentations" in str(error) and "pip install 'rwsa[mixing]'" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "o/a.wav").is_file()


def test_the_extra_app_contains_mixing_and_the_base_does_not() -> None:
    project = tomllib.loads((Path(cli.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras["mixing"]) <= set(extras["app"])
    assert set(extras["mixing"]).isdisjoint(project["dependencies"])


def test_info_shows_where_the_application_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkout = Path(cli.__file__).parents[1]
    assert cli._application().endswith(f"tune.COMMAND, in {checkout}")
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "rwsa/cli.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert cli._application().startswith(
        "app    not installed: training, evaluation and sweeps run from a checkout"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(checkout)])  # as in the container image
    assert cli._application().endswith(f"in {checkout}")


def test_the_wheel_and_its_description_cover_the_library_alone() -> None:
    project = tomllib.loads((Path(cli.__file__).parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["rwsa", "rwsa.*"]
    assert "run from a checkout" in project["project"]["description"]
    readme = (Path(cli.__file__).parents[1] / project["project"]["readme"]).read_text()
    assert "run from a checkout: the wheel contains `rwsa` only" in readme
