"""What rank 0 tells of a training run: lines for people; to MLflow figures, audio, the machine."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from pipelines.core.progress import progress_line
from pipelines.core.tracking import TrackedRun
from pipelines.media.audio import common_gain, flac
from pipelines.media.figures import new_figure, png
from pipelines.media.spectrograms import draw_spectrograms
from pipelines.training.config import TrainRunConfig
from pipelines.training.environment import environment
from pipelines.training.system_metrics import SystemMetrics
from rwsa.config import as_mapping
from rwsa.training.context import HeardClip

# For people at the terminal alone.
_NOT_TRACKED = {"eta_seconds"}
# MLflow's interface shows the figures of a group together.
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
    """What MLflow calls a figure of the loop: `loss/total`, `valid/si_sdr`, `speed/samples_per_second`, …"""
    if name.startswith("valid_"):
        return f"valid/{name.removeprefix('valid_')}"
    if name.startswith("shared_share_"):
        return f"attention/{name}"
    return f"{_GROUP_OF.get(name, 'loss')}/{name}"


class RunLog:
    """Takes what the training loop gives. Use as a context manager: meanwhile the machine is watched."""

    def __init__(self, config: TrainRunConfig, run: TrackedRun, commit: str) -> None:
        """`commit` as the driver knows it: workers may run a copy of the checkout."""
        self._config, self._run, self._commit = config, run, commit
        self._machine = SystemMetrics(run.log)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Print a line and record the figures of a step."""
        print(progress_line(step, self._config.max_steps, values), flush=True)
        kept = {name: value for name, value in values.items() if name not in _NOT_TRACKED}
        self._run.log(step, {tracked_name(name): value for name, value in kept.items()})

    def audio(self, step: int, clips: Sequence[HeardClip]) -> None:
        """Record clips: noisy, enhanced and clean as FLAC, and their spectrograms side by side."""
        for clip in clips:
            signals = {"noisy": clip.noisy, "enhanced": clip.enhanced, "clean": clip.clean}
            figure = new_figure(height_inches=3.3)
            draw_spectrograms(figure, signals, clip.sample_rate_hz)
            self._run.image(f"validation-{clip.example_id}", step, png(figure))
            gain = common_gain(signals.values())
            files = {
                f"{name}.flac": flac(wav, clip.sample_rate_hz, gain=gain) for name, wav in signals.items()
            }
            self._run.contents(files, f"validation/step-{step:06d}/{clip.example_id}")

    def __enter__(self) -> Self:
        self._machine.__enter__()
        self._run.contents(self._start(), "starts")
        return self

    def _start(self) -> dict[str, bytes]:
        """What this start ran with and where; a resumed run has several, and may differ between them."""
        start = {"commit": self._commit, "environment": environment(), "config": as_mapping(self._config)}
        name = time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
        return {name: json.dumps(start, indent=2).encode()}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._machine.__exit__(kind, error, trace)
