"""A sweep as configuration: a small YAML that asks a question."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.core.ray_cluster import CHECKOUT
from rwsa.config import build, config, merge, read_yaml
from rwsa.errors import InputError

SMOKE = CHECKOUT / "tune" / "scales" / "smoke.yaml"
Positive = Annotated[int, Field(gt=0)]
Range = tuple[float, float]


@config
class Axis:
    """What one axis varies; exactly one of `values`, `named`, `uniform`, `log_uniform`.

    Attributes:
        values: of the configuration key that the axis is called by (`model.sharing`).
        named: name to configuration keys laid over the base, for what takes several keys. Beside them,
            `match` says that the model's widths are to be searched; see `tune.matching.Match`.
        uniform, log_uniform: lower and upper end of a distribution of such a key.
        baseline: the value that the others are compared with; the first by default.
    """

    values: tuple[Any, ...] | None = None
    named: dict[str, dict[str, Any]] | None = None
    uniform: Range | None = None
    log_uniform: Range | None = None
    baseline: Any = None

    def __post_init__(self) -> None:
        kinds = (self.values, self.named, self.uniform, self.log_uniform)
        given = [kind for kind in kinds if kind is not None]
        if len(given) != 1:
            raise ValueError("an axis takes exactly one of values, named, uniform, log_uniform")
        if not given[0]:
            raise ValueError("an axis needs at least one value")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"{list(self.range)}: the lower end must come first")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform needs ends above 0")
        if self.baseline is not None and self.baseline not in self.choices:
            raise ValueError(f"baseline {self.baseline!r} is not among {list(self.choices)}")

    @property
    def range(self) -> Range | None:
        """Of a distribution."""
        return self.uniform or self.log_uniform

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values, or the names of them; of a distribution none."""
        return self.values if self.values is not None else tuple(self.named or ())

    @property
    def compared_with(self) -> Any:
        """The value that the others are compared with; None for a distribution."""
        if self.range is not None:
            return None
        return self.choices[0] if self.baseline is None else self.baseline


@config
class SearchConfig:
    """Which points of the axes become trials.

    Attributes:
        kind: `grid`, every combination; `star`, the baseline and what differs from it on one axis;
            `random`, so many draws; `optuna`, so many, chosen by Optuna's TPE by the scores of those before.
        trials: how many, of `random` and `optuna`.
        seed: of the draws.
    """

    kind: Literal["grid", "star", "random", "optuna"] = "grid"
    trials: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if (self.trials is None) == (self.kind in ("random", "optuna")):
            raise ValueError("search.trials goes with the kinds random and optuna, and with no other")


@config
class SchedulerConfig:
    """What happens to trials on the way, by their validation scores.

    Attributes:
        kind: `none`, all are trained to their end; `asha` stops the worse part of them early; `pbt` lets the
            worst go on from the checkpoints of the best, with changed values (of the optimiser alone).
        grace_steps: `asha` stops none before.
        reduction_factor: of `asha`: of so many, one goes on at every rung.
        interval_steps: `pbt` changes trials so often.
    """

    kind: Literal["none", "asha", "pbt"] = "none"
    grace_steps: Positive | None = None
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    interval_steps: Positive | None = None

    def __post_init__(self) -> None:
        for kind, name in (("asha", "grace_steps"), ("pbt", "interval_steps")):
            if (self.kind == kind) != (getattr(self, name) is not None):
                raise ValueError(f"scheduler.{name} goes with the kind {kind}, and with no other")


@config
class SweepConfig:
    """What to vary, over what, how far, and where to look.

    Attributes:
        name: of the sweep, of its folder and of its parent run.
        question: that the page answers, in a sentence.
        base: training configurations laid over each other (names from pipelines/configs, or paths).
        set: keys over those, as nested mappings.
        axes: what to vary, by configuration keys or by names of one's own.
        seeds: each point once a seed.
        corpora: cards to evaluate the trials on, in-domain first.
        examples: clips a corpus; each card's own number by default.
        audio_clips: clips a corpus that each trial's evaluation lets one hear.
        metric: that decides; trials choose their best checkpoints by it, too.
        workers: Ray Train workers a trial; 0 trains in the trial's own process, if its node has the CPUs.
        cpus_per_worker: threads of each.
        concurrent_trials: at the most so many at once; by default as many as the cluster has room for.
        budget_hours: after which no trial goes on; the same command continues with as many again.
        max_failures: lost processes or nodes after which a trial is given up.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    question: str
    base: tuple[str, ...]
    set: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Axis]
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    corpora: Annotated[tuple[str, ...], Field(min_length=1)]
    examples: Positive | None = None
    audio_clips: Annotated[int, Field(ge=0)] = 1
    metric: Literal["pesq", "ssnr", "estoi", "si_sdr"] = "pesq"
    workers: Annotated[int, Field(ge=0)] = 1
    cpus_per_worker: Positive = 1
    concurrent_trials: Positive | None = None
    budget_hours: Annotated[float, Field(gt=0)] | None = None
    max_failures: Annotated[int, Field(ge=0)] = 2

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}: one is there twice")
        kinds = {name for name, axis in self.axes.items() if axis.range is not None}
        if kinds and self.search.kind in ("grid", "star"):
            raise ValueError(f"axis '{min(kinds)}' is a distribution; set search.kind to random or optuna")
        if self.search.kind == "optuna" and len(self.seeds) > 1:
            raise ValueError("search.kind optuna takes one seed; run the best points again with several")
        if self.scheduler.kind == "pbt":
            self._check_population()

    def _check_population(self) -> None:
        if self.search.kind == "optuna":
            raise ValueError("scheduler.kind pbt chooses values itself; set search.kind to random")
        fixed = [name for name in self.axes if not name.startswith("optimiser.")]
        if fixed:
            raise ValueError(
                f"scheduler.kind pbt changes values while a trial trains, which axis '{fixed[0]}' does not"
                " bear; keep to keys of optimiser"
            )


def read_sweep(path: Path, *, smoke: bool = False) -> SweepConfig:
    """Read a sweep.

    Args:
        path: its YAML. An axis may be a bare list, which stands for `values`.
        smoke: lay tune/scales/smoke.yaml over it, then what stands under its own key `smoke`: minutes on two
            cores, to see that it works.

    Raises:
        InputError: it cannot be read, a key is unknown, missing or ill-typed; or it has no smoke scale.
    """
    values = read_yaml(path)
    own = values.pop("smoke", None)
    if smoke:
        if own is None:
            raise InputError(f"{path}: has no smoke scale; write one under the key 'smoke' ({{}} will do)")
        values = merge(merge(values, read_yaml(SMOKE)), own)
        values["name"] = f"{values.get('name')}-smoke"
    axes = values.get("axes")
    if isinstance(axes, dict):
        values["axes"] = {
            name: {"values": axis} if isinstance(axis, list) else axis for name, axis in axes.items()
        }
    return build(SweepConfig, values, where=str(path))
