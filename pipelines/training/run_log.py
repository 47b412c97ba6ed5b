"""Logging of a training run by rank 0: console lines; metrics, audio and system metrics in MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

from pipelines.core.progress import duration
from pipelines.core.tracking import TrackedRun
from pipelines.media.audio import common_gain, flac
from pipelines.training.config import TrainRunConfig
from pipelines.training.machine import machine_and_versions
from pipelines.training.system_metrics import SystemMetrics
from rwsa.config import as_mapping
from rwsa.files import is_remote, location
from rwsa.training.context import AudioSample

# Printed on the console only.
_NOT_TRACKED = {"eta_seconds"}
# MLflow's interface shows the metrics of a group together.
_GROUPS = {
    "speed": (
        "samples_per_second",
        "audio_seconds_per_second",
        "data_wait_share",
        "pesq_wait_share",
        "validation_seconds",
        "checkpoint_seconds",
        "audio_seconds",
    ),
    "optimiser": ("learning_rate", "gradient_norm"),
    "data": ("replaced_samples", "pesq_refused_share"),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


def tracked_name(name: str) -> str:
    """MLflow's name of a metric of the loop: `loss/total`, `valid/si_sdr`, `speed/samples_per_second`, …"""
    if name.startswith("valid_"):
        return f"valid/{name.removeprefix('valid_')}"
    if name.startswith("shared_share_"):
        return f"attention/{name}"
    return f"{_GROUP_OF.get(name, 'loss')}/{name}"


class RunLog:
    """A `rwsa.training.context.TrainLogger`. Use as a context manager, which records system metrics."""

    def __init__(self, config: TrainRunConfig, run: TrackedRun, commit: str, *, machine: bool = True) -> None:
        """Prepare the log.

        Args:
            config: of the run.
            run: in MLflow.
            commit: from the driver, since workers may run a copy of the checkout.
            machine: record system metrics; False where other runs share the machine.
        """
        self._config, self._run, self._commit = config, run, commit
        remote = is_remote(location(config.data.shards or config.storage.root))
        system = SystemMetrics(run.log_metrics, network=remote or is_remote(location(config.storage.root)))
        self._system_metrics: AbstractContextManager[Any] = system if machine else nullcontext()

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Print a line and log the metrics of a step."""
        print(progress_line(step, self._config.max_steps, values), flush=True)
        tracked = {name: value for name, value in values.items() if name not in _NOT_TRACKED}
        self._run.log_metrics(step, {tracked_name(name): value for name, value in tracked.items()})

    def log_audio(self, step: int, samples: Sequence[AudioSample]) -> None:
        """Log noisy, enhanced and clean clips as FLAC, and their spectrograms side by side."""
        # Imported here: the drawing library takes a second, and most processes that import this draw nothing.
        from pipelines.media.figures import new_figure, png
        from pipelines.media.spectrograms import draw_spectrograms

        for sample in samples:
            signals = {"noisy": sample.noisy, "enhanced": sample.enhanced, "clean": sample.clean}
            figure = new_figure(height_inches=3.3)
            draw_spectrograms(figure, signals, sample.sample_rate_hz)
            self._run.log_image(f"validation-{sample.example_id}", step, png(figure))
            gain = common_gain(signals.values())
            files = {
                f"{name}.flac": flac(wav, sample.sample_rate_hz, gain=gain) for name, wav in signals.items()
            }
            self._run.log_contents(files, f"validation/step-{step:06d}/{sample.example_id}")

    def __enter__(self) -> Self:
        self._system_metrics.__enter__()
        # A resumed run has several starts, which may differ in commit, machine and configuration.
        start = {
            "commit": self._commit,
            "environment": machine_and_versions(),
            "config": as_mapping(self._config),
        }
        name = time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
        self._run.log_contents({name: json.dumps(start, indent=2).encode()}, "starts")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._system_metrics.__exit__(kind, error, trace)


def progress_line(step: int, max_steps: int, values: Mapping[str, float]) -> str:
    """Console line of a step: losses, validation scores, speed and time left."""
    parts = [f"step {step:>{len(str(max_steps))}}/{max_steps}"]
    if "total" in values:
        parts.append(f"loss {values['total']:.4f}")
        parts += [f"{name} {values[name]:.3f}" for name in ("magnitude", "phase", "metric") if name in values]
    parts += [_validation(name, value) for name, value in values.items() if _is_shown(name, value)]
    if "samples_per_second" in values:
        parts.append(f"{values['samples_per_second']:.1f} segments/s")
        parts.append(f"{values['audio_seconds_per_second']:.1f} s audio/s")
        parts.append(f"waiting {values['data_wait_share']:.1%}")
        parts.append(f"left {duration(values['eta_seconds'])}")
    if values.get("replaced_samples"):
        parts.append(f"{values['replaced_samples']:.0f} samples missing and replaced")
    return " · ".join(parts)


def _is_shown(name: str, value: float) -> bool:
    """Whether to show a value of validation; counts of failed and missing clips only if there are any."""
    counts_trouble = name.endswith("_failed") or name == "valid_missing"
    return name.startswith("valid_") and not (counts_trouble and value == 0)


def _validation(name: str, value: float) -> str:
    counts = name.endswith(("_failed", "_missing", "_clips"))
    return f"{name} {value:.0f}" if counts else f"{name} {value:.3f}"
