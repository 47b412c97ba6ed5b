"""Measurements of a section, rewritten as one file after each; standard library only."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Replace a file at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


class Results:
    """Rows of a section: name, value, unit, prediction, and whether the value is within its limit.

    Attributes:
        seconds_left: until the section's deadline, after which its process is killed.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._deadline = path, time.monotonic() + seconds
        self._rows: list[dict[str, Any]] = []
        self._write()

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    @property
    def failed(self) -> int:
        """Number of rows that failed or are beyond their limit."""
        return sum(not row["passed"] for row in self._rows)

    def measure(
        self,
        name: str,
        work: Callable[[], float],
        unit: str,
        *,
        predicted: float | None = None,
        most: float | None = None,
        needs_seconds: float = 0,
    ) -> float | None:
        """Run `work` and store its value; None where it fails or too little time is left.

        `most` is the largest value that passes. An error is a row, so that the next measurement follows.
        """
        row: dict[str, Any] = {"name": name, "unit": unit, "predicted": predicted, "most": most}
        if self.seconds_left < needs_seconds:
            return self._add(row | {"value": None, "note": "no time left", "passed": True})
        started = time.monotonic()
        try:
            value = float(work())
        except Exception as error:  # whatever it is, the other measurements go on
            note = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
            return self._add(row | {"value": None, "note": note, "passed": False})
        row["took_s"] = round(time.monotonic() - started, 2)
        return self._add(row | {"value": value, "passed": most is None or value <= most})

    def note(self, name: str, text: str) -> None:
        """Store a fact that is no measurement."""
        self._add({"name": name, "value": None, "unit": "", "note": text, "passed": True})

    def _add(self, row: dict[str, Any]) -> float | None:
        self._rows.append(row)
        self._write()
        print(line(row), flush=True)
        return row["value"]

    def _write(self) -> None:
        write_json(self._path, self._rows)


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    parts = [row["name"] + ":"]
    if row["value"] is not None:
        parts.append(f"{row['value']:.4g} {row['unit']}".rstrip())
    if row.get("predicted") is not None:
        parts.append(f"(predicted {row['predicted']:.4g})")
    if row.get("note"):
        parts.append(row["note"])
    if not row["passed"]:
        limit = "" if row.get("most") is None else f", at most {row['most']:.4g} allowed"
        parts.append(f"FAILED{limit}")
    return " ".join(parts)
