"""The graph of a workflow: one box per step of the file, its instances inside, drawn as SVG.

Rows are the layers of the graph. Edges that others imply are left out; one that passes a row has a lane in
it.
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.reports.page import SVG_NAMESPACE, fill_template
from pipelines.reports.workflow_steps import PageStep, counted, short_duration

_WIDTH, _MARGIN, _GAP, _ROW_GAP, _LANE = 1150, 2, 26, 40, 10
_LETTER, _SMALL_LETTER = 8.9, 7.1  # pixels, on average
_HEAD, _CHIP_HEIGHT, _CHIP_GAP, _PADDING = 44, 20, 4, 10
_BOX_WIDTH = range(132, 350)
_MOST_STATES = 5  # that a box counts one by one
_WIDEST_TEXT = 470
_LONGEST_LABEL = 18
_MOST_LABELLED = 80  # instances of a step; of more, only marks are drawn
_SWEEPS = 6


@dataclass(frozen=True, kw_only=True)
class Chip:
    """An instance within a box, at `x`, `y` from the box's corner."""

    step: PageStep
    label: str
    x: float
    y: float
    width: float


@dataclass(kw_only=True)
class Box:
    """A step of the file, or a lane of an edge (no steps)."""

    base: str
    steps: Sequence[PageStep] = ()
    width: float = _LANE
    height: float = 0.0
    chips: list[Chip] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0

    @property
    def centre(self) -> float:
        return self.x + self.width / 2

    @property
    def state(self) -> str:
        """The state of the step, or the first in the order of `STATES` of its instances."""
        return next(iter(counted([step.state for step in self.steps])))

    @property
    def title(self) -> str:
        more = f" × {len(self.steps)}" if self.chips else ""
        return f"{_cut(self.base, int((_BOX_WIDTH[-1] - 60) / _LETTER))}{more}"

    @property
    def text(self) -> str:
        """The line below the title: states and the time."""
        took = sum(step.seconds or 0.0 for step in self.steps)
        counts = counted([step.state for step in self.steps])
        if len(self.steps) == 1:
            words = next(iter(counts))
        elif counts.keys() == {"done"}:
            words = "all done"
        else:
            listed = [f"{count} {state}" for state, count in counts.items()]
            rest = sum(list(counts.values())[_MOST_STATES:])  # the chips have all
            words = ", ".join(listed[:_MOST_STATES] + ([f"{rest} other"] if rest else []))
        return f"{words} · {short_duration(took)}" if took else words


def graph_svg(steps: Sequence[PageStep], *, links: bool = True) -> str:
    """The graph as SVG, light or dark as its page; `links` lead to the rows of the page's table."""
    boxes, rows, edges = laid_out(steps)
    width = max(box.x + box.width for row in rows for box in row) + _MARGIN
    height = max(box.y + box.height for box in boxes) + _MARGIN
    counts = counted([step.state for step in steps])
    alt = f"graph of {len(boxes)} steps: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    return fill_template(
        "workflow_graph.svg", boxes=boxes, edges=edges, width=round(width), height=round(height), alt=alt,
        links=links, chip_height=_CHIP_HEIGHT, xmlns=SVG_NAMESPACE,
    )  # fmt: skip


def laid_out(steps: Sequence[PageStep]) -> tuple[list[Box], list[list[Box]], list[tuple[str, str]]]:
    """The boxes, the rows with boxes and lanes, and the edges as SVG paths: a line and its head."""
    groups: dict[str, list[PageStep]] = {}
    for step in steps:
        groups.setdefault(step.base, []).append(step)
    base_of = {step.name: step.base for step in steps}
    needs = {
        base: {base_of[need] for step in group for need in step.needs if need in base_of} - {base}
        for base, group in groups.items()
    }
    needs = without_implied(needs)
    boxes = {base: _box(base, group) for base, group in groups.items()}
    row_of = _rows(needs, boxes)
    rows: list[list[Box]] = [[] for _ in range(max(row_of.values()) + 1)]
    for base, row in row_of.items():
        rows[row].append(boxes[base])
    chains = [
        _chain(boxes[need], boxes[base], row_of, rows) for base in needs for need in sorted(needs[base])
    ]
    _untangle(rows, chains)
    _place(rows)
    return list(boxes.values()), rows, [(_path(chain, rows), _head(chain[-1])) for chain in chains]


