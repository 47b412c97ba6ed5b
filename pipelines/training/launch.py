"""Launch the training loop: in this process, or on Ray Train with any number of workers."""

from __future__ import annotations

import dataclasses
import os
import sys
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
from rwsa.errors import DivergedError, InputError, LostWorkersError, PreemptedError
from rwsa.files import StoragePath, location
from rwsa.lease import lease_ticket, under_lease
from rwsa.training.checkpoints import Checkpoints
from rwsa.training.config import self_contained
from rwsa.training.context import LocalContext, StopSignal
from rwsa.training.loop import fit

# Set for the steps of a workflow that has started Ray on this machine, which no autoscaler extends.
LOCAL_RAY = "RWSA_LOCAL_RAY"
_POLL_SECONDS = 0.5
_FIRST_WAITING_MESSAGE_SECONDS, _NEXT_WAITING_MESSAGE_SECONDS = 60.0, 600.0
_FINAL_ERRORS = {kind.__name__: kind for kind in (InputError, DivergedError)}

# Called with the step of a checkpoint and its validation metrics.
OnCheckpoint = Callable[[int, Mapping[str, float]], None]


def run_folder(config: TrainRunConfig) -> StoragePath:
    """Folder of a run's checkpoints and weights."""
    return location(config.storage.root) / "runs" / config.name


def checkpoints_of(config: TrainRunConfig) -> Checkpoints:
    """A run's checkpoints; their folder is the same for every launcher."""
    return Checkpoints(run_folder(config) / "checkpoints", keep=config.keep_checkpoints)


def train_in_process(
    config: TrainRunConfig,
    run: TrackedRun,
    *,
    threads: int,
    stop: StopSignal,
    on_checkpoint: OnCheckpoint | None = None,
    alone: bool = True,
) -> None:
    """Train in this process; `alone` says whether the machine's load is this run's.

    Raises:
        InputError, DivergedError, PreemptedError: see `rwsa.training.loop.fit`.
    """
    torch.set_num_threads(threads)
    with RunLog(config, run, commit(), machine=alone) as log:
        context = LocalContext(
            run_folder(config), log, keep=config.keep_checkpoints, stop=stop, on_checkpoint=on_checkpoint
        )
        fit(config, context)


def train_on_ray(
    config: TrainRunConfig,
    run: TrackedRun,
    *,
    workers: int,
    threads: int,
    gpu: bool | None,
    stop: StopSignal,
    on_checkpoint: OnCheckpoint | None = None,
    alone: bool = True,
) -> None:
    """Train on Ray Train, which restarts lost workers up to `config.max_failures` times.

    Args:
        gpu: whether each worker gets a GPU; default: if the cluster has one now.
        on_checkpoint: called in this thread.
        alone: whether the machine's load is this run's.

    Raises:
        InputError, DivergedError, PreemptedError: see `rwsa.training.loop.fit`; also InputError if Ray
            was started on this machine, which has too few CPUs or GPUs.
        LostWorkersError: workers hung more often than `config.max_failures`.
        ray.train.TrainingFailedError: workers were lost too often, or raised an unexpected error.
    """
    import ray
    import ray.train.torch
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from pipelines.training.ray_context import RunCoordinator

    worker_config = dataclasses.replace(config, data=self_contained(config.data))
    start_ray()
    stop.install()  # Ray replaces the signal handlers
    resources = ray.cluster_resources()
    use_gpu = bool(resources.get("GPU")) if gpu is None else gpu
    if not os.environ.get(ADDRESS) or os.environ.get(LOCAL_RAY):
        _check_resources(resources, workers=workers, threads=threads, use_gpu=use_gpu)
    # On this node, whose loss ends the run anyway. Not soft: Ray would then choose another node if this one
    # offers no CPU, as a cluster's head often does.
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    coordinator = RunCoordinator.options(scheduling_strategy=this_node).remote()  # type: ignore[attr-defined]
    stop.add_callback(lambda: coordinator.request_stop.remote())
    # At INFO, Train logs lines at every checkpoint on every rank. A mapping, since the type checker sees the
    # predecessor of ray.train.RunConfig, which lacks the option.
    quiet: dict[str, Any] = {"logging_config": ray.train.LoggingConfig(log_level="WARNING")}
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "config": as_mapping(worker_config),
            "run_id": run.run_id,
            "commit": commit(),
            "threads": threads,
            "alone": alone,
            "lease": lease_ticket(run_folder(config)),
            "coordinator": coordinator,
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
        # Longer than the hang watch waits, which names the rank and ends at once; after a collective
        # operation's timeout Ray waits for the process that hangs.
        torch_config=ray.train.torch.TorchConfig(timeout_s=2 * config.hang_timeout_s),
    )
    relay = _Relay(coordinator, on_checkpoint, stop, max_failures=config.max_failures)
    with _report_waiting(coordinator, workers=workers, threads=threads, use_gpu=use_gpu):
        error = _run_in_thread(trainer.fit, poll=relay)
    final_error = ray.get(coordinator.final_error.remote())
    if final_error is not None:
        kind, message = final_error
        raise _FINAL_ERRORS[kind](message)
    if error is not None and relay.hung:
        raise LostWorkersError(
            f"{relay.hung}; the workers were restarted {config.max_failures} times (max_failures); check"
            " that node and its storage; the same command resumes from the last checkpoint"
        ) from error
    if error is not None:
        raise error
    if ray.get(coordinator.was_preempted.remote()):
        raise PreemptedError("stopped on request, after saving; the same command resumes")


