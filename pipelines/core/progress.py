"""Progress of long work: a bar or lines with the time left."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
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
        """Add work of an earlier run, which does not count towards this run's speed."""
        if self.disable:
            return
        self.initial += n
        self.update(n)

    @property
    def format_dict(self) -> dict[str, Any]:
        """tqdm's values, with those of `_LINE`."""
        values = dict(super().format_dict)
        speed = (self.n - self.initial) / max(values["elapsed"], 1e-9)
        hours = isinstance(self.total, float)
        return values | {
            "n": min(self.n, self.total or 0),  # a sum of floats may exceed the total by its rounding
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
