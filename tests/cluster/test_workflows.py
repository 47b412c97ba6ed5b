"""Workflows on a real Ray: what runs, what does not, and what an interruption leaves."""

from __future__ import annotations

import getpass
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.run import main
from rwsa.files import sha256_of
from rwsa.lease import exclusive_lock
from tests.toy_corpus import checksums
from tests.workflow_files import check_step, mix_step, records, train_step, write_workflow

CHECKOUT = Path(__file__).parents[2]
STEPS = {"one": mix_step(1), "two": mix_step(2), "check": check_step("one")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Path:
    """The folder of a workflow that has run once."""
    folder = tmp_path_factory.mktemp("workflow")
    assert main([str(write_workflow(folder, STEPS))]) == 0
    return folder


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """The table at the end of the output: step -> state and reason."""
    lines = re.findall(r"^(\S+) +(\w+)(?: +(.*))?$", capsys.readouterr().out, re.MULTILINE)
    return {step: (state, why) for step, state, why in lines if step in STEPS}


def test_independent_steps_overlap(done: Path) -> None:
    spans = {
        name: (record["finished"] - record["seconds"], record["finished"])
        for name, record in records(done).items()
    }
    assert set(spans) == set(STEPS)
    assert max(spans["one"][0], spans["two"][0]) < min(spans["one"][1], spans["two"][1])
    assert spans["check"][0] > spans["one"][1]


def test_an_unchanged_workflow_does_nothing_without_ray(done: Path) -> None:
    before = checksums_below(done)
    started = time.monotonic()
    result = run_process(done, RAY_ADDRESS="127.0.0.1:1")  # where no Ray answers
    assert result.returncode == 0, result.stderr
    assert "toy: 3 done" in result.stdout
    assert checksums_below(done) == before
    assert time.monotonic() - started < 60  # 4 s alone; with a Ray that does not answer, minutes


def test_a_change_redoes_only_what_rests_on_it(
    done: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    changed = write_workflow(done, STEPS | {"one": mix_step(3)})
    capsys.readouterr()
    try:
        assert main([str(changed), "--status"]) == 0
        states = rows(capsys)
        assert states["one"][0] == "stale"
        assert states["two"][0] == "done"
        assert states["check"] == ("waiting", "for one")
    finally:
        write_workflow(done, STEPS)


def test_a_deleted_output_is_made_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = next((done / "out" / "workflows" / "toy" / "two").glob("*/shards/train-000001.tar"))
    before = checksums(shard.parent)
    shard.unlink()
    assert main([str(done / "toy.yaml"), "--status"]) == 0
    state, why = rows(capsys)["two"]
    assert state == "missing"
    assert f"{shard.parent} was deleted or changed" in why
    assert main([str(done / "toy.yaml")]) == 0
    states = {name: state for name, (state, _) in rows(capsys).items()}
    assert states == {"one": "done", "two": "finished", "check": "done"}
    assert checksums(shard.parent) == before


def test_a_failed_step_stops_only_what_needs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_address: str
) -> None:
    broken = mix_step(1)
    broken["options"]["set"] = {"min_snr_db": 20}  # above max_snr_db
    steps = {"one": broken, "check": check_step("one"), "two": mix_step(2)}
    assert main([str(write_workflow(tmp_path, steps))]) == 1
    states = rows(capsys)
    assert states["one"][0] == "failed"
    assert "max_snr_db" in states["one"][1]
    assert states["two"][0] == "finished"
    assert states["check"] == ("waiting", "needs one")
    assert main([str(tmp_path / "toy.yaml"), "--status"]) == 0
    assert rows(capsys)["one"] == states["one"]


def test_of_two_at_once_the_second_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive_lock(done / "out" / "workflows" / "toy"):
        second = run_process(done)
        assert main([str(done / "toy.yaml"), "--status"]) == 0
    assert second.returncode == 2
    assert f"in use by {getpass.getuser()}" in second.stderr
    assert f"running: {getpass.getuser()}" in capsys.readouterr().out
    assert main([str(done / "toy.yaml"), "--status"]) == 0
    assert "running" not in capsys.readouterr().out


@pytest.mark.full
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    path = write_workflow(tmp_path, {"one": mix_step(1), "train": train_step("one", 400)})
    with started(path) as process:
        wait_for(tmp_path, "out/runs/*/checkpoints/step-*")
        process.terminate()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "train: stopped" in output
    saved = {folder.name for folder in (tmp_path / "out" / "runs").glob("*/checkpoints/step-*")}
    write_workflow(tmp_path, {"one": mix_step(1), "train": train_step("one", 400)})
    status = run_process(tmp_path, "--status").stdout
    assert "train  partial" in status
    assert saved


@pytest.mark.full
def test_killed_at_random_moments_the_end_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    steps = {"one": mix_step(1), "train": train_step("one", 16), "check": check_step("one")}
    folders = {name: tmp_path / name for name in ("undisturbed", "killed")}
    for folder in folders.values():
        folder.mkdir()
        write_workflow(folder, steps)
    run = run_process(folders["undisturbed"])
    assert run.returncode == 0, run.stdout + run.stderr
    rng = random.Random(0)
    for _ in range(3):
        with started(folders["killed"] / "toy.yaml") as process:
            time.sleep(rng.uniform(3, 25))
            process.kill()
            process.communicate()
    run = run_process(folders["killed"])
    assert run.returncode == 0, run.stdout + run.stderr
    assert results(folders["killed"]) == results(folders["undisturbed"])


def results(folder: Path) -> dict[str, str]:
    """What a workflow leaves that matters, without the names that contain an identity."""
    (weights,) = (folder / "out" / "runs").glob("*/model.safetensors")
    (shards,) = (folder / "out" / "workflows" / "toy" / "one").glob("*/shards")
    assert set(records(folder)) == {"one", "train", "check"}
    found = {name: digest for name, digest in checksums(shards).items() if name.endswith(".tar")}
    # Without the header, in which safetensors writes the metadata in any order.
    content = weights.read_bytes()
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    return found | {"weights": hashlib.sha256(content[header_bytes:]).hexdigest()}


def checksums_below(folder: Path) -> dict[str, str]:
    return {str(path): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def environment(**variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return kept | variables


def run_process(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.run", str(folder / "toy.yaml"), *options]
    return subprocess.run(
        command, cwd=CHECKOUT, env=environment(**variables), capture_output=True, text=True, timeout=900
    )


def started(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.run", str(path)],
        cwd=CHECKOUT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(folder: Path, pattern: str, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := sorted(folder.glob(pattern))):
        assert time.monotonic() < deadline, f"nothing like {pattern} in {folder}"
        time.sleep(0.2)
    return found
