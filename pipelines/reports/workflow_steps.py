"""What the page of a workflow shows of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pipelines.media.colours import BLUE, COLOURS, GREY, VERMILION


@dataclass(frozen=True, kw_only=True)
class StateStyle:
    """How a state looks: never by its colour alone."""

    mark: str
    colour: str
    meaning: str


_GREEN, _PINK, _ORANGE = COLOURS[2:5]
# In the order in which a summary counts them.
STATES: Mapping[str, StateStyle] = MappingProxyType(
    {
        "failed": StateStyle(mark="✗", colour=VERMILION, meaning="ended with an error"),
        "running": StateStyle(mark="▶", colour=BLUE, meaning="runs, or waits for a place in the cluster"),
        "stopped": StateStyle(mark="■", colour=_ORANGE, meaning="saved and stopped; can resume"),
        "interrupted": StateStyle(mark="■", colour=_ORANGE, meaning="ended without saying why; can resume"),
        "missing": StateStyle(mark="!", colour=_PINK, meaning="an output was deleted or changed"),
        "invalid": StateStyle(mark="!", colour=_PINK, meaning="its inputs cannot be used"),
        "stale": StateStyle(mark="↻", colour=_PINK, meaning="done before a change, so it runs again"),
        "new": StateStyle(mark="○", colour=GREY, meaning="has not run"),
        "waiting": StateStyle(mark="○", colour=GREY, meaning="needs steps that are not done"),
        "not selected": StateStyle(mark="–", colour=GREY, meaning="is not part of this run"),
        "done": StateStyle(mark="✓", colour=_GREEN, meaning="its results are there"),
    }
)


@dataclass(frozen=True, kw_only=True)
class PageLink:
    """A link, or only its text if `href` is empty.

    Attributes:
        label: small print before it.
        mlflow_path: of a run: its address within MLflow's pages.
    """

    text: str
    href: str = ""
    label: str = ""
    mlflow_path: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One run of a step's process.

    Attributes:
        started, ended: in seconds since the epoch; `ended` is None while it runs.
        result: a key of `STATES`.
    """

    started: float
    ended: float | None
    result: str


@dataclass(frozen=True, kw_only=True)
class PageStep:
    """A step.

    Attributes:
        name: of the step or of its instance.
        base: of the step in the file.
        verb: what it does.
        needs: names of steps.
        state: a key of `STATES`, and `why`.
        seconds: that all attempts took; None if it never ran.
        model: of a registered model: what it was made from.
    """

    name: str
    base: str
    verb: str
    needs: Sequence[str] = ()
    state: str = "waiting"
    why: str = ""
    seconds: float | None = None
    attempts: Sequence[Attempt] = ()
    results: Sequence[PageLink] = ()
    log: PageLink | None = None
    runs: Sequence[PageLink] = ()
    model: Mapping[str, PageLink] = field(default_factory=dict)

    @property
    def style(self) -> StateStyle:
        return STATES[self.state]

    @property
    def instance(self) -> str:
        """The name without that of the step in the file."""
        return self.name.removeprefix(self.base).lstrip("-") or self.name

    @property
    def anchor(self) -> str:
        return f"step-{self.name}"


def counted(states: Sequence[str]) -> dict[str, int]:
    """How many steps are in each state, in the order of `STATES`."""
    return {state: count for state in STATES if (count := sum(one == state for one in states))}


def short_duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    for unit, size, below, smaller in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{seconds} s"
