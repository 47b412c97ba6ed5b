"""What the steps of a workflow take, by the dry runs of their verbs."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines.workflow.prepare import Preparation
from pipelines.workflow.records import Output
from pipelines.workflow.steps import Step
from rwsa.audio import round_to_int16
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index

_NOISE_SECONDS, _NOISE_EXAMPLES = 4, 4


class Estimates:
    """Estimates of the steps of a workflow; steps that differ only in their seed are estimated once.

    A step that waits for shards is estimated on noise in their place. Use as a context manager.
    """

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._folder = tempfile.TemporaryDirectory(prefix="rwsa-estimate-")
        self._known: dict[str, str] = {}

    def __enter__(self) -> Estimates:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def of(self, step: Step, outputs: Mapping[str, Mapping[str, Output]]) -> str:
        """What a step takes, in lines; empty if its verb has no dry run, or nothing can be known yet.

        Args:
            step: of the workflow.
            outputs: of the steps that are complete, by their names.

        Raises:
            InputError: see `Preparation.prepare`.
        """
        if not step.verb.dry_run:
            return ""
        same = f"{step.base} {[value for key, value in step.variables.items() if 'seed' not in key]}"
        if same in self._known:
            return f"as {self._known[same]}"
        text, command = "", None
        if all(name in outputs for name in step.needs):
            command = self._preparation.prepare(step, outputs).command
        elif step.verb.module != "pipelines.mix_shards":
            command = self._preparation.command_with_stand_ins(step, {"shards": str(self._noise())})
            text = "on noise, in place of the shards that are not made yet:\n"
        if command is None:
            return ""
        self._known[same] = step.name
        result = subprocess.run(
            [*command, "--dry-run"], capture_output=True, text=True, errors="backslashreplace"
        )
        lines = (result.stdout if result.returncode == 0 else result.stderr).rstrip().splitlines()
        # Of noise, its name and number of examples say nothing.
        return text + "\n".join(
            line for line in lines if not (text and line.split(" ")[0] in ("run", "data"))
        )

    def _noise(self) -> Path:
        """A folder of shards of white noise; made once."""
        folder = Path(self._folder.name) / "shards"
        if not folder.exists():
            folder.mkdir()
            rng = np.random.default_rng(0)
            for split in ("train", "valid"):
                examples = [_noise_example(rng, f"{split}-{at}") for at in range(_NOISE_EXAMPLES)]
                write_shard(folder, split, 0, examples, sample_rate_hz=SAMPLE_RATE_HZ)
            merge_index(folder)
        return folder


def _noise_example(rng: np.random.Generator, name: str) -> Example:
    samples = SAMPLE_RATE_HZ * _NOISE_SECONDS
    clean, noise = (rng.normal(scale=0.05, size=samples).astype(np.float32) for _ in range(2))
    return Example(
        example_id=name,
        noisy=round_to_int16(clean + noise),
        clean=round_to_int16(clean),
        sample_rate_hz=SAMPLE_RATE_HZ,
        meta={},
    )
