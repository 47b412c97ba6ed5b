"""A lent GPU in one call: checks all kernels, tunes the scan, times the step, trains and resumes.

    python -m tests.benchmarks.lease --out DIR --seconds 560 --sections check,tune,time,train

Neither Ray nor MLflow; torch, Triton and numba as they are, and the wheels of `WHEELS`. Each section is a
process with a deadline, a share of the time that is left; it is killed when that is over, and what it
measured stays. DIR/results.json and DIR/report.txt are replaced after each section, DIR/SECTION.json after
each measurement. The training data are `--shards FOLDER`, by default synthetic. Exits 1 where a measurement
failed or a section did not end well, 2 without the wheels. On a CPU all of it runs with `nano`, to test it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.lease.results import line, write_json

# Each section's share of the time, of which the rest is left to the later ones.
SECTIONS = {"check": 0.25, "tune": 0.2, "time": 0.25, "train": 0.3}
# Modules that must be there, and the wheels that hold them, with what those need.
WHEELS = {
    "cffi": "cffi pycparser",
    "fsspec": "fsspec",
    "numba": "numba llvmlite",
    "numpy": "numpy",
    "pydantic": "pydantic pydantic-core annotated-types typing-extensions typing-inspection",
    "safetensors": "safetensors",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "torch": "torch",
    "upath": "universal-pathlib pathlib-abc",
    "yaml": "pyyaml",
}
_GRACE_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    missing = [wheels for module, wheels in WHEELS.items() if find_spec(module) is None]
    if missing:
        print(f"missing; give this machine the wheels of: {' '.join(missing)}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    ends, results = time.monotonic() + arguments.seconds, dict[str, Any]()
    sections = [name for name in arguments.sections.split(",") if name]
    for number, name in enumerate(sections):
        shares = [SECTIONS[each] for each in sections[number:]]
        seconds = max(1.0, (ends - time.monotonic()) * shares[0] / sum(shares))
        print(f"== {name}: {seconds:.0f} s", flush=True)
        results[name] = _run(name, seconds, arguments)
        write_json(arguments.out / "results.json", results)
        _write_report(arguments.out / "report.txt", results)
    failed = [name for name, result in results.items() if not result["passed"]]
    print(f"failed: {', '.join(failed)}" if failed else "all sections passed")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=560)
    parser.add_argument("--sections", default=",".join(SECTIONS), type=_sections)
    parser.add_argument("--shards", type=Path, help="training data; default: synthetic")
    return parser


def _sections(text: str) -> str:
    unknown = [name for name in text.split(",") if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is no section; choose from {', '.join(SECTIONS)}")
    return text


def _run(name: str, seconds: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a section until its deadline; returns how it ended, and its rows."""
    path = arguments.out / f"{name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"tests.benchmarks.lease.{name}_section"]
    command += ["--out", str(arguments.out), "--seconds", f"{seconds:.1f}"]
    if arguments.shards is not None:
        command += ["--shards", str(arguments.shards)]
    started = time.monotonic()
    # A session of its own, so that nothing that it started is left.
    child = subprocess.Popen(command, start_new_session=True)
    try:
        ended = f"status {child.wait(seconds + _GRACE_S)}"
    except subprocess.TimeoutExpired:
        ended = f"killed after {seconds + _GRACE_S:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    rows = json.loads(path.read_text()) if path.is_file() else []
    passed = ended == "status 0" and all(row["passed"] for row in rows)
    return {"ended": ended, "passed": passed, "took_s": round(time.monotonic() - started, 1), "rows": rows}


def _write_report(path: Path, results: dict[str, Any]) -> None:
    lines = list[str]()
    for name, result in results.items():
        lines += [f"== {name}: {result['ended']}, {result['took_s']} s", *map(line, result["rows"])]
    temporary = path.with_suffix(".part")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
