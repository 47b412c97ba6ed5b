"""The script for a lent GPU runs end to end on a CPU, with `nano`; nothing is lost to a deadline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rwsa.kernels.layout import SequenceAxis
from rwsa.models import load_model
from rwsa.models.mamba import BiMamba
from tests.benchmarks.lease import __main__ as script
from tests.benchmarks.lease.results import Results, line
from tests.benchmarks.lease.straightforward import straightforward

CHECKOUT = Path(__file__).parents[2]


def lease(folder: Path, *, seconds: int, sections: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.benchmarks.lease", "--out", str(folder)]
    command += ["--seconds", str(seconds), "--sections", sections]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.returncode, json.loads((folder / "results.json").read_text())


@pytest.mark.full
def test_all_sections_run_on_a_cpu(tmp_path: Path) -> None:
    # With this much time none is killed on a busy machine; they end when they are done.
    status, results = lease(tmp_path, seconds=600, sections="check,tune,time")
    assert (status, list(results)) == (0, ["check", "tune", "time"])
    rows = [row for result in results.values() for row in result["rows"]]
    assert all(row["passed"] for row in rows)
    names = {row["name"] for row in rows if row["value"] is not None}
    assert {"nano, float32: gradients", "nano twice, float32", "bandwidth of a copy"} <= names
    report = (tmp_path / "report.txt").read_text()
    assert all(name in report for name in names)


@pytest.mark.full
def test_it_trains_stops_resumes_and_exports(tmp_path: Path) -> None:
    status, results = lease(tmp_path, seconds=600, sections="train")
    assert status == 0, results
    values = {row["name"]: row["value"] for row in results["train"]["rows"]}
    assert values["losses after both resumptions"] == 0
    assert values["steps missing in the curve"] == 0
    assert load_model(str(tmp_path / "weights.safetensors")).config.channels == 8


def test_a_section_is_killed_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_GRACE_S", 0.0)
    assert script.main(["--out", str(tmp_path), "--seconds", "0.5", "--sections", "check"]) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["check"]["ended"].startswith("killed after")
    assert "== check: killed after" in (tmp_path / "report.txt").read_text()


def test_every_measurement_is_in_the_file_at_once(tmp_path: Path) -> None:
    results, path = Results(tmp_path / "check.json", seconds=60), tmp_path / "check.json"
    assert results.measure("one", lambda: 1, "ms", predicted=2, most=3) == 1
    assert [row["passed"] for row in json.loads(path.read_text())] == [True]
    assert results.measure("error", lambda: 1 / 0, "ms") is None
    results.measure("beyond", lambda: 4, "ms", most=3)
    results.measure("late", lambda: 1, "ms", needs_seconds=61)
    rows = json.loads(path.read_text())
    assert [row["passed"] for row in rows] == [True, False, False, True]
    assert line(rows[0]) == "one: 1 ms (predicted 2)"
    assert line(rows[1]) == "error: ZeroDivisionError: division by zero FAILED"
    assert line(rows[2]) == "beyond: 4 ms FAILED, at most 3 allowed"


@pytest.mark.parametrize("axis", SequenceAxis)
def test_the_straightforward_network_has_the_same_values(axis: SequenceAxis) -> None:
    mixer, x = BiMamba(8, d_state=4, expand=2), torch.randn(2, 5, 7, 8)
    with straightforward():
        plain = mixer(x, axis)
    torch.testing.assert_close(plain, mixer(x, axis), rtol=1e-4, atol=1e-5)
