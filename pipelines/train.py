"""Train in this process, or on Ray Train with any number of workers.

    python -m pipelines.train base nano --set name=first data.shards=outputs/shards --workers 2

Configurations are names from pipelines/configs or paths; later ones override earlier ones. The same name in
the same storage resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from pipelines.core.cli import cluster_argument, storage_arguments, verb
from pipelines.core.datasets import LoggedDataset
from pipelines.core.lineage import TRAINING_KIND, training_key
from pipelines.core.logged_models import WEIGHTS_TAG, LoggedFiles, model_params, size_name
from pipelines.core.runtime_env import CHECKOUT, grace_seconds
from pipelines.core.storage import absolute_storage
from pipelines.core.tracking import TrackedRun, Tracker, commit
from pipelines.inspection.run_datasets import training_datasets
from pipelines.training.config import TrainRunConfig
from pipelines.training.dry_run import dry_run
from pipelines.training.launch import (
    checkpoints_of,
    run_folder,
    train_in_process,
    train_on_ray,
)
from rwsa.config import as_mapping, read_config
from rwsa.errors import InputError
from rwsa.files import (
    StoragePath,
    absolute_location,
    atomic_write,
    check_writable,
    location,
    read_json,
    sha256_of,
)
from rwsa.lease import exclusive_lock
from rwsa.mixing.recipes import recipe_hash
from rwsa.shards.index import index_sha256, read_index
from rwsa.training.checkpoints import STATE_FILE, DamagedCheckpointError, local_folder
from rwsa.training.config import DataConfig, card_of, recipe_of, training_hash
from rwsa.training.context import StopSignal
from rwsa.training.saved_state import read_saved, verify_files
from rwsa.training.state import published_weights

CONFIGS = CHECKOUT / "pipelines" / "configs"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """Result of a run: its best weights, their validation score, and its MLflow run."""

    weights: StoragePath
    best_score: float
    seconds: float
    run_id: str


def train(
    config: TrainRunConfig,
    *,
    workers: int = 0,
    cpus_per_worker: int = 1,
    gpu: bool | None = None,
    parent: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    stop: StopSignal | None = None,
    on_checkpoint: Callable[[int, Mapping[str, float]], None] | None = None,
    wait_seconds: float = 0.0,
) -> TrainSummary:
    """Train or resume one run, and write its best weights to `ROOT/runs/NAME/model.safetensors`.

    Args:
        config: the run.
        workers: Ray Train workers; 0 trains in this process, without Ray.
        cpus_per_worker: threads of each worker (with `workers=0` of this process).
        gpu: whether each Ray worker gets a GPU; default: if the cluster has one now.
        parent: MLflow run to nest this one under.
        params: MLflow parameters in addition to the configuration's.
        tags: MLflow tags.
        stop: stops training early, after saving.
        on_checkpoint: called in this process with each checkpoint's step and validation metrics.
        wait_seconds: maximum wait for another process that trains the same run.

    Raises:
        InputError: data, storage or MLflow cannot be used.
        DivergedError: a loss became NaN or infinite.
        PreemptedError: stopped on request, after saving; the same call resumes.
    """
    config, stop = absolute(config), stop or StopSignal()
    started = time.monotonic()
    about_data = _data_params(config.data)
    alone = parent is None  # several trials of a sweep share a machine, whose load says nothing about one
    name = config.name if parent else run_name(config, about_data.get("corpora", ""))
    folder = run_folder(config)
    check_writable(folder / WEIGHTS)
    datasets = training_datasets(config.data)
    tracker = Tracker(config.storage)
    all_params = {**as_mapping(config), "workers": workers, "config_hash": training_hash(config)}
    all_params |= {**about_data, **(params or {})}
    all_tags = {"rwsa.kind": TRAINING_KIND, "rwsa.name": config.name, **(tags or {})}
    with (
        exclusive_lock(folder, wait_seconds=wait_seconds),
        tracker.run(name, key=run_key(config), parent=parent, params=all_params, tags=all_tags) as run,
    ):
        run.log_datasets(*datasets)
        if workers == 0:
            train_in_process(
                config, run, threads=cpus_per_worker, stop=stop, on_checkpoint=on_checkpoint, alone=alone
            )
        else:
            train_on_ray(
                config,
                run,
                workers=workers,
                threads=cpus_per_worker,
                gpu=gpu,
                stop=stop,
                on_checkpoint=on_checkpoint,
                alone=alone,
            )
        weights = folder / WEIGHTS
        score = _publish(config, weights)
        best = {"valid/best_score": score} if math.isfinite(score) else {}
        if best:
            run.log_metrics(config.max_steps, best)
        sha256 = sha256_of(weights)
        run.tag(**all_tags, **{WEIGHTS_TAG: sha256})
        run.log_contents({weights.name: weights.read_bytes()})
        _log_model(run, config, weights, sha256, best, datasets[-1])
    return TrainSummary(
        weights=weights, best_score=score, seconds=time.monotonic() - started, run_id=run.run_id
    )


def _log_model(
    run: TrackedRun,
    config: TrainRunConfig,
    weights: StoragePath,
    sha256: str,
    metrics: Mapping[str, float],
    validated_on: LoggedDataset,
) -> None:
    """Log the published weights as MLflow's model of this run, with their validation score."""
    # Imported here: it takes a second, and most processes that import this train nothing.
    from pipelines.core.model_registry import write_model

    model = LoggedFiles(
        name=config.name,
        sha256=sha256,
        step=config.max_steps,
        tags={"commit": commit(), "size": size_name(config.model)},
        params=model_params(config.model),
        metrics=metrics,
        dataset=(validated_on.name, validated_on.digest),
        timestamp_ms=int(time.time() * 1000),
    )
    try:
        run.log_model(model, lambda folder: write_model(folder, weights, check=False))
    except InputError as error:  # the weights are published all the same
        print(f"MLflow gets no model of this run: {error}", flush=True)


