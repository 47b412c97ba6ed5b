"""When each step of a workflow ran: a bar per attempt on an axis of wall-clock time, drawn as SVG.

Time in which nothing ran is cut out of the axis.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipelines.reports.page import SVG_NAMESPACE, fill_template
from pipelines.reports.workflow_steps import STATES, PageStep, short_duration

_WIDTH, _LEFT_MAX, _RIGHT, _ROW, _TOP, _BREAK = 1150, 270, 92, 19, 40, 34
_LETTER = 7.1  # pixels, on average
# Shorter pauses stay on the axis.
_SHORTEST_CUT_SECONDS, _SHORTEST_CUT_SHARE = 5.0, 0.08
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_PIXELS_BETWEEN_TICKS = 84


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A stretch of time on the axis: `seconds` from `start`, drawn from `x` on."""

    start: float
    end: float
    x: float


@dataclass(frozen=True, kw_only=True)
class _Axis:
    pieces: Sequence[_Piece]
    pixels_a_second: float

    def x(self, at: float) -> float:
        piece = next((one for one in self.pieces if at <= one.end), self.pieces[-1])
        return piece.x + (min(max(at, piece.start), piece.end) - piece.start) * self.pixels_a_second


def timeline_svg(steps: Sequence[PageStep], *, now: float, links: bool = True) -> str:
    """The timeline of the steps that ran, first started first; empty if none did."""
    ran = sorted((step for step in steps if step.attempts), key=lambda step: step.attempts[0].started)
    if not ran:
        return ""
    longest = max(len(step.name) for step in ran)
    left = min(_LEFT_MAX, 20 + round(_LETTER * longest))
    letters = int((left - 14) / _LETTER)
    axis = _axis([_span(one.started, one.ended, now) for step in ran for one in step.attempts], left)
    height = _TOP + _ROW * len(ran) + 6
    rows = [
        {
            "step": step,
            "name": step.name if len(step.name) <= letters else f"{step.name[: letters - 1]}…",
            "y": _TOP + _ROW * at,
            "took": short_duration(sum(end - start for start, end in _spans(step, now))),
            "bars": list(_bars(step, axis, now)),
        }
        for at, step in enumerate(ran)
    ]
    return fill_template(
        "workflow_timeline.svg", rows=rows, ticks=list(_ticks(axis)), breaks=list(_breaks(axis)),
        width=_WIDTH, height=height, left=left, top=_TOP, right=_WIDTH - _RIGHT, row_height=_ROW - 6,
        links=links, xmlns=SVG_NAMESPACE, alt=f"timeline of {len(ran)} steps",
    )  # fmt: skip


def busy_spans(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The times at which something ran, merged over short pauses."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    busy = sum(end - start for start, end in merged)
    longest_pause = max(_SHORTEST_CUT_SECONDS, _SHORTEST_CUT_SHARE * busy)
    joined = merged[:1]
    for start, end in merged[1:]:
        if start - joined[-1][1] <= longest_pause:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _span(started: float, ended: float | None, now: float) -> tuple[float, float]:
    return started, max(started, now if ended is None else ended)


def _spans(step: PageStep, now: float) -> list[tuple[float, float]]:
    return [_span(one.started, one.ended, now) for one in step.attempts]


def _axis(spans: Sequence[tuple[float, float]], left: float) -> _Axis:
    busy = busy_spans(spans)
    room = _WIDTH - _RIGHT - left - _BREAK * (len(busy) - 1)
    total = sum(end - start for start, end in busy)
    scale = max(room, 200.0) / max(total, 1e-3)
    pieces, x = [], float(left)
    for start, end in busy:
        pieces.append(_Piece(start=start, end=end, x=x))
        x += (end - start) * scale + _BREAK
    return _Axis(pieces=pieces, pixels_a_second=scale)


def _bars(step: PageStep, axis: _Axis, now: float) -> Iterator[dict[str, object]]:
    for one, (start, end) in zip(step.attempts, _spans(step, now), strict=True):
        x = axis.x(start)
        style = STATES[one.result]
        yield {
            "x": round(x, 1),
            "width": round(max(axis.x(end) - x, 2.0), 1),
            "colour": style.colour,
            "title": f"{step.name}: {one.result}, {_clock(start, seconds=True)} to"
            f" {_clock(end, seconds=True)} UTC, {short_duration(end - start)}",
        }


def _ticks(axis: _Axis) -> Iterator[tuple[float, str]]:
    """(x, label) at round times of day; the first of each further day has the date."""
    seconds = _PIXELS_BETWEEN_TICKS / axis.pixels_a_second
    step = next((one for one in _TICKS if one >= seconds), 86400 * math.ceil(seconds / 86400))
    last_x, last_day = -math.inf, time.gmtime(axis.pieces[0].start).tm_yday
    for piece in axis.pieces:
        at = math.ceil(piece.start / step) * step
        while at <= piece.end:
            x = axis.x(at)
            if x - last_x >= _PIXELS_BETWEEN_TICKS * 0.8:
                day = time.gmtime(at).tm_yday
                date = "" if day == last_day else f"{time.strftime('%d %b', time.gmtime(at)).lstrip('0')} "
                yield round(x, 1), date + _clock(at, seconds=step < 60)
                last_x, last_day = x, day
            at += step


def _breaks(axis: _Axis) -> Iterator[tuple[float, str]]:
    """(x of the middle, how long nothing ran) of each cut."""
    for one, following in pairwise(axis.pieces):
        yield round(following.x - _BREAK / 2, 1), short_duration(following.start - one.end)


def _clock(at: float, *, seconds: bool) -> str:
    return time.strftime("%H:%M:%S" if seconds else "%H:%M", time.gmtime(at))


def period(steps: Sequence[PageStep], now: float) -> str:
    """`27 November 2026, 23:11 to 23:40 UTC` of all attempts; empty if there is none."""
    spans = [span for step in steps for span in _spans(step, now)]
    if not spans:
        return ""
    first, last = time.gmtime(min(spans)[0]), time.gmtime(max(end for _, end in spans))
    begin = f"{first.tm_mday} {time.strftime('%B %Y, %H:%M', first)}"
    same_day = first[:3] == last[:3]
    end = (
        time.strftime("%H:%M", last) if same_day else f"{last.tm_mday} {time.strftime('%B %Y, %H:%M', last)}"
    )
    return f"{begin} to {end} UTC"
