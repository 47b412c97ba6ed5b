"""Rendering under kill -9 of the whole run, and of a worker: complete, and the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipelines.mix_shards import main
from pipelines.mixing.shard_jobs import _make_job
from tests.toy_corpus import checksums, write_corpus

pytestmark = pytest.mark.full
CHECKOUT = Path(__file__).parents[2]
SHARDS, DEADLINE_SECONDS = 48, 300
# On Ray every start costs as many seconds as all shards do.
KILLS = {"0": 3, "2": 2}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a run of many shards, each of which takes a moment."""
    corpus = tmp_path_factory.mktemp("corpus") / "corpus"
    write_corpus(corpus)
    settings = [f"examples.train={4 * SHARDS}", "seconds=8", "sample_rate_hz=8000"]
    return [
        *("--card", str(corpus / "card.yaml"), "--recipe", str(corpus / "recipe.yaml")),
        *("--splits", "train", "--shard-examples", "4", "--set", *settings),
    ]


@pytest.fixture(scope="module")
def undisturbed(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the files of an undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert main([*arguments, "--out", str(out), "--workers", "0"]) == 0
    return checksums(out)


def surroundings(workers: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a run in a process of its own, which joins this process's Ray if it has workers."""
    joined = {}
    if workers != "0":
        # One Ray outlives the runs; its workers end with the run whose they are.
        joined = {"RAY_ADDRESS": request.getfixturevalue("ray_address"), "RWSA_SHARED_CHECKOUT": "1"}
    # Looked at last: starting Ray adds to it.
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), **joined}


def entries(out: Path) -> int:
    return len(list(out.glob("train-*.json")))


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"waited {DEADLINE_SECONDS} s until {what}"
        time.sleep(0.002)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a thread; what it raises is raised when the block ends."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]


def rendering(below: int) -> list[int]:
    """Workers below a process that are at a shard now, by the title that Ray gives them."""
    parents, titles = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal():
                # `pid (name) state parent …`, where the name may hold anything.
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(folder.name)] = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue

    def descends(process: int) -> bool:
        return process == below or (process in parents and descends(parents[process]))

    return [
        pid
        for pid, title in titles.items()
        if title.startswith(f"ray::{_make_job.__name__}") and descends(pid)
    ]


def kill_first(processes: list[int]) -> bool:
    for process in processes[:1]:
        os.kill(process, signal.SIGKILL)
    return bool(processes)


def kill_in_mid_run(
    command: list[str], out: Path, environment: dict[str, str], rng: np.random.Generator
) -> None:
    """Start a run and kill its process group at a random moment after some new shards."""
    wanted = entries(out) + int(rng.integers(1, 4))
    process = subprocess.Popen(
        command, cwd=out.parent, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(lambda: entries(out) >= wanted or process.poll() is not None, f"{wanted} shards are made")
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_runs_are_completed_to_the_same_bytes(
    arguments: list[str],
    undisturbed: dict[str, str],
    tmp_path: Path,
    workers: str,
    request: pytest.FixtureRequest,
) -> None:
    environment = surroundings(workers, request)
    out, rng = tmp_path / "killed", np.random.default_rng(0)
    command = [
        sys.executable,
        "-m",
        "pipelines.mix_shards",
        *arguments,
        "--out",
        str(out),
        "--workers",
        workers,
    ]
    for _ in range(KILLS[workers]):
        kill_in_mid_run(command, out, environment, rng)
        assert not (out / "index.json").exists()
    assert KILLS[workers] <= entries(out) < SHARDS
    assert main(command[3:]) == 0
    assert checksums(out) == undisturbed


@pytest.mark.usefixtures("ray_address")
def test_a_killed_worker_is_replaced(
    arguments: list[str], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def kill_one() -> None:
        wait_until(lambda: entries(out) >= 3, "three shards are made")
        wait_until(lambda: kill_first(rendering(os.getpid())), "a worker is at work")
        assert entries(out) < SHARDS

    with meanwhile(kill_one):
        assert main([*arguments, "--out", str(out), "--workers", "2"]) == 0
    assert checksums(out) == undisturbed


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_interrupt_stops_cleanly(
    arguments: list[str],
    undisturbed: dict[str, str],
    tmp_path: Path,
    workers: str,
    request: pytest.FixtureRequest,
) -> None:
    environment = surroundings(workers, request)
    out = tmp_path / "stopped"
    command = [
        sys.executable,
        "-m",
        "pipelines.mix_shards",
        *arguments,
        "--out",
        str(out),
        "--workers",
        workers,
    ]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: entries(out) >= 3 or process.poll() is not None, "three shards are made")
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=200)
    assert process.returncode == 130, output
    assert output.endswith("interrupted; run the same command again to resume\n")
    assert 3 <= entries(out) < SHARDS
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert main(command[3:]) == 0
    assert checksums(out) == undisturbed
