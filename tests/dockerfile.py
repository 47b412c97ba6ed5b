"""Parser of a Dockerfile's stages: enough to check ours and to run its installation without Docker."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Stage:
    """One stage: its base (an image or an earlier stage) and its steps in order.

    Attributes:
        steps: (instruction, arguments), without comments, continued lines joined.
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of every such instruction."""
        return [arguments for name, arguments in self.steps if name == instruction]

    def installs(self) -> list[str]:
        """Its pip commands."""
        return [run for run in self.all("RUN") if run.startswith("pip ")]

    def copies(self) -> list[str]:
        """What it copies from the checkout."""
        copied = [words.split() for words in self.all("COPY") if not words.startswith("--from")]
        return [source for words in copied for source in words[:-1]]


def read_stages(path: Path) -> dict[str, Stage]:
    """The stages by name."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    stages: dict[str, Stage] = {}
    for line in text.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(name=name, base=base)
        elif line.strip() and stages:
            list(stages.values())[-1].steps.append((instruction, " ".join(rest.split())))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """The stages that a stage builds on, in order, and the stage itself."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]
