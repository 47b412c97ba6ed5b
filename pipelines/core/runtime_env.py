"""Runtime environment of Ray workers: environment variables, code, the setup hook, and the time to stop.

`infra/ray/runtime_env.yaml` repeats it for submitted jobs; `rwsa.process` has variables for speed.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

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
# Where the driver of a submitted job finds the job's configuration.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def worker_runtime_env(*, local: bool, shared_checkout: bool) -> dict[str, Any]:
    """Runtime environment for `ray.init`, without what a submitted job has set already.

    Args:
        local: whether Ray starts on this machine, rather than joining a cluster.
        shared_checkout: whether all nodes see this checkout; otherwise Ray distributes a copy.
    """
    job = _job_runtime_env()
    hook = "set_up_local_worker" if local else "set_up_cluster_worker"
    ours: dict[str, Any] = {
        "worker_process_setup_hook": f"pipelines.core.worker_setup.{hook}",
        "env_vars": worker_environment(),
    }
    if shared_checkout and "working_dir" not in job:
        # The path stays the same between sessions, so numba's cache of compiled loops is reused.
        own = os.environ.get("PYTHONPATH", "")
        ours["env_vars"] |= {"PYTHONPATH": os.pathsep.join(filter(None, (str(CHECKOUT), own)))}
    else:
        ours |= {"working_dir": str(CHECKOUT), "excludes": EXCLUDES}
    return _without(job, ours)


def worker_environment() -> dict[str, str]:
    """Environment variables of all workers."""
    # On two cores, two processes of two spinning threads each are ten times slower than one thread each.
    return {**dict.fromkeys(process.THREAD_VARIABLES, "1"), **process.environment()}


def grace_seconds() -> float:
    """Seconds from SIGTERM until the process ends in any case: `RWSA_STOP_SECONDS`, by default 25.

    Kubernetes kills after 30 s by default; the job files of infra/ set what they allow.

    Raises:
        InputError: the variable is not a positive number.
    """
    text = os.environ.get("RWSA_STOP_SECONDS") or "25"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise InputError(f"RWSA_STOP_SECONDS is '{text}'; set it to a positive number of seconds, such as 25")
    return seconds


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
