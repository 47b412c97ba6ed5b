"""Ways to run the training loop: in this process, or on Ray Train with as many workers as asked."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from pipelines.core.cli import ADDRESS
from pipelines.core.ray_cluster import start_ray
from pipelines.core.tracking import TrackedRun, commit
from pipelines.training.config import TrainRunConfig
from pipelines.training.run_log import RunLog
from rwsa.config import as_mapping, build
from rwsa.errors import DivergedError, InputError, PreemptedError
from rwsa.files import StoragePath, location
from rwsa.training.checkpoints import Checkpoints
from rwsa.training.context import LocalContext, StopSignal
from rwsa.training.loop import fit
from rwsa.training.sources import self_contained

_RELAY_SECONDS = 0.5
_WAITING_IS_NEWS_AFTER_SECONDS, _SECONDS_BETWEEN_SIGNS = 60.0, 600.0
_FINAL = {kind.__name__: kind for kind in (InputError, DivergedError)}


def run_folder(config: TrainRunConfig) -> StoragePath:
    """Where a run's files are."""
    return location(config.storage.root) / "runs" / config.name


def checkpoints_of(config: TrainRunConfig) -> Checkpoints:
    """A run's checkpoints, wherever they were made."""
    return Checkpoints(run_folder(config) / "checkpoints", keep=config.keep_checkpoints)


# Takes the step of a checkpoint and the figures of its validation.
OnSaved = Callable[[int, Mapping[str, float]], None]


def alone(
    config: TrainRunConfig,
    run: TrackedRun,
    *,
    threads: int,
    stop: StopSignal,
    on_saved: OnSaved | None = None,
) -> None:
    """Train in this process.

    Raises:
        InputError, DivergedError, PreemptedError: see `rwsa.training.loop.fit`.
    """
    torch.set_num_threads(threads)
    with RunLog(config, run, commit()) as log:
        context = LocalContext(
            run_folder(config), log, keep=config.keep_checkpoints, stop=stop, on_saved=on_saved
        )
        fit(config, context)


def on_ray(
    config: TrainRunConfig,
    run: TrackedRun,
    *,
    workers: int,
    threads: int,
    gpu: bool | None,
    stop: StopSignal,
    on_saved: OnSaved | None = None,
) -> None:
    """Train on Ray Train, which starts lost workers again, `config.max_failures` times at the most.

    Args:
        gpu: whether each worker gets a GPU; by default where the cluster has one now.
        on_saved: told, in this thread, what rank 0 has saved.

    Raises:
        InputError, DivergedError, PreemptedError: see `rwsa.training.loop.fit`; or this machine, where Ray
            was started for this, has too few CPUs.
        ray.train.TrainingFailedError: workers were lost too often, or met an error that nobody foresaw.
    """
    import ray
    import ray.train.torch
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from pipelines.training.ray_context import Notices

    for_workers = dataclasses.replace(config, data=self_contained(config.data))
    start_ray()
    stop.arm()  # Ray has a handler of its own, which ends the process
    there = ray.cluster_resources()
    use_gpu = bool(there.get("GPU")) if gpu is None else gpu
    if not os.environ.get(ADDRESS):
        _check_room(there, workers=workers, threads=threads, use_gpu=use_gpu)
    # Where this process is, since without it nothing goes on anyway; elsewhere a node could be lost with it.
    # (Softly, Ray would put it elsewhere where this node, as a cluster's head often, gives no CPU.)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    notices = Notices.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    stop.then(lambda: notices.stop.remote())
    # Else Train tells of its own doings, at every checkpoint on every rank. As a mapping, since to the type
    # checker ray.train.RunConfig is still its predecessor, which lacks it.
    quiet: dict[str, Any] = {"logging_config": ray.train.LoggingConfig(log_level="WARNING")}
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "config": as_mapping(for_workers),
            "run_id": run.run_id,
            "commit": commit(),
            "threads": threads,
            "notices": notices,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": threads, "GPU": int(use_gpu)}
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(run_folder(config)),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            **quiet,
        ),
    )
    relay = None if on_saved is None else _Relay(notices, on_saved)
    with _saying_what_is_missing(notices, workers=workers, threads=threads, use_gpu=use_gpu):
        error = _in_thread(trainer.fit, meanwhile=relay)
    reason = ray.get(notices.gave_up.remote())
    if reason is not None:
        kind, message = reason
        raise _FINAL[kind](message)
    if error is not None:
        raise error
    if ray.get(notices.was_cut_short.remote()):
        raise PreemptedError(
            "asked to end, which it did when it had saved; the same command goes on from there"
        )


