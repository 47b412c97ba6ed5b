"""Configuration of a sweep, read from YAML."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.core.runtime_env import CHECKOUT
from pipelines.training.config import TrainRunConfig
from rwsa.config import build, config, merge, read_yaml
from rwsa.errors import InputError
from rwsa.metrics import Table1Metric
from rwsa.variables import Location, PathText, path_fields, replace_variables

SMOKE = CHECKOUT / "tune" / "scales" / "smoke.yaml"
Positive = Annotated[int, Field(gt=0, le=10**12)]
MAX_POINTS = 100_000
Range = tuple[float, float]


@config
class SweepAxis:
    """One axis of the search space; exactly one of `values`, `named`, `uniform`, `log_uniform`.

    Attributes:
        values: values of the configuration key that is the axis's name (`model.sharing`).
        named: names of values, each with the configuration keys that it overrides. Its key `match` requests
            a search for the model's widths; see `tune.capacity_matching.CapacityMatch`.
        uniform, log_uniform: lower and upper bound of a distribution of such a key.
        baseline: the value that the others are compared with; by default the first.
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
            raise ValueError("an axis accepts exactly one of values, named, uniform, log_uniform")
        if not given[0]:
            raise ValueError("an axis needs at least one value")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"{list(self.range)}: the lower bound must come first")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform needs bounds above 0")
        if self.baseline is not None and self.baseline not in self.choices:
            raise ValueError(f"baseline {self.baseline!r} is not among {list(self.choices)}")

    @property
    def range(self) -> Range | None:
        """Bounds of a distribution; None for an axis with values."""
        return self.uniform or self.log_uniform

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values or their names; empty for a distribution."""
        return self.values if self.values is not None else tuple(self.named or ())

    @property
    def baseline_value(self) -> Any:
        """Value that the others are compared with; None for a distribution."""
        if self.range is not None:
            return None
        return self.choices[0] if self.baseline is None else self.baseline


@config
class SearchConfig:
    """Search algorithm: which points of the search space become trials.

    Attributes:
        kind: `grid`, every combination; `star`, the baseline and all points that differ from it on one
            axis; `random`, random points; `optuna`, points that Optuna's TPE chooses from earlier scores.
        trials: number of trials of `random` and `optuna`.
        seed: of `random` and `optuna`.
    """

    kind: Literal["grid", "star", "random", "optuna"] = "grid"
    trials: Annotated[int, Field(gt=0, le=MAX_POINTS)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def __post_init__(self) -> None:
        if (self.trials is None) == (self.kind in ("random", "optuna")):
            raise ValueError(
                "search.trials is required for the kinds random and optuna, and not allowed otherwise"
            )


@config
class SchedulerConfig:
    """Scheduler: which trials stop or change during training, by their validation scores.

    Attributes:
        kind: `none` trains all trials to the last step; `asha` stops the worse ones early; `pbt`
            (population-based training) lets the worst continue from checkpoints of the best, with changed
            values of the optimiser.
        grace_steps: `asha` stops no trial before this step.
        reduction_factor: `asha` continues one in `reduction_factor` trials at every rung.
        interval_steps: `pbt` compares trials every `interval_steps` steps.
    """

    kind: Literal["none", "asha", "pbt"] = "none"
    grace_steps: Positive | None = None
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    interval_steps: Positive | None = None

    def __post_init__(self) -> None:
        for kind, name in (("asha", "grace_steps"), ("pbt", "interval_steps")):
            if (self.kind == kind) != (getattr(self, name) is not None):
                raise ValueError(
                    f"scheduler.{name} is required for the kind {kind}, and not allowed otherwise"
                )


@config
class SweepConfig:
    """A sweep.

    Attributes:
        name: of the sweep, its folder and its parent run in MLflow.
        question: one sentence, which the report answers.
        base: training configurations merged in order (names from pipelines/configs, or paths).
        set: keys that override `base`, as nested mappings.
        axes: what to vary, by configuration keys or, for `named` values, by any name.
        search: which points become trials.
        scheduler: which trials stop early.
        seeds: each point is one trial per seed.
        corpora: cards of the corpora to evaluate on, in-domain first.
        examples: clips per corpus; by default the number in each card.
        audio_clips: audio samples per corpus that each trial's evaluation logs.
        metric: ranks configurations and selects each trial's best checkpoint.
        workers: Ray Train workers per trial; 0 trains in the trial's own process if its node has enough CPUs.
        cpus_per_worker: CPUs, and so threads, per worker.
        gpu: whether every worker gets a GPU; by default if the cluster has one when a trial starts. With
            `true`, `concurrent_trials` is required: a cluster that adds nodes on demand may have none yet.
        concurrent_trials: limit of trials at once; by default as many as the cluster has room for.
        budget_hours: time limit of one start of the sweep; the next start has as many hours again.
        core_minutes: equal compute for every trial: each trains for as many steps as take so many minutes of
            one core, measured when the sweep first starts. Intervals and warm-up keep their share of
            `max_steps`, of which the scheduler's steps are shares too.
        core_seconds: core-seconds per step, from `tune.core_budget`; the sweep's folder keeps them.
        max_failures: retries of a trial whose process or node is lost.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    question: str
    base: tuple[PathText, ...]
    set: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, SweepAxis]
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    seeds: Annotated[tuple[Annotated[int, Field(lt=2**63)], ...], Field(min_length=1)] = (0,)
    corpora: Annotated[tuple[PathText, ...], Field(min_length=1)]
    examples: Positive | None = None
    audio_clips: Annotated[int, Field(ge=0, le=10**6)] = 1
    metric: Table1Metric = "pesq"
    workers: Annotated[int, Field(ge=0, le=100_000)] = 1
    cpus_per_worker: Positive = 1
    gpu: bool | None = None
    concurrent_trials: Positive | None = None
    budget_hours: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    core_minutes: Annotated[float, Field(gt=0, le=10**9)] | None = None
    core_seconds: dict[str, Annotated[float, Field(gt=0)]] = field(default_factory=dict)
    max_failures: Annotated[int, Field(ge=0, le=10**6)] = 2

    def __post_init__(self) -> None:
        if self.core_minutes is not None and self.search.kind == "optuna":
            raise ValueError(
                "core_minutes needs points that are known in advance; set another search.kind than optuna"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}: one is listed twice")
        kinds = {name for name, axis in self.axes.items() if axis.range is not None}
        if kinds and self.search.kind in ("grid", "star"):
            raise ValueError(f"axis '{min(kinds)}' is a distribution; set search.kind to random or optuna")
        points = math.prod(len(axis.choices) for axis in self.axes.values() if axis.range is None)
        if self.search.kind == "grid" and points * len(self.seeds) > MAX_POINTS:
            raise ValueError(f"the grid has {points:.3g} points; choose fewer values, or search.kind random")
        if self.search.kind == "optuna" and len(self.seeds) > 1:
            raise ValueError("search.kind optuna accepts one seed; run the best points again with several")
        if self.gpu and self.concurrent_trials is None:
            raise ValueError("gpu requires concurrent_trials: the number of GPUs may not be known yet")
        if self.gpu and not self.workers:
            raise ValueError("gpu requires workers; a trial's own process holds no GPU")
        if self.scheduler.kind == "pbt":
            self._check_population()

    def _check_population(self) -> None:
        if self.search.kind == "optuna":
            raise ValueError("scheduler.kind pbt chooses values itself; set search.kind to random")
        fixed = [name for name in self.axes if not name.startswith("optimiser.")]
        if fixed:
            raise ValueError(
                f"scheduler.kind pbt changes values during training, which axis '{fixed[0]}' does not"
                " allow; vary keys of optimiser only"
            )


