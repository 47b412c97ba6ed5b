"""Turn a question into a table: expand a small YAML to trials, run them on Ray Tune, evaluate each.

    python -m tune.sweep tune/ablations/sharing.yaml

A trial is the same `pipelines.train` and `pipelines.evaluate` that a person runs. Trials that have
finished are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune

from pipelines.cluster import start_ray
from pipelines.evaluate import evaluate
from pipelines.tracking import TrackedRun, Tracker
from pipelines.train import absolute, config_paths, train
from rwsa.config import as_mapping, build
from rwsa.errors import InputError
from rwsa.files import read_json, write_json
from rwsa.training.loop import DivergedError
from tune.spaces import SweepConfig, Trial, read_sweep, trials


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """One row a trial, in the order of the sweep, and the parent run in MLflow.

    A row has `trial`, the axes' values, `seed`, and either `corpora` (as an evaluation gives them) or
    `error`.
    """

    rows: list[dict[str, Any]]
    run_id: str


def sweep(config: SweepConfig, *, settings: Sequence[str] = ()) -> SweepSummary:
    """Run every trial that has not finished yet.

    Args:
        config: the sweep.
        settings: `a.b=v` over the trials' training configuration.

    Raises:
        InputError: the sweep, its data or MLflow cannot be used.
    """
    planned = [
        Trial(name=trial.name, point=trial.point, seed=trial.seed, train=absolute(trial.train))
        for trial in trials(config, config_paths(config.base), list(settings))
    ]
    where = planned[0].train.storage
    folder = Path(where.root) / "sweeps" / config.name
    params = {"axes": str(dict(config.axes)), "seeds": str(list(config.seeds)), "trials": len(planned)}
    with Tracker(where).run(
        config.name, key=f"sweep {folder}", params=params, tags={"rwsa.kind": "sweep"}
    ) as parent:
        _run(config, [t for t in planned if not _result(folder, t).exists()], folder, parent.run_id)
        rows = [_row(folder, trial) for trial in planned]
        write_json(folder / "table.json", rows)
        parent.table("trials.json", _columns(rows))
        parent.file(folder / "table.json")
    return SweepSummary(rows=rows, run_id=parent.run_id)


def _run(config: SweepConfig, waiting: list[Trial], folder: Path, parent_run: str) -> None:
    """Run trials on Ray Tune; what becomes of each is written to its own file."""
    if not waiting:
        return
    start_ray()
    space = {
        "trial": ray.tune.grid_search([as_mapping(trial) for trial in waiting]),
        "corpora": [str(Path(card).absolute()) for card in config.corpora],
        "examples": config.examples,
        "workers": config.workers,
        "folder": str(folder),
        "cwd": str(Path.cwd()),
        "parent_run": parent_run,
    }
    # A trial only waits for its workers; were it to hold a whole CPU, few CPUs would deadlock.
    trainable = ray.tune.with_resources(_run_trial, {"CPU": 0.01})
    tuner = ray.tune.Tuner(
        trainable,
        param_space=space,
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=config.concurrent_trials, trial_dirname_creator=_directory_name
        ),
        run_config=ray.tune.RunConfig(name="ray", storage_path=str(folder), verbose=0),
    )
    results = tuner.fit()
    for place, trial in enumerate(waiting):  # Tune numbers a grid's results as the grid is written
        error = results[place].error
        if error is not None and not _result(folder, trial).exists():
            reason = str(error).strip().splitlines()[-1]
            write_json(_result(folder, trial), _about(trial) | {"error": reason})


def _directory_name(trial: Any) -> str:
    return str(trial.trial_id)


def _run_trial(settings: dict[str, Any]) -> None:
    """Train and evaluate one trial, in a process of Ray Tune's."""
    # Cards name their recordings relative to where the sweep was started; Tune starts trials elsewhere.
    os.chdir(settings["cwd"])
    trial = build(Trial, settings["trial"], where="trial")
    storage, folder = trial.train.storage, Path(settings["folder"])
    try:
        trained = train(
            trial.train,
            workers=settings["workers"],
            parent=settings["parent_run"],
            tags={"rwsa.kind": "trial"},
        )
        evaluated = evaluate(
            [trained.weights],
            [Path(card) for card in settings["corpora"]],
            storage=storage,
            examples=settings["examples"],
            name=f"{trial.name} evaluated",
            parent=trained.run_id,
        )
    except (InputError, DivergedError) as error:
        write_json(_result(folder, trial), _about(trial) | {"error": str(error)})
        return
    corpora = evaluated.as_json()["corpora"]
    run = TrackedRun(storage, trained.run_id)
    run.log(trial.train.max_steps, _flat(corpora))
    run.close()
    row = _about(trial) | {"run_id": trained.run_id, "seconds": trained.seconds, "corpora": corpora}
    write_json(_result(folder, trial), row)
    ray.tune.report({"best_score": trained.best_score})


def _about(trial: Trial) -> dict[str, Any]:
    return {"trial": trial.name, "point": dict(trial.point), "seed": trial.seed}


def _result(folder: Path, trial: Trial) -> Path:
    return folder / "trials" / f"{trial.name}.json"


def _row(folder: Path, trial: Trial) -> dict[str, Any]:
    path = _result(folder, trial)
    return read_json(path) if path.exists() else _about(trial) | {"error": "did not finish"}


def _flat(corpora: dict[str, Any]) -> dict[str, float]:
    return {
        f"{corpus}.enhanced.{metric}": value
        for corpus, scores in corpora.items()
        for metric, value in scores["enhanced"].items()
        if value is not None
    }


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    flat = [
        {"trial": row["trial"], "seed": row["seed"], **row["point"], "error": row.get("error", "")}
        | _flat(row.get("corpora", {}))
        for row in rows
    ]
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat] for name in names}


def format_rows(rows: list[dict[str, Any]], metric: str = "si_sdr") -> str:
    """A table of one metric: a line a trial, a column a corpus."""
    corpora = list(dict.fromkeys(name for row in rows for name in row.get("corpora", {})))
    width = max(len(row["trial"]) for row in rows)
    lines = [f"{metric:{width}}  " + "  ".join(f"{name:>16}" for name in corpora)]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['trial']:{width}}  failed: {row['error']}")
            continue
        values = [row["corpora"][name]["enhanced"][metric] for name in corpora]
        lines.append(f"{row['trial']:{width}}  " + "  ".join(f"{value:16.3f}" for value in values))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tune.sweep", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", type=Path, help="a YAML like those in tune/ablations")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--corpora", nargs="+", metavar="CARD", help="evaluate on these instead")
    parser.add_argument("--dry-run", action="store_true", help="print the trials and stop")
    arguments = parser.parse_args(argv)
    try:
        config = read_sweep(arguments.sweep)
        if arguments.corpora:
            config = dataclasses.replace(config, corpora=tuple(arguments.corpora))
        if arguments.dry_run:
            for trial in trials(config, config_paths(config.base), arguments.set):
                print(trial.name)
            return 0
        summary = sweep(config, settings=arguments.set)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_rows(summary.rows))
    return 1 if any("error" in row for row in summary.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
