"""Seconds of every test, collected over several runs of pytest and summed per file.

python -m tests.suite_times               # writes the table of tests/README.md, from the last runs
python -m tests.suite_times make-test-all # prints the summary that ends `make test-all`
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

FOLDER = Path(__file__).parents[1] / "outputs" / "tests"
SUITES = ("make-test", "make-test-all")
# A file below this many seconds is part of its folder's row only.
_OWN_ROW_SECONDS = 10
_SLOWEST = 20
_START, _END = "<!-- table -->", "<!-- end of table -->"


class TestTimes:
    """A plugin of pytest that appends one JSON line per test, and one per run, to a file."""

    __test__ = False

    def __init__(self, path: Path) -> None:
        self._path, self._started = path, time.time()
        self._seconds, self._failed = defaultdict[str, float](float), set[str]()
        path.parent.mkdir(parents=True, exist_ok=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._seconds[report.nodeid] += 0
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        lines = [
            {"test": test, "seconds": round(seconds, 3), "failed": test in self._failed}
            for test, seconds in self._seconds.items()
        ]
        whole = {"wall_seconds": round(time.time() - self._started, 1)}
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in [*lines, whole])


def read_times(suite: str) -> tuple[dict[str, float], list[str], list[float]]:
    """Seconds by test, the tests that failed, and the wall seconds of each run of pytest."""
    path = FOLDER / f"{suite}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    tests = [line for line in lines if "test" in line]
    return (
        {line["test"]: line["seconds"] for line in tests},
        [line["test"] for line in tests if line["failed"]],
        [line["wall_seconds"] for line in lines if "wall_seconds" in line],
    )


def by_file(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by file, and by folder (which ends in a slash)."""
    found = defaultdict[str, float](float)
    for test, spent in seconds.items():
        file = PurePosixPath(test.partition("::")[0])
        found[str(file)] += spent
        found[f"{file.parent}/"] += spent
    return found


def table() -> str:
    """Markdown: a row per folder, and per file that takes long, with a column per suite."""
    columns = [by_file(read_times(suite)[0]) for suite in SUITES]
    rows = ["| | `make test` | `make test-all` |", "|---|---|---|"]
    for name in sorted(set().union(*columns)):
        spent = [column.get(name, 0) for column in columns]
        if name.endswith("/") or max(spent) >= _OWN_ROW_SECONDS:
            rows.append(
                "| "
                + " | ".join([f"`{name}`", *(f"{value:.0f}" if value else "–" for value in spent)])
                + " |"
            )
    walls = [", ".join(f"{wall:.0f}" for wall in read_times(suite)[2]) for suite in SUITES]
    return "\n".join([*rows, f"| seconds on the clock, of both runs of pytest | {walls[0]} | {walls[1]} |"])


def summary(suite: str) -> str:
    """The slowest tests and all failures of a suite, which is several runs of pytest."""
    seconds, failed, walls = read_times(suite)
    lines = [f"{spent:8.1f} s  {test}" for test, spent in Counter(seconds).most_common(_SLOWEST)]
    outcome = "\n".join(["failed:", *failed]) if failed else "none failed"
    total = f"{len(seconds)} tests in {' and '.join(f'{wall:.0f}' for wall in walls)} s, side by side"
    return "\n".join(["the slowest:", *lines, "", total, outcome])


def write_table() -> None:
    """Replace the table in tests/README.md, and what it was measured on."""
    path = Path(__file__).parent / "README.md"
    before, start, rest = path.read_text(encoding="utf-8").partition(_START)
    _, end, after = rest.partition(_END)
    machine = f"{datetime.now(UTC):%d %B %Y}, {os.cpu_count()} cores, {platform.machine()}"
    text = f"{before}{start}\n{machine}\n\n{table()}\n{end}{after}"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    print(summary(sys.argv[1])) if len(sys.argv) > 1 else write_table()
