"""Train: alone, or on Ray Train with as many workers as asked.

    python -m pipelines.train base nano --set name=first data.shards=outputs/shards --workers 2

Configurations are laid over each other in order: names from pipelines/configs, or paths. The same
name in the same storage resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pipelines.cluster import CHECKOUT, start_ray
from pipelines.progress import progress_line
from pipelines.tracking import TrackedRun, Tracker
from rwsa.config import as_mapping, build, config_hash, read_config
from rwsa.errors import InputError
from rwsa.files import absolute as absolute_location
from rwsa.files import location, sha256_of, written_aside
from rwsa.shard_index import INDEX_NAME, read_index
from rwsa.training.config import DataConfig, StorageConfig, TrainConfig
from rwsa.training.context import LocalContext, StopSignal
from rwsa.training.loop import DivergedError, PreemptedError, fit
from rwsa.training.sources import recipe_of, self_contained
from rwsa.training.state import published_weights

CONFIGS = CHECKOUT / "pipelines" / "configs"


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What came of a run: the best weights, their validation score, and its MLflow run."""

    weights: Path
    best_score: float
    seconds: float
    run_id: str


def train(
    config: TrainConfig,
    *,
    workers: int = 0,
    cpus_per_worker: int = 1,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> TrainSummary:
    """Train or resume one run, and put its best weights at `ROOT/runs/NAME/model.safetensors`.

    Args:
        config: the run.
        workers: Ray Train workers; 0 trains in this process, without Ray.
        cpus_per_worker: threads of each worker (alone: of this process).
        parent: MLflow run to nest this one under.
        tags: MLflow tags.

    Raises:
        InputError: data, storage or MLflow cannot be used.
        DivergedError: a loss became NaN or infinite.
        PreemptedError: asked to end by SIGTERM; saved, and resumed by the same call.
    """
    config = absolute(config)
    started = time.monotonic()
    sizes = _sizes(config.data)
    tracker = Tracker(config.storage)
    folder = Path(config.storage.root) / "runs" / config.name
    params = {**as_mapping(config), "workers": workers, "config_hash": config_hash(config)}
    params |= sizes
    key = f"train {config.name} in {folder}"
    with tracker.run(config.name, key=key, parent=parent, params=params, tags=tags) as run:
        launch = _alone if workers == 0 else _on_ray
        checkpoint, score = launch(config, folder, run, workers, cpus_per_worker)
        weights = folder / "model.safetensors"
        with written_aside(weights) as aside:
            shutil.copyfile(published_weights(checkpoint), aside)
        run.log(config.max_steps, {"best_score": score})
        run.file(weights)
    return TrainSummary(
        weights=weights, best_score=score, seconds=time.monotonic() - started, run_id=run.run_id
    )


def absolute(config: TrainConfig) -> TrainConfig:
    """The same with absolute paths: Ray's workers run in folders of their own."""
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


def _sizes(data: DataConfig) -> dict[str, str]:
    """How much there is of each split, and so, early, whether it is there at all."""
    sizes = {}
    for split in (data.train, data.valid):
        if data.mix is not None and split in data.mix.splits:
            sizes[f"{split}_examples"] = str(recipe_of(data.mix).examples.get(split, 0))
        else:
            seconds = read_index(location(data.shards or ""), split).seconds
            sizes[f"{split}_hours"] = f"{seconds / 3600:.3f}"
            # As the run of the shards' own page has it (pipelines.dataset_page).
            sizes["index_sha256"] = sha256_of(location(data.shards or "") / INDEX_NAME)
    return sizes


def absolute_storage(storage: StorageConfig) -> StorageConfig:
    """The same with an absolute root and SQLite file."""
    uri = storage.tracking_uri
    if uri.startswith("sqlite:///"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return dataclasses.replace(storage, root=str(Path(storage.root).absolute()), tracking_uri=uri)


def _alone(config: TrainConfig, folder: Path, run: TrackedRun, workers: int, cpus: int) -> tuple[Path, float]:
    torch.set_num_threads(cpus)
    _refuse_other_launcher(folder / "ray", "Ray Train workers", "--workers 1 or more")
    with StopSignal() as stop:
        context = LocalContext(folder, _log_to(config, run), keep=config.keep_checkpoints, stop=stop)
        state = fit(config, context)
    best = context.best_checkpoint()
    assert best is not None, "fit ends with a checkpoint"
    return best, state.best_score


def _refuse_other_launcher(kept: Path, who: str, how: str) -> None:
    """Each keeps its checkpoints in its own way, and would start anew beside the other's."""
    if kept.exists():
        raise InputError(f"{kept}: this run was begun by {who}; go on with {how}, or give another name")


def _on_ray(
    config: TrainConfig, folder: Path, run: TrackedRun, workers: int, cpus: int
) -> tuple[Path, float]:
    import ray.train
    import ray.train.torch

    from pipelines.ray_context import StopNotice

    _refuse_other_launcher(folder / "checkpoints", "a process alone", "--workers 0")
    for_workers = dataclasses.replace(config, data=self_contained(config.data))
    start_ray()
    notice = StopNotice.remote()  # type: ignore[attr-defined]
    # Else Train tells of its own doings, at every checkpoint on every rank. As a mapping, since to the type
    # checker ray.train.RunConfig is still its predecessor, which lacks it.
    quiet: dict[str, Any] = {"logging_config": ray.train.LoggingConfig(log_level="WARNING")}
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "config": as_mapping(for_workers),
            "run_id": run.run_id,
            "cpus": cpus,
            "notice": notice,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=torch.cuda.is_available(), resources_per_worker={"CPU": cpus}
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.keep_checkpoints,
                checkpoint_score_attribute="score",
                checkpoint_score_order="max",
            ),
            **quiet,
        ),
    )
    try:
        with StopSignal(lambda: notice.tell.remote()) as stop:
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause(error) from error
    if stop.seen:
        raise PreemptedError(
            "asked to end, which it did when it had saved; the same command goes on from there"
        )
    assert result.best_checkpoints, "fit ends with a checkpoint"
    checkpoint, values = max(result.best_checkpoints, key=lambda pair: pair[1]["score"])
    return Path(checkpoint.path), float(values["score"])