def run_name(config: TrainRunConfig, corpora: str) -> str:
    """`train nano on libri-esc50`, and the run's own name unless the size is its name."""
    size, named = size_name(config.model), config.name
    which = "" if named == size else f" ({named})"
    return f"train {size} on {corpora.replace(', ', ' + ') or 'unnamed data'}{which}"


def run_key(config: TrainRunConfig) -> str:
    """Key of a run's MLflow run, by which a resumed run finds it."""
    return training_key(run_folder(config))


def _publish(config: TrainRunConfig, weights: StoragePath) -> float:
    """Write the best checkpoint's weights to `weights`; returns their score, NaN if none was validated."""
    checkpoints = checkpoints_of(config)
    best, latest = checkpoints.best(), checkpoints.latest()
    assert best is not None, "training ends with a checkpoint"
    assert latest is not None
    with local_folder(best) as checkpoint, atomic_write(weights) as temporary:
        try:
            verify_files(checkpoint, read_saved(checkpoint))
        except DamagedCheckpointError as error:
            raise InputError(
                f"{error}; it is the best checkpoint: restore {best}, or raise max_steps to train until"
                " there is a better one"
            ) from error
        shutil.copyfile(published_weights(checkpoint), temporary)
    score = read_json(latest / STATE_FILE)["best_score"]
    return math.nan if score is None else float(score)


def absolute(config: TrainRunConfig) -> TrainRunConfig:
    """The configuration with absolute paths: Ray's workers run in other folders."""
    return dataclasses.replace(
        config,
        data=_absolute_data(config.data),
        storage=absolute_storage(config.storage),
    )


def _absolute_data(data: DataConfig) -> DataConfig:
    mix = data.mix
    if mix is not None:
        card = absolute_location(mix.card) if isinstance(mix.card, str) else mix.card
        recipe = absolute_location(mix.recipe) if isinstance(mix.recipe, str) else mix.recipe
        mix = dataclasses.replace(mix, card=card, recipe=recipe)
    shards = None if data.shards is None else absolute_location(data.shards)
    return dataclasses.replace(data, shards=shards, mix=mix)


