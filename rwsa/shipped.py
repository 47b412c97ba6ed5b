"""Weights that come with the package, in `rwsa/weights`: their names, files, and what they say of themselves.

`python -m pipelines.publish` writes them: `NAME.safetensors`, whose metadata `about` hold training data,
licence, commit, seed and scores; the model card `NAME.md` with the curve `NAME.svg`; and `default.txt`, the
default's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rwsa.errors import InputError

FOLDER: Final = Path(__file__).parent / "weights"
SUFFIX, DEFAULT = ".safetensors", "default.txt"
# The package stays small enough to be installed by anyone.
MAX_BYTES = 5_000_000
_LONGEST_HEADER = 100_000_000
_SHOWN = {
    "pesq": ("PESQ", ".2f"),
    "ssnr": ("SSNR", ".1f"),
    "estoi": ("ESTOI", ".3f"),
    "si_sdr": ("SI-SDR", ".1f"),
}


def shipped_names() -> tuple[str, ...]:
    """Names of the shipped weights, the default first."""
    names = sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))
    try:
        default = (FOLDER / DEFAULT).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        default = ""
    return tuple(sorted(names, key=lambda name: name != default))


def shipped_file(name: str | None = None) -> Path:
    """The file of shipped weights.

    Args:
        name: of `shipped_names`; the default's if None.

    Raises:
        InputError: there are none, or none of this name.
    """
    names = shipped_names()
    if not names:
        raise InputError("no weights come with this installation of rwsa; give trained ones (--weights FILE)")
    if name is not None and name not in names:
        raise InputError(f"'{name}' is not among the shipped weights: {', '.join(names)}")
    return FOLDER / f"{name or names[0]}{SUFFIX}"


def about(path: Path) -> Mapping[str, Any]:
    """What weights say of themselves: the JSON under `about` in a safetensors file's metadata; empty without.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        found = json.loads(header.get("__metadata__", {}).get("about", "{}"))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its metadata cannot be read ({error}); fetch it again") from error
    return found if isinstance(found, dict) else {}


def description(path: Path) -> list[str]:
    """Lines for `rwsa info`: size and licence, SHA-256, and mean scores by corpus beside the noisy."""
    facts = about(path)
    scores = facts.get("scores") or {}
    head = [
        f"{facts['parameters']:,} parameters" if "parameters" in facts else "",
        f"{path.stat().st_size / 1e6:.2f} MB",
        f"licence {facts['licence']}" if facts.get("licence") else "licence unknown",
        f"trained on {facts['corpus']}" if facts.get("corpus") else "",
        f"{facts['steps']:,} steps" if "steps" in facts else "",
    ]
    with path.open("rb") as file:
        lines = [" · ".join(filter(None, head)), f"SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}"]
    width = max(map(len, scores), default=0)
    lines += [f"{corpus:{width}}  {_scores(one)}" for corpus, one in scores.items()]
    return lines


def _scores(of_corpus: Mapping[str, Any]) -> str:
    noisy, enhanced = of_corpus.get("noisy", {}), of_corpus.get("enhanced", {})
    return " · ".join(
        f"{label} {noisy[name][0]:{digits}} → {enhanced[name][0]:{digits}}"
        for name, (label, digits) in _SHOWN.items()
        if noisy.get(name) and enhanced.get(name)
    )
