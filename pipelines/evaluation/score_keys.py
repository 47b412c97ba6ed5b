"""What a score is filed under: the content of the clip, of the system, and the code that scores."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines.evaluation.clip_scores import NOISY_PHASE
from pipelines.evaluation.clips import EvaluationClip
from pipelines.evaluation.fingerprint import code_version
from rwsa.corpora.manifest import ClipPair
from rwsa.file_cache import FileCache, stamp_or_none
from rwsa.files import sha256_of
from rwsa.metrics import package_versions
from rwsa.mixing.plan_rows import SourceRange

_KIND = "sha256"
# Reading waits for the disk, and hashing lets other threads run.
_THREADS = 8
_SCORING_PACKAGES = ("numpy", "pesq", "pystoi", "scipy", "soxr")
_READING_PACKAGES = ("numpy", "soxr")
_ENHANCING_PACKAGES = ("numba", "numpy", "torch")
_MIXING_PACKAGES = ("audiomentations", "numpy", "soxr")


def scoring_version() -> str:
    """Of the code that scores a signal by `METRICS`, and its packages; the same for every clip and system."""
    return code_version(("rwsa.metrics",), _SCORING_PACKAGES)


@functools.cache
def metric_packages(name: str) -> str:
    """The versions that a metric's score rests on besides the code: `numpy-2.4.6 pesq-0.0.4`."""
    return " ".join(package_versions(("si_sdr" if name == NOISY_PHASE else name,)))


def model_key(weights_sha256: str, device: str) -> str:
    """A model as it enhances: its weights, the code that runs them, and the kind of device."""
    return digest({"weights": weights_sha256, "device": device, "code": _enhancing_version()})


def _enhancing_version() -> str:
    return code_version(("rwsa.enhancement.arrays",), _ENHANCING_PACKAGES)


def score_key(system: str, clip: str) -> str:
    """Of a system's scores on a clip, in whatever metrics.

    Args:
        system: `model_key`, the hash of a ready-made output, or the noisy row's name.
        clip: from `clip_keys`.
    """
    return digest({"system": system, "clip": clip, "code": _scoring_code()})


def _scoring_code() -> str:
    """Of what all metrics share; each one's packages are told apart by `metric_packages`."""
    return code_version(("rwsa.metrics",), _READING_PACKAGES)


def clip_keys(clips: Sequence[EvaluationClip], cache: FileCache) -> list[str | None]:
    """A hash of what each clip holds, wherever its files lie; None where one cannot be read.

    A pair is the bytes of its two files. A mixture is its plan row, the bytes of the files that it
    names, and the code that mixes, of which it is a pure function.
    """
    paths = {path for clip in clips for path in _paths(clip)}
    hashes = file_hashes(paths, cache)
    mixing = code_version(("rwsa.mixing",), _MIXING_PACKAGES)
    return [_clip_key(clip, hashes, mixing) for clip in clips]


def file_hashes(paths: Iterable[str], cache: FileCache) -> dict[str, str]:
    """SHA-256 of files' bytes, those that have not changed from the cache; without those unreadable."""
    stamps = [stamp for path in sorted(set(paths)) if (stamp := stamp_or_none(path)) is not None]
    found: dict[str, str] = cache.get(_KIND, stamps)
    unknown = [stamp for stamp in stamps if stamp.path not in found]
    with ThreadPoolExecutor(_THREADS) as pool:
        hashed = dict(zip(unknown, pool.map(lambda stamp: _hash_or_none(stamp.path), unknown), strict=True))
    new = {stamp: sha256 for stamp, sha256 in hashed.items() if sha256 is not None}
    if new:
        cache.put(_KIND, new)
    return found | {stamp.path: sha256 for stamp, sha256 in new.items()}


def digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Hexadecimal SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _hash_or_none(path: str) -> str | None:
    try:
        return sha256_of(Path(path))
    except OSError:
        return None  # what is wrong with it is told where it is to be scored


def _paths(clip: EvaluationClip) -> list[str]:
    if isinstance(clip.source, ClipPair):
        return [clip.source.noisy, clip.source.clean]
    return [source.path for source in clip.source.sources()]


def _clip_key(clip: EvaluationClip, hashes: Mapping[str, str], mixing: str) -> str | None:
    if any(path not in hashes for path in _paths(clip)):
        return None
    if isinstance(clip.source, ClipPair):
        rate_hz = clip.source.sample_rate_hz
        return digest(["pair", rate_hz, hashes[clip.source.noisy], hashes[clip.source.clean]])
    return digest(["mixture", mixing, _by_content(clip.source, hashes)])


def _by_content(value: Any, hashes: Mapping[str, str]) -> Any:
    """A plan row as plain values, with a file's hash in place of its name, path and licence."""
    if isinstance(value, SourceRange):
        kept = ("channel", "sample_rate_hz", "clip_samples", "offset", "samples")
        return [hashes[value.path], *(getattr(value, name) for name in kept)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        return {name: _by_content(getattr(value, name), hashes) for name in fields}
    if isinstance(value, Mapping):
        return {name: _by_content(one, hashes) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(one, hashes) for one in value]
    return value
