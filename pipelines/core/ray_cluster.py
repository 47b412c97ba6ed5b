"""Start Ray or join a cluster, with the environment of its workers."""

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

# Not copied to workers, which need the code and the cards only. (`/.*` would match `.`, the whole checkout.)
# infra/ray/runtime_env.yaml repeats this list for submitted jobs.
EXCLUDES = [
    "/outputs",
    "/shared",
    "/.?*",
    "*.egg-info",
    "__pycache__",
    "*.tar",
    "*.flac",
    "*.safetensors",
]
# On two cores, two processes of two spinning threads each are ten times slower than one thread each.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Where the driver of a submitted job finds the job's configuration.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_CONNECT_SECONDS = 10.0
# Warns at every start that the cluster requires a token.
_AUTHENTICATION_LOGGER = "ray._private.authentication.authentication_token_setup"


def start_ray(num_cpus: int | None = None, *, object_store_bytes: int | None = None) -> float:
    """Start Ray on this machine, or join the cluster at `RAY_ADDRESS`; does nothing if Ray is initialized.

    Workers import `pipelines` and `tune` from this checkout if they can see it (on one machine, or if
    `RWSA_SHARED_CHECKOUT=1` declares that all nodes can), else from a copy that Ray distributes or that came
    with a submitted job. Workers use one thread unless a task sets its own number. Credentials are not
    passed on, since Ray shows its runtime environment to every user of the cluster: each node uses those of
    the environment that Ray was started in.

    Args:
        num_cpus: CPUs to use on this machine; all by default.
        object_store_bytes: shared memory to reserve on this machine; Ray's choice by default.

    Returns:
        Seconds that it took.

    Raises:
        InputError: no cluster answers at the address, or it refuses the token.
    """
    started = time.monotonic()
    if not ray.is_initialized():
        address = os.environ.get(ADDRESS) or None
        _set_ray_defaults(local=address is None)
        job = _job_runtime_env()
        shared = address is None or os.environ.get("RWSA_SHARED_CHECKOUT") == "1"
        runtime_env = _without(
            job, _runtime_env(local=address is None, shared=shared and "working_dir" not in job)
        )
        if address is None:
            ray.init(
                # Without "local" Ray would join any cluster that runs on this machine.
                address="local",
                num_cpus=num_cpus,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                logging_level=logging.WARNING,
                runtime_env=runtime_env,
            )
        else:
            _join(address, runtime_env)
    return time.monotonic() - started


def _join(address: str, runtime_env: dict[str, Any]) -> None:
    try:
        # First, since Ray retries for minutes if the port is closed.
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon and port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address=address, logging_level=logging.WARNING, runtime_env=runtime_env)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{ADDRESS} {address}: no Ray cluster can be joined there ({reason}); check the address, that the"
            " cluster runs, and RAY_AUTH_MODE and its token"
        ) from error


def _job_runtime_env() -> dict[str, Any]:
    """The runtime environment of the submitted job whose driver this process is; empty without a job."""
    return dict(json.loads(os.environ.get(_JOB_CONFIG, "{}")).get("runtime_env") or {})


def _without(job: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Our runtime environment without what the job sets already, which Ray would refuse as a conflict."""
    taken = {*job, "excludes"} if "working_dir" in job else {*job}
    variables = {
        name: value for name, value in ours["env_vars"].items() if name not in job.get("env_vars", {})
    }
    return {name: value for name, value in ours.items() if name not in taken} | {"env_vars": variables}


def worker_environment() -> dict[str, str]:
    """Environment variables of all workers."""
    return {**dict.fromkeys(_THREADS, "1"), **process.environment()}


def _runtime_env(*, local: bool, shared: bool) -> dict[str, Any]:
    hook = "set_up_local_worker" if local else "set_up_cluster_worker"
    runtime_env = {
        "worker_process_setup_hook": f"pipelines.core.worker_setup.{hook}",
        "env_vars": worker_environment(),
    }
    if shared:
        # The path stays the same between sessions, so numba's cache of compiled loops is reused.
        return runtime_env | {"env_vars": {**worker_environment(), "PYTHONPATH": str(CHECKOUT)}}
    return runtime_env | {"working_dir": str(CHECKOUT), "excludes": EXCLUDES}


def _set_ray_defaults(*, local: bool) -> None:
    # Else Ray warns at every start that it excludes .git and .venv, which EXCLUDES does anyway.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    # Else Ray Train shows every line that a worker prints twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # This machine is not preempted, and the watcher would warn about its own arguments.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0" if local else "1")
    logging.getLogger(_AUTHENTICATION_LOGGER).setLevel(logging.ERROR)