def _worker(settings: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    import ray.train

    from pipelines.ray_context import RayContext

    torch.set_num_threads(settings["cpus"])
    config = build(TrainConfig, settings["config"], where="train_loop_config")
    with ExitStack() as stack, suppress(PreemptedError):  # else Ray would start all workers again
        log_to = None
        if ray.train.get_context().get_world_rank() == 0:
            run = TrackedRun(config.storage, settings["run_id"])
            stack.callback(run.close, status=None)
            log_to = _log_to(config, run)
        fit(config, RayContext(settings["notice"], log_to))


def _log_to(config: TrainConfig, run: TrackedRun) -> Any:
    def log(step: int, values: Mapping[str, float]) -> None:
        print(progress_line(step, config.max_steps, values), flush=True)
        run.log(step, {name: value for name, value in values.items() if name != "eta_seconds"})

    return log


def _cause(error: Exception) -> Exception:
    """The worker's own complaint, if it is one that people can act on, else Ray's."""
    failures = getattr(error, "worker_failures", {}).values()
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, InputError | DivergedError | PreemptedError):
            return type(cause)(str(cause))
    return error


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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description=__doc__.split("\n")[0])
    parser.add_argument(
        "configs", nargs="+", help="names from pipelines/configs or paths, laid over each other"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="over all of them"
    )
    parser.add_argument("--workers", type=int, default=0, help="Ray Train workers; 0: this process, no Ray")
    parser.add_argument("--cpus-per-worker", type=int, default=1, help="threads of each worker")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    arguments = parser.parse_args(argv)
    try:
        config = read_config(TrainConfig, config_paths(arguments.configs), arguments.set)
        if arguments.print_config:
            print(yaml.safe_dump(as_mapping(config), sort_keys=False), end="")
            return 0
        summary = train(config, workers=arguments.workers, cpus_per_worker=arguments.cpus_per_worker)
    except (InputError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PreemptedError as preempted:
        print(preempted, file=sys.stderr)
        return 128 + signal.SIGTERM
    print(f"best {config.best_metric} {summary.best_score:.3f} · {summary.seconds:.0f} s · {summary.weights}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
