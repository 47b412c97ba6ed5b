"""Progress lines, for people."""

from __future__ import annotations

import time
from collections.abc import Mapping

_SECONDS_BETWEEN_LINES = 5.0


def progress_line(step: int, max_steps: int, values: Mapping[str, float]) -> str:
    """One line: the step, then what is known of it."""
    parts = [f"step {step:>{len(str(max_steps))}}/{max_steps}"]
    if "total" in values:
        parts.append(f"loss {values['total']:.4f}")
        parts += [f"{name} {values[name]:.3f}" for name in ("magnitude", "phase", "metric") if name in values]
    parts += [_validation(name, value) for name, value in values.items() if _is_news(name, value)]
    if "samples_per_second" in values:
        parts.append(f"{values['samples_per_second']:.1f} segments/s")
        parts.append(f"{values['audio_seconds_per_second']:.1f} s audio/s")
        parts.append(f"waiting {values['data_wait_share']:.1%}")
        parts.append(f"left {duration(values['eta_seconds'])}")
    if values.get("replaced_samples"):
        parts.append(f"{values['replaced_samples']:.0f} samples missing and replaced")
    return " · ".join(parts)


def _is_news(name: str, value: float) -> bool:
    """A figure of validation; that nothing failed and nothing was missing is none."""
    counts_trouble = name.endswith("_failed") or name == "valid_missing"
    return name.startswith("valid_") and not (counts_trouble and value == 0)


def _validation(name: str, value: float) -> str:
    counts = name.endswith(("_failed", "_missing", "_clips"))
    return f"{name} {value:.0f}" if counts else f"{name} {value:.3f}"


class Ticker:
    """Says when the next progress line of long work is due."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether five seconds have gone by since it last was."""
        now = time.monotonic()
        due = now - self._last >= _SECONDS_BETWEEN_LINES
        if due:
            self._last = now
        return due


def duration(seconds: float) -> str:
    """`4:07` or `1:02:03`."""
    text = time.strftime("%H:%M:%S", time.gmtime(max(seconds, 0)))
    hours = int(seconds) // 3600
    return f"{hours}:{text[3:]}" if hours else text[3:].lstrip("0").rjust(4, "0")
