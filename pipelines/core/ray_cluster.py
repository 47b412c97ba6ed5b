"""Start Ray on this machine or join a cluster."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Any

import ray
import ray.exceptions

from pipelines.core.cli import ADDRESS
from pipelines.core.runtime_env import worker_runtime_env
from rwsa.errors import InputError

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
        runtime_env = worker_runtime_env(
            local=address is None,
            shared_checkout=address is None or os.environ.get("RWSA_SHARED_CHECKOUT") == "1",
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


def _set_ray_defaults(*, local: bool) -> None:
    # Otherwise Ray warns at every start that it excludes .git and .venv, which EXCLUDES does anyway.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    # Otherwise Ray Train shows every line that a worker prints twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # This machine is not preempted, and the watcher would warn about its own arguments.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0" if local else "1")
    logging.getLogger(_AUTHENTICATION_LOGGER).setLevel(logging.ERROR)
