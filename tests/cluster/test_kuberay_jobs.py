"""The commands of one-node's jobs on a real Ray: each reads what the one before has written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rwsa.file_cache import CACHE_NAME
from rwsa.shards.index import read_index
from tests.kuberay import built, environment, one
from tests.toy_corpus import write_corpus

CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.full


def test_the_jobs_of_one_node_follow_each_other(ray_address: str, tmp_path: Path) -> None:
    outputs, cache = tmp_path / "outputs", tmp_path / "cache"
    write_corpus(outputs / "recordings")
    recipe = outputs / "recordings" / "recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace("seconds: 0.5", "seconds: 2.0").replace("valid: 5", "valid: 8")
    )
    # The container's paths, its Ray and its MLflow.
    here = {
        "/app/datasets/recipes/demandex_style.yaml": str(recipe),
        "/app/outputs": str(outputs),
        "/app/": f"{CHECKOUT}/",
        "--address auto": f"--address {ray_address}",
        "http://mlflow:5000": f"sqlite:///{tmp_path}/mlflow.db",
        "/var/cache/rwsa": str(cache),
    }

    def local(text: str) -> str:
        for theirs, ours in here.items():
            text = text.replace(theirs, ours)
        return text

    settings = {name: local(value) for name, value in environment(built("one-node")).items()}
    settings = {name: value for name, value in settings.items() if not name.startswith("RAY_")}

    def run(job: str, *options: str) -> str:
        entrypoint = one(built("jobs/one-node"), "RayJob", job)["spec"]["entrypoint"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            " ".join((local(entrypoint), *options)),
            shell=True,  # as Ray runs a job
            cwd=CHECKOUT,
            env={**os.environ, **settings, "PATH": path},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    assert "29 examples" in run("mix")
    assert sum(read_index(outputs / "shards", "train").shard_sizes) == 21
    assert (cache / CACHE_NAME).is_file()  # and none in the shared folder
    assert list(outputs.rglob("*.sqlite")) == []
    assert "21 examples" in run("train", "--dry-run")
    assert "8 trials" in run("sweep", "--dry-run")