def without_implied(needs: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The needs without those that another need implies (the transitive reduction)."""
    above: dict[str, set[str]] = {}
    for name in graphlib.TopologicalSorter(needs).static_order():
        above[name] = set(needs[name]).union(*(above[need] for need in needs[name]))
    return {
        name: {need for need in direct if not any(need in above[other] for other in direct)}
        for name, direct in needs.items()
    }


def _box(base: str, steps: Sequence[PageStep]) -> Box:
    box = Box(base=base, steps=steps)
    grouped = len(steps) > 1 or steps[0].name != base
    wanted, height = 0.0, float(_HEAD)
    if grouped:
        labelled = len(steps) <= _MOST_LABELLED
        labels = [_cut(step.instance, _LONGEST_LABEL) if labelled else "" for step in steps]
        chip = 22 + _SMALL_LETTER * max(map(len, labels))
        inner = _BOX_WIDTH[-1] - 2 * _PADDING
        columns = max(1, min(len(steps), int((inner + _CHIP_GAP) / (chip + _CHIP_GAP))))
        # Columns of equal height.
        columns = -(-len(steps) // -(-len(steps) // columns))
        wanted = columns * (chip + _CHIP_GAP) - _CHIP_GAP + 2 * _PADDING
        for number, (step, label) in enumerate(zip(steps, labels, strict=True)):
            x = _PADDING + number % columns * (chip + _CHIP_GAP)
            y = _HEAD + number // columns * (_CHIP_HEIGHT + _CHIP_GAP)
            box.chips.append(Chip(step=step, label=label, x=x, y=y, width=chip))
        height = box.chips[-1].y + _CHIP_HEIGHT + _PADDING
    texts = (46 + _LETTER * len(box.title), 28 + _SMALL_LETTER * len(box.text))
    box.width = max(wanted, _BOX_WIDTH[0], min(max(texts), _WIDEST_TEXT))
    box.height = height
    return box


def _rows(needs: Mapping[str, set[str]], boxes: Mapping[str, Box]) -> dict[str, int]:
    """The row of each box: below all that it needs, and no row wider than the page."""
    row_of: dict[str, int] = {}
    widths: dict[int, float] = {}
    sorter = graphlib.TopologicalSorter(needs)
    sorter.prepare()
    while layer := sorter.get_ready():
        for base in sorted(layer, key=list(boxes).index):
            row = max((row_of[need] + 1 for need in needs[base]), default=0)
            while widths.get(row, 0.0) and widths[row] + boxes[base].width + _GAP > _WIDTH:
                row += 1
            row_of[base] = row
            widths[row] = widths.get(row, 0.0) + boxes[base].width + _GAP
        sorter.done(*layer)
    return row_of


def _chain(upper: Box, lower: Box, row_of: Mapping[str, int], rows: list[list[Box]]) -> list[Box]:
    """The boxes of an edge, with a lane in each row that it passes."""
    lanes = []
    for row in range(row_of[upper.base] + 1, row_of[lower.base]):
        lanes.append(Box(base=""))
        rows[row].append(lanes[-1])
    return [upper, *lanes, lower]


def _untangle(rows: list[list[Box]], chains: Sequence[Sequence[Box]]) -> None:
    """Sort each row by where its neighbours stand, so that few edges cross (the barycentre heuristic)."""
    upper: dict[int, list[Box]] = {}
    lower: dict[int, list[Box]] = {}
    for chain in chains:
        for above, below in itertools.pairwise(chain):
            upper.setdefault(id(below), []).append(above)
            lower.setdefault(id(above), []).append(below)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        places = {id(box): (at + 0.5) / len(row) for row in rows for at, box in enumerate(row)}
        for row in rows if down else reversed(rows):
            neighbours = upper if down else lower
            row.sort(key=lambda box: _mean(places, neighbours.get(id(box), ()), places[id(box)]))
            places |= {id(box): (at + 0.5) / len(row) for at, box in enumerate(row)}


def _mean(places: Mapping[int, float], boxes: Iterable[Box], default: float) -> float:
    found = [places[id(box)] for box in boxes]
    return sum(found) / len(found) if found else default


def _place(rows: Sequence[Sequence[Box]]) -> None:
    widths = [sum(box.width for box in row) + _GAP * (len(row) - 1) for row in rows]
    y = float(_MARGIN)
    for row, width in zip(rows, widths, strict=True):
        x = _MARGIN + (max(widths) - width) / 2
        for box in row:
            box.x, box.y = x, y
            x += box.width + _GAP
        y += max(box.height for box in row) + _ROW_GAP


def _path(chain: Sequence[Box], rows: Sequence[Sequence[Box]]) -> str:
    """An edge, straight down within rows and curved between them."""
    bottoms = {id(box): max(one.y + one.height for one in row) for row in rows for box in row}
    first = chain[0]
    parts = [f"M{first.centre:.0f} {first.y + first.height:.0f}"]
    for above, below in itertools.pairwise(chain):
        start, end = bottoms[id(above)], below.y - (6 if below is chain[-1] else 0)
        middle = (start + end) / 2
        parts.append(
            f"V{start:.0f}C{above.centre:.0f} {middle:.0f} {below.centre:.0f} {middle:.0f}"
            f" {below.centre:.0f} {end:.0f}"
        )
    return "".join(parts)


def _head(box: Box) -> str:
    return f"M{box.centre - 5:.0f} {box.y - 8:.0f}h10l-5 8z"


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