def _check_resources(resources: Mapping[str, float], *, workers: int, threads: int, use_gpu: bool) -> None:
    """Refuse what this machine does not have: Ray would wait for it forever."""
    required = {"CPU": workers * threads, "GPU": workers * use_gpu}
    for name, count in required.items():
        if count > resources.get(name, 0):
            raise InputError(
                f"--workers {workers}: requires {count} {name}s, and Ray has {resources.get(name, 0):.0f} on"
                " this machine; use fewer workers or --cpus-per-worker, or a cluster's --address"
            )


class _Relay:
    """Passes reported checkpoints from the coordinator to `on_checkpoint`, and prints reported hangs.

    Attributes:
        hung: the last hang for which workers ended.
    """

    def __init__(
        self, coordinator: Any, on_checkpoint: OnCheckpoint | None, stop: StopSignal, *, max_failures: int
    ) -> None:
        self._coordinator, self._on_checkpoint, self._last_step = coordinator, on_checkpoint, 0
        self._stop, self._max_failures, self._ends = stop, max_failures, 0
        self.hung: str | None = None

    def __call__(self) -> None:
        """Pass on new checkpoints and hangs.

        Raises:
            PreemptedError: SIGTERM was received and the workers have not saved within the grace.
        """
        import ray

        if self._stop.overdue:
            raise PreemptedError(
                "stopped on request, but the workers did not end their step in time (RWSA_STOP_SECONDS);"
                " the last checkpoint is kept, and the same command resumes from it"
            )
        for text, ends in ray.get(self._coordinator.take_hangs.remote()):
            if ends:
                self.hung, self._ends = text, self._ends + 1
                if self._ends <= self._max_failures:
                    text += f"; restarting from the last checkpoint ({self._ends} of {self._max_failures})"
            if not ends or self._ends <= self._max_failures:
                print(text, file=sys.stderr, flush=True)
        if self._on_checkpoint is None:
            return
        for step, metrics in ray.get(self._coordinator.checkpoints_after.remote(self._last_step)):
            self._last_step = step
            self._on_checkpoint(step, metrics)


@contextmanager
def _report_waiting(coordinator: Any, *, workers: int, threads: int, use_gpu: bool) -> Iterator[None]:
    """Until a worker starts, print required and available resources: the cluster may be too small."""
    import ray

    done = threading.Event()

    def report() -> None:
        worker = f"{threads} CPU{'s' * (threads > 1)}{' and a GPU' * use_gpu}"
        pause = _FIRST_WAITING_MESSAGE_SECONDS
        while not done.wait(pause):
            if ray.get(coordinator.has_started.remote()):
                return
            total, free = ray.cluster_resources(), ray.available_resources()
            available = ", ".join(
                f"{free.get(n, 0):.0f} of {total.get(n, 0):.0f} {n}s free" for n in ("CPU", "GPU")
            )
            print(
                f"waiting for {workers} workers of {worker} each; the cluster has {available}. Training"
                " starts when they are available; Ctrl-C stops",
                flush=True,
            )
            pause = _NEXT_WAITING_MESSAGE_SECONDS

    thread = threading.Thread(target=report, name="rwsa-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _run_in_thread(work: Any, *, poll: Callable[[], None]) -> BaseException | None:
    """Run `work` in a thread and call `poll` regularly in this one, and once at the end.

    In the main thread Ray Train would handle Ctrl-C by discarding unsaved progress.

    Returns:
        The exception that `work` raised.
    """
    raised = list[BaseException]()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="rwsa-ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        poll()
    thread.join()
    return raised[0] if raised else None


def _worker(settings: dict[str, Any]) -> None:
    """Entry point of each Ray Train worker."""
    import ray

    from pipelines.training.ray_context import RayContext

    coordinator = settings["coordinator"]
    ray.get(coordinator.report_start.remote())
    if ray.get(coordinator.final_error.remote()) is not None:
        return  # restarted after an error that a restart does not fix
    try:
        _train(settings, RayContext(coordinator))
    except PreemptedError:  # not raised further: Ray would restart all workers
        ray.get(coordinator.report_preempted.remote())
    except (InputError, DivergedError) as error:
        kind = next(name for name, final in _FINAL_ERRORS.items() if isinstance(error, final))
        ray.get(coordinator.report_error.remote(kind, str(error)))
        if isinstance(error, InputError):
            raise  # other ranks may be waiting for this one; Ray ends them


def _train(settings: dict[str, Any], context: Any) -> None:
    torch.set_num_threads(settings["threads"])
    config = build(TrainRunConfig, settings["config"], where="train_loop_config")
    context.checkpoints = checkpoints_of(config)
    with ExitStack() as stack:
        stack.enter_context(under_lease(settings["lease"]))
        if context.rank == 0:
            run = TrackedRun(config.storage, settings["run_id"])
            stack.callback(run.close, status=None)
            context.logger = stack.enter_context(
                RunLog(config, run, settings["commit"], machine=settings["alone"])
            )
        fit(config, context)
