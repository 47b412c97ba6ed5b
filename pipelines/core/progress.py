"""Progress of long work: a bar or lines with the time left, and the line of a training step."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 5.0
_LINE = "{n:{digits}}/{total:{digits}} {what}, {speed}, {elapsed} elapsed, {remaining} left{postfix}"


class Progress(tqdm):
    """A bar where stderr is a terminal; else a line every five seconds and a last one.

    A context manager: `update(n)` counts work done, `set_postfix_str(text, refresh=False)` adds a note.
    """

    monitor_interval = 0  # no thread of its own

    def __init__(self, total: float, desc: str, unit: str, report: Callable[[str], None]) -> None:
        """Start counting.

        Args:
            total: all the work: a number of items, or hours as a float; nothing is shown of no work.
            desc: what is being done.
            unit: of `total`.
            report: receives the lines.
        """
        terminal = sys.stderr.isatty()
        self._report, self._what, self._reported = None if terminal else report, unit, 0.0
        super().__init__(
            total=total,
            desc=desc,
            file=sys.stderr if terminal else io.StringIO(),
            disable=not total,
            bar_format="{desc}: " + ("{percentage:3.0f}%|{bar}| " if terminal else "") + _LINE,
            mininterval=0.1 if terminal else _SECONDS_BETWEEN_LINES,
            miniters=0,
            smoothing=0,
            dynamic_ncols=terminal,
        )

    def reused(self, n: float) -> None:
        """Count work that an earlier run did, which says nothing about the speed of this one."""
        self.initial += n
        self.update(n)

    @property
    def format_dict(self) -> dict[str, Any]:
        """tqdm's values, with those of `_LINE`."""
        values = dict(super().format_dict)
        speed = (self.n - self.initial) / max(values["elapsed"], 1e-9)
        hours = isinstance(self.total, float)
        return values | {
            "digits": ".2f" if hours else "",
            "what": self._what,
            "speed": f"{60 * speed:.2f} {self._what}/min" if hours else f"{speed:.1f} {self._what}/s",
        }

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar, or report a line if there is something new."""
        if self._report is None:
            super().display(msg, pos)
        elif self.n > self._reported:
            self._reported = self.n
            self._report(str(self))


def tracked(items: Sequence[Item], desc: str, unit: str, report: Callable[[str], None]) -> Iterator[Item]:
    """Yield items one by one, with progress."""
    with Progress(len(items), desc, unit, report) as progress:
        for item in items:
            yield item
            progress.update()


def duration(seconds: float) -> str:
    """`04:07` or `1:02:03`."""
    return tqdm.format_interval(max(seconds, 0))


def progress_line(step: int, max_steps: int, values: Mapping[str, float]) -> str:
    """The line of a training step: losses, validation scores, speed, time left."""
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
