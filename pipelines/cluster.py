"""The one place where Ray starts."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import ray
import ray.data

from rwsa import process

CHECKOUT = Path(__file__).resolve().parents[1]

# Workers need the code and the cards; the rest of a checkout can be large. (`/.*` would match `.`, the
# checkout itself, and so leave out all of it.)
_NOT_CARRIED = [
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
# What these say at every start is no news: that a token guards the cluster, that bars are off.
_CHATTY = ("ray._private.authentication.authentication_token_setup", "ray.data._internal.progress")


def start_ray(
    num_cpus: int | None = None, address: str | None = None, *, object_store_bytes: int | None = None
) -> float:
    """Start Ray on this machine or join a cluster; does nothing if this process already has.

    Workers import `pipelines` and `tune` wherever they and the driver run: from this checkout where
    they see it (on one machine, or where `RWSA_SHARED_CHECKOUT=1` says that all nodes share it), else
    from a copy that Ray carries. They have one thread each unless a task sets its own.

    Args:
        num_cpus: CPUs to use on this machine; all by default.
        address: of a cluster to join instead; default `RAY_ADDRESS`, if that is set.
        object_store_bytes: shared memory to set aside on this machine; Ray's choice by default.

    Returns:
        Seconds that it took.
    """
    started = time.monotonic()
    if not ray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS") or None
        _quieten(local=address is None)
        ray.init(
            # Without "local" Ray would join whatever cluster runs on this machine.
            address=address or "local",
            # What belongs to the machine that starts a cluster is not for one who joins it to say.
            num_cpus=None if address else num_cpus,
            object_store_memory=None if address else object_store_bytes,
            include_dashboard=None if address else False,
            logging_level=logging.WARNING,
            runtime_env=_runtime_env(shared=address is None or os.environ.get("RWSA_SHARED_CHECKOUT") == "1"),
        )
    return time.monotonic() - started


def _runtime_env(*, shared: bool) -> dict[str, Any]:
    environment = {**dict.fromkeys(_THREADS, "1"), **process.environment()}
    hook = {"worker_process_setup_hook": "pipelines.worker_setup.quieten"}
    if shared:
        # In place, numba's compiled loops are found again; a copy lies elsewhere in every session.
        return {**hook, "env_vars": {**environment, "PYTHONPATH": str(CHECKOUT)}}
    return {**hook, "env_vars": environment, "working_dir": str(CHECKOUT), "excludes": _NOT_CARRIED}


def _quieten(*, local: bool) -> None:
    # Else Ray warns at every start that it leaves out .git and .venv, which _NOT_CARRIED does anyway.
    os.environ.setdefault("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    # Else Ray Train shows every line that a worker prints twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # Nobody takes this machine away; without it Ray Train warns about the watcher's own arguments.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0" if local else "1")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