def _check_room(there: Mapping[str, float], *, workers: int, threads: int, use_gpu: bool) -> None:
    """Ray would wait for ever for what this machine does not have."""
    wanted = {"CPU": workers * threads, "GPU": workers * use_gpu}
    for name, count in wanted.items():
        if count > there.get(name, 0):
            raise InputError(
                f"--workers {workers}: want {count} {name}s, and this machine gives Ray"
                f" {there.get(name, 0):.0f}; use fewer workers or --cpus-per-worker, or a cluster's --address"
            )


class _Relay:
    """Brings what the workers have saved from the driver's actor to the driver."""

    def __init__(self, notices: Any, on_saved: OnSaved) -> None:
        self._notices, self._on_saved, self._told = notices, on_saved, 0

    def __call__(self) -> None:
        """Tell of what is new."""
        import ray

        for step, values in ray.get(self._notices.saved_after.remote(self._told)):
            self._told = step
            self._on_saved(step, values)


@contextmanager
def _saying_what_is_missing(notices: Any, *, workers: int, threads: int, use_gpu: bool) -> Iterator[None]:
    """While no worker has begun, say now and then what is asked of the cluster, and what it has: it may be
    about to grow, or nobody may know that it is too small.
    """
    import ray

    over = threading.Event()

    def say() -> None:
        asked = f"{threads} CPU{'s' * (threads > 1)}{' and a GPU' * use_gpu}"
        pause = _WAITING_IS_NEWS_AFTER_SECONDS
        while not over.wait(pause):
            if ray.get(notices.has_begun.remote()):
                return
            there, free = ray.cluster_resources(), ray.available_resources()
            has = ", ".join(
                f"{free.get(n, 0):.0f} of {there.get(n, 0):.0f} {n}s free" for n in ("CPU", "GPU")
            )
            print(
                f"waiting for {workers} workers of {asked} each; the cluster has {has}. It goes on when they"
                " come; Ctrl-C ends it",
                flush=True,
            )
            pause = _SECONDS_BETWEEN_SIGNS

    thread = threading.Thread(target=say, name="rwsa-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _in_thread(work: Any, *, meanwhile: Callable[[], None] | None = None) -> BaseException | None:
    """Do `work` in a thread, since in the main one Ray Train answers Ctrl-C by dropping what is not saved;
    returns what it raised. In this one, do something every now and then, and once more at the end.
    """
    raised = list[BaseException]()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="rwsa-ray-train", daemon=True)
    thread.start()
    while meanwhile is not None and thread.is_alive():
        thread.join(_RELAY_SECONDS)
        meanwhile()
    thread.join()
    return raised[0] if raised else None


def _worker(settings: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    import ray

    from pipelines.training.ray_context import RayContext

    notices = settings["notices"]
    ray.get(notices.begin.remote())
    if ray.get(notices.gave_up.remote()) is not None:
        return  # these workers replace some that met what does not go away
    try:
        _train(settings, RayContext(notices))
    except PreemptedError:  # ends well, or Ray would start all workers again
        ray.get(notices.cut_short.remote())
    except (InputError, DivergedError) as error:
        kind = next(name for name, final in _FINAL.items() if isinstance(error, final))
        ray.get(notices.give_up.remote(kind, str(error)))
        if isinstance(error, InputError):
            raise  # the other ranks may be waiting for this one; Ray ends them


def _train(settings: dict[str, Any], context: Any) -> None:
    torch.set_num_threads(settings["threads"])
    config = build(TrainRunConfig, settings["config"], where="train_loop_config")
    context.checkpoints = checkpoints_of(config)
    with ExitStack() as stack:
        if context.rank == 0:
            run = TrackedRun(config.storage, settings["run_id"])
            stack.callback(run.close, status=None)
            context.listener = stack.enter_context(RunLog(config, run, settings["commit"]))
        fit(config, context)
