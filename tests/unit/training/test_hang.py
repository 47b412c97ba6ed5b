"""A rank that hangs is named and training ends; SIGTERM ends a process in time, whatever it does."""

from __future__ import annotations

import platform
import signal
import socket
import subprocess
import sys
import time

import pytest

from rwsa.training.hang import COMPUTING, HUNG, LOADING, HangWatch

RANK = """
import sys
from pathlib import Path
import torch
from torch import distributed
from rwsa.training.context import LocalContext
from rwsa.training.hang import COMPUTING, LOADING, HangWatch
rank, port = map(int, sys.argv[1:])
distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
distributed.all_reduce(torch.ones(1))
with HangWatch(3, LocalContext(Path(".")).report_hang, rank=rank) as watch:
    ready = False
    for step in range(10**9):
        watch.enter(LOADING, step)
        watch.enter(COMPUTING, step)
        distributed.all_reduce(torch.ones(1))
        if not ready and step >= 100 and watch._board.positions:
            ready = True
            print("ready", flush=True)
"""


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_named_and_the_other_ends(stopped: int) -> None:
    """Rank 0 serves the store through which ranks see each other; its hang must be found, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in ranks:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        ranks[stopped].send_signal(signal.SIGSTOP)
        _, errors = ranks[1 - stopped].communicate(timeout=60)
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert ranks[1 - stopped].returncode == HUNG
    report, end = (line for line in errors.splitlines() if line.startswith("training hangs: "))
    named = f"rank {stopped} (node {platform.node()}, process {ranks[stopped].pid}, step "
    for line in (report, end):
        assert named in line
        assert f"rank {1 - stopped} (" not in line
    assert report.endswith(" s more")
    assert end.endswith("the same command resumes from the last checkpoint")


def test_a_slow_step_is_no_hang() -> None:
    reports: list[str] = []
    with HangWatch(2, lambda text, ends: reports.append(text)) as watch:
        for step in range(5):
            watch.enter(LOADING, step)
            watch.enter(COMPUTING, step)
            time.sleep(0.1)
        assert watch.limits() == (pytest.approx(2, abs=0.3), pytest.approx(4, abs=0.6))
        watch.enter(LOADING, 5)
        time.sleep(0.8)
    assert reports == []


LOCAL = """
import sys, time
from rwsa.training.context import LocalContext
from rwsa.training.hang import LOADING, HangWatch
from pathlib import Path
with HangWatch(1, LocalContext(Path(".")).report_hang) as watch:
    for step in range(4):
        watch.enter(LOADING, step)
        watch.enter(2, step)
    watch.enter(LOADING, 7)
    time.sleep(60)
"""


def test_a_single_process_that_waits_for_data_ends_in_one_message() -> None:
    done = subprocess.run([sys.executable, "-c", LOCAL], capture_output=True, text=True, timeout=30)
    assert done.returncode == HUNG
    report, end = done.stderr.splitlines()
    for line in (report, end):
        assert line.startswith("training hangs: no progress for ")
        assert "step 7, waiting for data)" in line


# The main thread is in C code, so that Python cannot run a signal handler.
BUSY = """
import hashlib, sys
from rwsa.training.context import StopSignal
with StopSignal(grace_s=1):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_sigterm_ends_a_busy_process_within_its_grace() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.terminate()
    _, errors = child.communicate(timeout=10)
    assert child.returncode == 128 + signal.SIGTERM
    assert errors.count("\n") == 1
    assert "the last checkpoint is kept, and the same command resumes" in errors