def _data_params(data: DataConfig) -> dict[str, str]:
    """Examples or hours of each split, and what they were mixed from; fails early if a split is missing.

    The parameters `index_sha256`, `corpora` and `recipe_hashes` are those of the run of
    `pipelines.dataset_page`, too.
    """
    params = dict[str, str]()
    corpora, recipes = set[str](), set[str]()
    for split in (data.train,) if data.overfit is not None else (data.train, data.valid):
        if data.mix is not None and split in data.mix.splits:
            recipe = recipe_of(data.mix)
            params[f"{split}_examples"] = str(recipe.examples.get(split, 0))
            corpora.add(card_of(data.mix).name)
            recipes.add(recipe_hash(recipe))
        else:
            index = read_index(location(data.shards or ""), split)
            params[f"{split}_hours"] = f"{index.seconds / 3600:.3f}"
            params["index_sha256"] = index_sha256(location(data.shards or ""))
            corpora.update(filter(None, index.corpora))
            recipes.update(filter(None, index.recipe_hashes))
    names = {"corpora": corpora, "recipe_hashes": recipes}
    return params | {name: ", ".join(sorted(values)) for name, values in names.items() if values}


def config_paths(names: Sequence[str]) -> list[Path]:
    """Paths of configurations given as names from pipelines/configs or as paths.

    Raises:
        InputError: there is no such name or file.
    """
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    paths = [CONFIGS / f"{name}.yaml" if name in known else Path(name) for name in names]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such configuration; give a path or one of {', '.join(known)}")
    return paths


def inputs_of(options: argparse.Namespace) -> Iterator[tuple[str, StoragePath]]:
    """What a run reads, as (kind, location); see `pipelines.workflow.verbs.WorkflowVerb.reads`."""
    yield from (("file", path) for path in config_paths(options.configs))
    yield from data_inputs(_config(options).data)


def outputs_of(options: argparse.Namespace) -> dict[str, tuple[str, bool]]:
    """What a run leaves, as output -> (value, whether it is a location)."""
    config = absolute(_config(options))
    return {"weights": (str(run_folder(config) / WEIGHTS), True), "name": (config.name, False)}


def data_inputs(data: DataConfig) -> Iterator[tuple[str, StoragePath]]:
    """What the data of a run are read from, as `inputs_of`."""
    if data.shards is not None:
        yield "folder", location(data.shards)
    if data.mix is not None:
        for kind, value in (("card", data.mix.card), ("file", data.mix.recipe)):
            if isinstance(value, str):
                yield kind, location(value)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "configs",
        nargs="+",
        metavar="CONFIG",
        help="names from pipelines/configs, or paths; later ones override earlier ones",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="Ray Train workers; 0 trains in this process, without Ray (default: 0)",
    )
    parser.add_argument(
        "--cpus-per-worker", type=int, default=1, metavar="N", help="threads per worker (default: 1)"
    )
    parser.add_argument(
        "--gpu",
        action=argparse.BooleanOptionalAction,
        help="use one GPU per worker (default: if the cluster has GPUs now; an autoscaling cluster that has"
        " none yet needs --gpu)",
    )
    parser.add_argument(
        "--overfit", type=int, metavar="N", help="train and validate on the first N examples only"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resulting configuration and exit"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="run a few steps, print the estimated time and memory, and leave nothing behind",
    )


@verb(
    "pipelines.train",
    __doc__,
    _arguments,
    partial(storage_arguments, metavar="KEY=VALUE", help="change values of the configuration"),
    cluster_argument,
)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    config = _config(options)
    if options.print_config:
        print(yaml.safe_dump(as_mapping(config), sort_keys=False), end="")
        return 0
    if options.dry_run:
        print(dry_run(absolute(config), workers=options.workers, threads=options.cpus_per_worker))
        return 0
    with StopSignal(grace_seconds()) as stop:
        stop.add_callback(_report_stopping)
        summary = train(
            config,
            workers=options.workers,
            cpus_per_worker=options.cpus_per_worker,
            gpu=options.gpu,
            stop=stop,
        )
    print(f"best {config.best_metric} {summary.best_score:.3f} · {summary.seconds:.0f} s · {summary.weights}")
    return 0


def _config(options: argparse.Namespace) -> TrainRunConfig:
    overfit = [] if options.overfit is None else [f"data.overfit={options.overfit}"]
    config = read_config(TrainRunConfig, config_paths(options.configs), [*options.settings, *overfit])
    if options.overfit is not None:
        config = dataclasses.replace(config, name=f"{config.name}-overfit-{options.overfit}")
    return config


def _report_stopping() -> None:
    print("stopping: saving after this step (Ctrl-C again stops at once)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
