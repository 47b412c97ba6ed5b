"""The jobs of infra/kuberay as commands."""

from __future__ import annotations

import subprocess

from tests.kuberay import built, environment, one


def words_of(overlay: str, job: str) -> list[str]:
    """The words of a job's entrypoint, as a shell in the head's container reads it: Ray runs it in one."""
    entrypoint = one(built(f"jobs/{overlay}"), "RayJob", job)["spec"]["entrypoint"]
    entrypoint = entrypoint.removeprefix("cd /app && ")
    command = ["sh", "-uc", f"set -- {entrypoint}; printf '%s\\0' \"$@\""]
    done = subprocess.run(
        command, env=environment(built(overlay)), capture_output=True, text=True, check=True
    )
    return done.stdout.rstrip("\0").split("\0")


def options_of(overlay: str, job: str) -> dict[str, str]:
    """Each option's value, and each `a.b=v` of `--set`."""
    words = words_of(overlay, job)
    values = {
        word: after for word, after in zip(words, [*words[1:], "--"], strict=True) if word.startswith("--")
    }
    return values | dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("--"))
