"""Run every stage in minutes: mix shards, train, evaluate, sweep, and write pages to browse.

    python -m pipelines.demo

Runs the verbs one after another on one local Ray, and prints each command, so that any of them can be
repeated alone. Uses the recordings in `RWSA_DATA`, or fetches the starter corpus if there are none.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ray

from pipelines.core.cli import ADDRESS, cluster_argument, verb
from pipelines.core.ray_cluster import start_ray
from pipelines.core.runtime_env import CHECKOUT
from rwsa.command_line import path_argument
from rwsa.errors import InputError
from rwsa.files import read_json, write_json
from rwsa.lease import exclusive_lock

RECORDED = ("libri_esc50", "commands_urban", "voices_ambient")
FETCHED = ("starter", "starter_languages", "starter_noises")
TEST_EXAMPLES = 16
# File that marks a folder of the demo; no other folder is emptied.
MARK = ".rwsa-demo"
# Files of a finished demo of versions without the marker.
_UNMARKED = ("summary.json", "shards/index.json")


class Demo:
    """The steps of the demo. On a cluster, all nodes must see the checkout.

    Attributes:
        out: folder of the results.
        seconds: duration of each step.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        """Run every step and write `summary.json`.

        Raises:
            InputError: a step failed, or `out` cannot be emptied (see `make_empty`).
        """
        make_empty(self.out)
        # Relative to the checkout, where the commands run.
        out, cards = self.out, self._cards()
        started = time.monotonic()
        start_ray()
        self.seconds["start Ray"] = time.monotonic() - started
        storage = [
            f"storage.root={out}",
            f"storage.tracking_uri=sqlite:///{out.parent}/mlflow.db",
            "storage.experiment=demo",
        ]
        shards = f"data.shards={out}/shards"
        workers = str(min(2, os.cpu_count() or 1))
        self._step(
            "mix", "pipelines.mix_shards", "--card", cards[0], "--recipe", "datasets/recipes/demo.yaml",
            "--out", f"{out}/shards", "--splits", "train", "valid", "--shard-examples", "32",
        )  # fmt: skip
        self._step(
            "look at the data", "pipelines.dataset_page", "--shards", f"{out}/shards", "--mlflow",
            "--set", *storage,
        )  # fmt: skip
        self._step(
            "train", "pipelines.train", "base", "nano", "demo", "--workers", workers,
            "--set", "name=demo", shards, *storage,
        )  # fmt: skip
        shutil.copyfile(out / "runs" / "demo" / "model.safetensors", out / "model.safetensors")
        self._step(
            "evaluate", "pipelines.evaluate", "--weights", f"{out}/model.safetensors", "--name", "demo",
            "--corpora", *cards, "--examples", str(TEST_EXAMPLES), "--json", f"{out}/scores.json",
            "--set", *storage,
        )  # fmt: skip
        self._step(
            "sweep", "tune.sweep", "tune/ablations/demo.yaml", "--corpora", cards[0],
            "--set", shards, *storage,
        )  # fmt: skip
        scores = read_json(out / "scores.json")["corpora"]
        seconds = {step: round(duration, 1) for step, duration in self.seconds.items()}
        write_json(out / "summary.json", {"corpora": scores, "seconds": seconds}, sort_keys=False)

    def _cards(self) -> list[str]:
        """Cards of the available recordings, in-domain first; fetches the starter corpus if needed."""
        recordings = Path(os.environ.get("RWSA_DATA", CHECKOUT.parent / "shared" / "data"))
        names = RECORDED
        if not recordings.is_dir():
            names = FETCHED
            folder = os.environ.setdefault("RWSA_STARTER", str(self.out.parent / "starter"))
            self._step("fetch recordings", "pipelines.starter", "--out", folder)
        return [f"datasets/{name}.yaml" for name in names]

    def _step(self, name: str, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        print(f"\n── {name}\n$ {shlex.join(['python', *command[1:]])}", flush=True)
        environment = dict(os.environ)
        if ray.is_initialized() and ADDRESS not in os.environ:
            environment[ADDRESS] = ray.get_runtime_context().gcs_address
            environment["RWSA_SHARED_CHECKOUT"] = "1"
        started = time.monotonic()
        status = subprocess.run(command, cwd=CHECKOUT, env=environment, check=False).returncode
        self.seconds[name] = time.monotonic() - started
        if status:
            raise InputError(f"the step '{name}' failed with status {status}; its message is above")


def make_empty(out: Path) -> None:
    """Create the demo's folder, or empty that of an earlier demo, whose results the steps would reuse.

    Raises:
        InputError: `out` is a file, has files that the demo did not write, or is not writable.
    """
    try:
        existing = sorted(out.iterdir()) if out.exists() else []
        is_demo = (out / MARK).is_file() or all((out / name).is_file() for name in _UNMARKED)
        if existing and not is_demo:
            raise InputError(
                f"--out {out}: has files and was not made by the demo, which starts by emptying its folder;"
                " name a new folder, or empty this one"
            )
        out.mkdir(parents=True, exist_ok=True)
        # First, so that an interrupted demo leaves a folder that the next one may empty.
        (out / MARK).write_text("The demo made this folder and empties it when it runs again.\n")
        for path in existing:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARK:
                path.unlink()
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name a writable folder") from error


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=path_argument,
        default=Path("outputs/demo"),
        metavar="FOLDER",
        help="folder for the results, relative to the checkout (default: outputs/demo)",
    )


@verb("pipelines.demo", __doc__, _arguments, cluster_argument)
def main(options: argparse.Namespace) -> int:
    """Command line; returns the exit status."""
    os.chdir(CHECKOUT)
    demo = Demo(options.out)
    with exclusive_lock(options.out, inside=False):
        demo.run()
    print(_where_to_look(demo.out, demo.seconds))
    return 0


def _where_to_look(out: Path, seconds: dict[str, float]) -> str:
    steps = " · ".join(f"{step} {duration:.0f} s" for step, duration in seconds.items())
    return (
        f"\nDone in {sum(seconds.values()):.0f} s: {steps}\n\n"
        f"Browse runs, audio, spectrograms and the report page:\n"
        f"  .venv/bin/mlflow ui --backend-store-uri sqlite:///{out.parent}/mlflow.db\n"
        f"  then open http://127.0.0.1:5000/#/experiments/1/runs\n"
        f"Inspect and listen to the data: {out}/shards/dataset.html\n"
        f"Enhance a recording of your own:\n"
        f"  .venv/bin/rwsa enhance noisy.wav --out enhanced --weights {out}/model.safetensors\n"
        f"Scores: {out}/summary.json"
    )


if __name__ == "__main__":
    sys.exit(main())
