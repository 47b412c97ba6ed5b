"""The one place where Ray starts."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from pipelines.core.cli import ADDRESS
from rwsa import process
from rwsa.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2]

# Workers need the code and the cards; the rest of a checkout can be large. (`/.*` would match `.`, the
# checkout itself, and so leave out all of it.) infra/ray/runtime_env.yaml says the same of a job.
NOT_CARRIED = [
    "/outputs",
    "/shared",
    "/.?*",
    "*.egg-info",
    "__pycache__",
    "*.tar",
    "*.flac",
    "*.safetensors",
]
# Two processes that each spin two threads on two cores run ten times slower than one thread each.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Where a submitted job's driver finds the environment that all its processes have.
_OF_THE_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_SECONDS_TO_ANSWER = 10.0
# What it says at every start is no news: that a token guards the cluster.
_CHATTY = "ray._private.authentication.authentication_token_setup"


def start_ray(num_cpus: int | None = None, *, object_store_bytes: int | None = None) -> float:
    """Start Ray on this machine, or join the cluster that `RAY_ADDRESS` names; does nothing if this process
    already has.

    Workers import `pipelines` and `tune` wherever they and the driver run: from this checkout where
    they see it (on one machine, or where `RWSA_SHARED_CHECKOUT=1` says that all nodes share it), else
    from a copy that Ray carries, or that a submitted job came with. They have one thread each unless a task
    sets its own. Nothing secret goes with it, since Ray shows what it is told here to whoever asks:
    credentials are those of each node's own environment, where Ray was started.

    Args:
        num_cpus: CPUs to use on this machine; all by default.
        object_store_bytes: shared memory to set aside on this machine; Ray's choice by default.

    Returns:
        Seconds that it took.

    Raises:
        InputError: no cluster answers there, or it takes another token.
    """
    started = time.monotonic()
    if not ray.is_initialized():
        address = os.environ.get(ADDRESS) or None
        _quieten(local=address is None)
        shared = address is None or os.environ.get("RWSA_SHARED_CHECKOUT") == "1"
        job = _job_environment()
        hook = "quieten" if address is None else "on_a_cluster"
        environment = _beside(job, _runtime_env(hook, shared=shared and "working_dir" not in job))
        if address is None:
            ray.init(
                # Without "local" Ray would join whatever cluster runs on this machine.
                address="local",
                num_cpus=num_cpus,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                logging_level=logging.WARNING,
                runtime_env=environment,
            )
        else:
            _join(address, environment)
    return time.monotonic() - started


def _join(address: str, environment: dict[str, Any]) -> None:
    try:
        _knock(address)
        ray.init(address=address, logging_level=logging.WARNING, runtime_env=environment)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{ADDRESS} {address}: no Ray cluster can be joined there ({reason}); check the address, that the"
            " cluster runs, and RAY_AUTH_MODE and its token"
        ) from error


def _knock(address: str) -> None:
    """Raises OSError where nobody listens, over which Ray takes minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()


def _job_environment() -> dict[str, Any]:
    """What the job that this process is the driver of was submitted with; nothing where there is none."""
    return dict(json.loads(os.environ.get(_OF_THE_JOB, "{}")).get("runtime_env") or {})


def _beside(given: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """What is ours and not given already, which Ray would refuse; a copy of the code travels once."""
    taken = {*given, "excludes"} if "working_dir" in given else {*given}
    variables = {
        name: value for name, value in ours["env_vars"].items() if name not in given.get("env_vars", {})
    }
    return {name: value for name, value in ours.items() if name not in taken} | {"env_vars": variables}


def environment_of_workers() -> dict[str, str]:
    """Variables that all workers have."""
    return {**dict.fromkeys(_THREADS, "1"), **process.environment()}


def _runtime_env(setup: str, *, shared: bool) -> dict[str, Any]:
    environment = environment_of_workers()
    hook = {"worker_process_setup_hook": f"pipelines.core.worker_setup.{setup}"}
    if shared:
        # In place, numba's compiled loops are found again; a copy lies elsewhere in every session.
        return {**hook, "env_vars": {**environment, "PYTHONPATH": str(CHECKOUT)}}
    return {**hook, "env_vars": environment, "working_dir": str(CHECKOUT), "excludes": NOT_CARRIED}


def _quieten(*, local: bool) -> None:
    # Else Ray warns at every start that it leaves out .git and .venv, which NOT_CARRIED does anyway.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    # Else Ray Train shows every line that a worker prints twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # Nobody takes this machine away; without it Ray Train warns about the watcher's own arguments.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0" if local else "1")
    logging.getLogger(_CHATTY).setLevel(logging.ERROR)
