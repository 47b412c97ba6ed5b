"""Equal compute for all trials: as many steps for each as take `core_minutes` on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pipelines.training.config import TrainRunConfig
from pipelines.training.dry_run import core_seconds_per_step
from rwsa.config import as_mapping, config_hash

# Keys that decide how long a step takes; data is read beside it.
_WORK = ("model", "global_batch_size", "accumulate", "precision", "compile_backend", "remix")


def work_key(train: TrainRunConfig) -> str:
    """Identifies what a step computes; equal for configurations whose steps take equally long."""
    values = as_mapping(train)
    work = {name: values[name] for name in _WORK}
    losses = sorted(name for name, weight in values["loss_weights"].items() if weight)
    return config_hash(work | {"losses": losses})


def measure_core_seconds(
    trains: Sequence[TrainRunConfig], known: Mapping[str, float], *, threads: int
) -> dict[str, float]:
    """Core-seconds per step by `work_key`: the known ones, and measured ones for the other configurations.

    Raises:
        InputError: what training would raise at its start.
    """
    missing = {work_key(train): train for train in trains if work_key(train) not in known}
    measured = dict(known)
    for number, (key, train) in enumerate(missing.items(), 1):
        measured[key] = float(f"{core_seconds_per_step(train, threads=threads):.4g}")
        print(
            f"a step of {train.model.summary} takes {measured[key]:.3g} core-seconds"
            f" ({number} of {len(missing)} measured)",
            flush=True,
        )
    return measured


def with_core_budget(
    train: TrainRunConfig, core_minutes: float, core_seconds: Mapping[str, float]
) -> TrainRunConfig:
    """A configuration with as many steps as the budget allows; warm-up and validations keep their share."""
    steps = max(1, round(60 * core_minutes / core_seconds[work_key(train)]))
    share = steps / train.max_steps
    optimiser = train.optimiser
    return dataclasses.replace(
        train,
        max_steps=steps,
        checkpoint_every_steps=max(1, round(train.checkpoint_every_steps * share)),
        optimiser=dataclasses.replace(optimiser, warmup_steps=round(optimiser.warmup_steps * share)),
    )
