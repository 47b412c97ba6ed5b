"""Start Ray on this machine or join a cluster."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import ray
import ray.exceptions

from pipelines.core.cli import ADDRESS
from pipelines.core.ray_address import check_address
from pipelines.core.runtime_env import worker_runtime_env
from pipelines.core.worker_setup import set_up_machine
from rwsa.errors import InputError

# Ray gives its processes 30 s to start, which a loaded machine or a slow disk exceeds at the first start.
_ATTEMPTS = 3
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
        InputError: no cluster answers at the address, or it refuses the token; or Ray does not start.
    """
    started = time.monotonic()
    if not ray.is_initialized():
        address = os.environ.get(ADDRESS) or None
        _set_ray_defaults(local=address is None)
        if address is None:
            set_up_machine()
        runtime_env = worker_runtime_env(
            local=address is None,
            shared_checkout=address is None or os.environ.get("RWSA_SHARED_CHECKOUT") == "1",
        )
        if address is None:
            _start(num_cpus, object_store_bytes, runtime_env)
        else:
            _join(address, runtime_env)
    return time.monotonic() - started


def _start(num_cpus: int | None, object_store_bytes: int | None, runtime_env: dict[str, Any]) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(
                # Without "local" Ray would join any cluster that runs on this machine.
                address="local",
                num_cpus=num_cpus,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                logging_level=logging.WARNING,
                runtime_env=runtime_env,
            )
            return
        except InputError:
            raise
        except Exception as error:  # Ray raises Exception itself if a process is slow to start
            ray.shutdown()
            if attempt < _ATTEMPTS and "timed out during startup" in str(error):
                print("Ray is slow to start on this machine; trying again", file=sys.stderr)
                continue
            raise InputError(
                f"Ray does not start on this machine ({_reason(error)}); check its memory, load and limits"
                f" (ulimit -a), and the logs below {_log_folder()}; commands with --workers 0 run without Ray"
            ) from error


def _log_folder() -> str:
    return f"{os.environ.get('RAY_TMPDIR') or os.environ.get('TMPDIR') or '/tmp'}/ray/session_latest/logs"


def _join(address: str, runtime_env: dict[str, Any]) -> None:
    try:
        address = check_address(address)
        ray.init(address=address, logging_level=logging.WARNING, runtime_env=runtime_env)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(
            f"{ADDRESS} {address}: no Ray cluster can be joined there ({_reason(error)}); check the address,"
            " that the cluster runs, and RAY_AUTH_MODE and its token"
        ) from error


def _reason(error: BaseException) -> str:
    """The first lines of an error's text as one."""
    text = " ".join(str(error).split())
    return f"{text[:300]}…" if len(text) > 300 else text or type(error).__name__


def _set_ray_defaults(*, local: bool) -> None:
    # Otherwise Ray warns at every start that it excludes .git and .venv, which EXCLUDES does anyway.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    # Otherwise Ray Train shows every line that a worker prints twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "180")
    # This machine is not preempted, and the watcher would warn about its own arguments.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0" if local else "1")
    logging.getLogger(_AUTHENTICATION_LOGGER).setLevel(logging.ERROR)
