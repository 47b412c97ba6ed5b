"""A short run of training: fitted to the time left, stopped by SIGTERM, resumed, validated, exported."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rwsa.config import as_mapping, build, merge
from rwsa.errors import PreemptedError
from rwsa.models import SIZES, load_model
from rwsa.training.config import TrainConfig
from rwsa.training.context import AudioSample, LocalContext, StopSignal
from rwsa.training.loop import fit
from rwsa.training.state import published_weights
from tests.benchmarks.lease.machine import Section, start
from tests.training_runs import write_nano_shards

# Shares of the time that is left: training, of that until SIGTERM, and the steps that are repeated.
_TRAINING, _UNTIL_STOP, _REPEATED = 0.5, 0.6, 2
PREEMPTED = 143


def main() -> int:
    if "--run" in sys.argv:
        return _train(Path(sys.argv[sys.argv.index("--run") + 1]))
    section = start("train")
    results, runs = section.results, section.out / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    if section.shards is None:
        write_nano_shards(section.out / "shards")
    results.measure("calibrate: 4 steps and a validation", lambda: _run(section, "calibrate", 4), "s")
    seconds = _seconds_per_step(runs / "calibrate")
    steps = max(10, int(_TRAINING * section.results.seconds_left / seconds))
    if not section.on_gpu:
        steps = 10  # enough to test the script
    results.note("plan", f"{steps} steps of {seconds:.3f} s")
    results.measure("SIGTERM until the process ended", lambda: _stopped(section, steps), "s", most=60)
    stopped_at = max(_curve(runs / "main"), default=0)
    shutil.copytree(runs / "main", runs / "repeated")
    results.measure("resume until the end", lambda: _run(section, "main", steps), "s")
    repeated = min(stopped_at + _REPEATED, steps)
    results.measure("resume again", lambda: _run(section, "repeated", repeated), "s")

    def difference() -> float:
        once, again = _curve(runs / "main"), _curve(runs / "repeated")
        after = range(stopped_at + 1, repeated + 1)
        return max(abs(once[s]["total"] - again[s]["total"]) / abs(once[s]["total"]) for s in after)

    # On a CPU the same bits; on a GPU gradients are added in any order.
    most = 0.05 if section.on_gpu else 0.0
    results.measure("losses after both resumptions", difference, "relative difference", most=most)
    results.measure("steps missing in the curve", lambda: _missing(runs / "main", steps), "steps", most=0)
    results.measure(
        "loss, last tenth over first",
        lambda: _progress(runs / "main"),
        "ratio",
        most=1.0 if section.on_gpu else None,
    )
    results.measure("validation, SI-SDR", lambda: _curve(runs / "main")[steps]["valid_si_sdr"], "dB")
    results.measure("export of weights and curve", lambda: _export(section, steps), "MB")
    return 1 if results.failed else 0


def _config(section_size: str, shards: Path, steps: int) -> TrainConfig:
    small = section_size == "nano"
    values: dict[str, Any] = {
        "name": "lease",
        "model": as_mapping(SIZES[section_size]),
        "data": {"shards": str(shards)},
        "loss_weights": {"metric": 0},
        "global_batch_size": 2 if small else 8,
        "max_steps": steps,
        "best_metric": "si_sdr",
        "checkpoint_every_steps": steps,
        "log_every_steps": 1,
        "audio_clips": 0,
        "optimiser": {"max_gradient_norm": 5.0},
    }
    return build(TrainConfig, merge(values, {} if small else {"precision": "bfloat16"}), where="lease")


class CurveLogger:
    """Appends every step's values to `curve.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "curve.jsonl"

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def log_audio(self, step: int, samples: Sequence[AudioSample]) -> None:
        """Nothing: no clips are asked for."""


def _train(folder: Path) -> int:
    """Train in this process as `folder/plan.json` says; status 143 if stopped by SIGTERM."""
    plan = json.loads((folder / "plan.json").read_text())
    with StopSignal(grace_s=55) as stop:
        context = LocalContext(folder, CurveLogger(folder), device=torch.device(plan["device"]), stop=stop)
        if context.device.type == "cpu":
            torch.set_num_threads(1)
        try:
            fit(_config(plan["size"], Path(plan["shards"]), plan["steps"]), context)
        except PreemptedError:
            return PREEMPTED
    return 0


def _start(section: Section, name: str, steps: int) -> subprocess.Popen[bytes]:
    folder = section.out / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    shards = section.shards or section.out / "shards"
    plan = {"size": section.size, "shards": str(shards), "steps": steps, "device": section.device.type}
    (folder / "plan.json").write_text(json.dumps(plan))
    return subprocess.Popen([sys.executable, "-m", __spec__.name, "--run", str(folder)])


def _run(section: Section, name: str, steps: int) -> float:
    started = time.monotonic()
    status = _start(section, name, steps).wait(timeout=max(1.0, section.results.seconds_left))
    if status:
        raise RuntimeError(f"the run {name} ended with status {status}")
    return time.monotonic() - started


def _stopped(section: Section, steps: int) -> float:
    """Send SIGTERM at 60% of the steps; seconds until the process ended by it."""
    process, folder = _start(section, "main", steps), section.out / "runs" / "main"
    while max(_curve(folder), default=0) < _UNTIL_STOP * steps:
        if process.poll() is not None:
            raise RuntimeError(f"ended with status {process.returncode} before it was stopped")
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    if process.wait(timeout=60) != PREEMPTED:
        raise RuntimeError(f"ended with status {process.returncode}, not {PREEMPTED}")
    return time.monotonic() - sent


def _curve(folder: Path) -> dict[int, dict[str, float]]:
    """Values by step; the last line may be incomplete."""
    path, curve = folder / "curve.jsonl", dict[int, dict[str, float]]()
    for text in path.read_text().splitlines(keepends=True) if path.is_file() else ():
        if text.endswith("\n"):
            values = json.loads(text)
            curve.setdefault(int(values.pop("step")), {}).update(values)
    return curve


def _seconds_per_step(folder: Path) -> float:
    """Of the last steps, since the first compile kernels."""
    rates = [v["samples_per_second"] for _, v in sorted(_curve(folder).items()) if "samples_per_second" in v]
    config = json.loads((folder / "plan.json").read_text())
    return (2 if config["size"] == "nano" else 8) / rates[-1]


def _missing(folder: Path, steps: int) -> int:
    return steps - len([values for values in _curve(folder).values() if "total" in values])


def _progress(folder: Path) -> float:
    losses = [values["total"] for _, values in sorted(_curve(folder).items()) if "total" in values]
    tenth = max(1, len(losses) // 10)
    return sum(losses[-tenth:]) / sum(losses[:tenth])


def _export(section: Section, steps: int) -> float:
    """Copy weights and curve to the output folder; megabytes of the weights."""
    folder, target = section.out / "runs" / "main", section.out / "weights.safetensors"
    shutil.copyfile(published_weights(folder / "checkpoints" / f"step-{steps:06d}"), target)
    shutil.copyfile(folder / "curve.jsonl", section.out / "curve.jsonl")
    load_model(str(target))
    return target.stat().st_size / 1e6


if __name__ == "__main__":
    sys.exit(main())