def read_sweep(path: Path, *, smoke: bool = False) -> SweepConfig:
    """Read a sweep from YAML.

    Args:
        path: the YAML file. An axis may be a plain list, short for `values`.
        smoke: apply the smoke scale, a run of minutes: merge tune/scales/smoke.yaml over the sweep, then the
            sweep's own key `smoke`.

    Raises:
        InputError: the file cannot be read, a key is unknown, missing or ill-typed, or the sweep has no key
            `smoke`.
    """
    values = read_yaml(path)
    own = values.pop("smoke", None)
    if smoke:
        if own is None:
            raise InputError(f"{path}: has no smoke scale; add the key 'smoke' ({{}} is enough)")
        if not isinstance(own, dict):
            raise InputError(f"{path}: smoke must be a mapping of keys to values, not {type(own).__name__}")
        values = merge(merge(values, read_yaml(SMOKE)), own)
        values["name"] = f"{values.get('name')}-smoke"
    axes = values.get("axes")
    if isinstance(axes, dict):
        values["axes"] = {
            name: {"values": axis} if isinstance(axis, list) else axis for name, axis in axes.items()
        }
    return build(SweepConfig, replace_variables(values, _path_fields(), where=str(path)), where=str(path))


def _path_fields() -> Iterator[Location]:
    """The fields of a sweep that hold paths: its own, and those of the training configuration below it."""
    yield from path_fields(SweepConfig)
    for path in path_fields(TrainRunConfig):
        yield "set", *path
        yield "axes", ".".join(path), "values", "*"
        yield "axes", "*", "named", "*", *path
