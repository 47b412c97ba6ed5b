"""`python -m pipelines.run` for Dagster: as a process of this machine, or as a job of a Ray cluster."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import yaml

from pipelines.core.runtime_env import CHECKOUT

# Runs `pipelines.run` with these arguments, under a name; returns its output.
Launch = Callable[[dg.AssetExecutionContext, str, Sequence[str]], str]

_SUMMARY = '{"workflow": '
# Ray refuses jobs until an agent of the head is up.
_NOT_READY = "No available agent"
_READY_SECONDS = 120.0
_POLL_SECONDS = 1.0


def summary_in(output: str) -> dict[str, Any] | None:
    """What `--json -` printed; None if it is not there."""
    lines = [line for line in output.splitlines() if line.startswith(_SUMMARY)]
    return json.loads(lines[-1]) if lines else None


def here(context: dg.AssetExecutionContext, name: str, words: Sequence[str]) -> str:
    """Run the workflow as a process; if Dagster is stopped, steps save first."""
    lines = []
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.run", *words],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        start_new_session=True,  # Ctrl-C is for Dagster, which then sends SIGTERM
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            if not line.startswith(_SUMMARY):
                context.log.info(line.rstrip())
        process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stdout.close()
    return "".join(lines)


def submit(address: str) -> Launch:
    """Run workflows as jobs of the cluster whose dashboard is at `address`, on a copy of this checkout."""

    def run(context: dg.AssetExecutionContext, name: str, words: Sequence[str]) -> str:
        # Imported here: needed for clusters only.
        from dagster_ray import PipesRayJobClient
        from ray.job_submission import JobSubmissionClient

        job = f"{name}-{uuid.uuid4().hex[:8]}"
        words = ["python", "-m", "pipelines.run", *words, "--address", "auto"]
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            # New ones each time: dagster-ray's client keeps a job's log, and changes what it is given.
            client = PipesRayJobClient(address=address, poll_interval=_POLL_SECONDS)
            runtime_env = yaml.safe_load((CHECKOUT / "infra" / "ray" / "runtime_env.yaml").read_text())
            try:
                client.run(
                    context=context,
                    submit_job_params={
                        "entrypoint": shlex.join(words),
                        "submission_id": job,
                        "runtime_env": {**runtime_env, "working_dir": str(CHECKOUT)},
                    },
                )
            except RuntimeError as error:  # also of a job that failed
                if _NOT_READY in str(error) and time.monotonic() < deadline:
                    time.sleep(_POLL_SECONDS)
                    continue
                context.log.error(str(error))
            return str(JobSubmissionClient(address).get_job_logs(job))

    return run
