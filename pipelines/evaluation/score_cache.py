"""Scores cached by content; clip, system and the code that decides a score make the key.

ROOT/ab/abcdef….json   the scores of one signal of one clip, each with the packages that it depends on
ROOT/ab/abcdef….npy    its samples, of the few clips that are audio samples in a report
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from upath import UPath

from pipelines.evaluation.clip_scores import NOISY_PHASE, SignalScores
from pipelines.evaluation.clips import EvaluationClip
from rwsa.corpora.manifest import ClipPair
from rwsa.errors import InputError
from rwsa.file_cache import FileCache, stamp_or_none
from rwsa.files import StoragePath, atomic_write, is_remote, sha256_of, store_errors
from rwsa.fingerprint import code_fingerprint
from rwsa.metrics import Failure, package_versions
from rwsa.mixing.plan_rows import SourceRange
from rwsa.names import local_path

# The folder of scores, beside the cache of files.
SCORES = "scores"
# What `code_fingerprint` covers. Scores of different metrics share a key; each is stored with its own
# packages.
SCORING = (("rwsa.metrics",), ("numpy", "soxr"))
TABLE1_SCORING = (("rwsa.metrics",), ("numpy", "pesq", "pystoi", "scipy", "soxr"))
ENHANCING = (("rwsa.enhancement.arrays",), ("numba", "numpy", "torch"))
MIXING = (("rwsa.mixing.render",), ("audiomentations", "numpy", "soxr"))
_HASH_KIND = "sha256"
# Reading waits for the disk, and hashing lets other threads run.
_HASH_THREADS = 8

# What reading a missing or damaged file raises.
_DAMAGED = (
    FileNotFoundError,
    AttributeError,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


class ScoreCache:
    """A folder, on this machine or in an object store, that any number of processes may use at a time.

    There is one small file per signal, so writers rarely collide and a kill loses none. A damaged file (full
    disk, power cut) counts as missing and is replaced. If two processes add metrics to one signal at the same
    moment, one may lose its own, which are computed again. A store is listed once, at the start: a request
    for each of thousands of missing scores would take minutes.

    Raises:
        InputError: from `put` and `put_audio`: the folder cannot be written; from all: it cannot be read.
    """

    def __init__(self, root: StoragePath) -> None:
        self.root = root
        self._names = _listing(root) if is_remote(root) else None

    def get(self, key: str) -> SignalScores | None:
        """The scores under this key, without those by other versions of packages; None for no file."""
        try:
            found = json.loads(self._read(key, "json"))
            snr_db, clipped_share = found["snr_db"], found["clipped_share"]
            if type(found["floored"]) is not bool:
                return None
            return SignalScores(
                values={
                    name: _value(entry)
                    for name, entry in found["values"].items()
                    if entry["packages"] == metric_packages(name)
                },
                snr_db=None if snr_db is None else float(snr_db),
                clipped_share=float(clipped_share),
                floored=found["floored"],
            )
        except InputError:
            raise
        except _DAMAGED:
            return None

    def put(self, key: str, scores: SignalScores) -> None:
        """Add scores to those in other metrics; they are on the disk when this returns."""
        before = self.get(key)
        values = {**(before.values if before else {}), **scores.values}
        plain = {
            "values": {name: _plain(name, value) for name, value in values.items()},
            "snr_db": scores.snr_db,
            "clipped_share": scores.clipped_share,
            "floored": scores.floored or (before is not None and before.floored),
        }
        with atomic_write(self._path(key, "json")) as temporary:
            temporary.write_text(json.dumps(plain), encoding="utf-8")
        self._add_name(key, "json")

    def get_audio(self, key: str) -> np.ndarray | None:
        """The signal that was put under this key, `[samples]`; None for no file."""
        try:
            wav = np.load(io.BytesIO(self._read(key, "npy")), allow_pickle=False)
            is_signal = isinstance(wav, np.ndarray) and wav.ndim == 1 and wav.dtype.kind == "f"
            return wav if is_signal and np.isfinite(wav).all() else None
        except InputError:
            raise
        except _DAMAGED:
            return None

    def put_audio(self, key: str, wav: np.ndarray) -> None:
        """Save a signal, `[samples]`."""
        with atomic_write(self._path(key, "npy")) as temporary:
            np.save(temporary, wav, allow_pickle=False)
        self._add_name(key, "npy")

    def _path(self, key: str, suffix: str) -> StoragePath:
        return self.root / key[:2] / f"{key}.{suffix}"

    def _add_name(self, key: str, suffix: str) -> None:
        if self._names is not None:
            self._names.add(f"{key}.{suffix}")

    def _read(self, key: str, suffix: str) -> bytes:
        if self._names is not None and f"{key}.{suffix}" not in self._names:
            raise FileNotFoundError(key)
        path = self._path(key, suffix)
        try:
            with store_errors(path):
                return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(
                f"{self.root}: cached scores cannot be read ({error.strerror}); set storage.root to another"
            ) from error


def beside(files: FileCache) -> ScoreCache:
    """The score cache next to a file cache, which all verbs that score share."""
    return ScoreCache(files.path.parent / SCORES)


def _listing(root: UPath) -> set[str]:
    """Names of all files in a store's folder."""
    with store_errors(root):
        return {path.rpartition("/")[2] for path in root.fs.find(root.path)}


def _plain(name: str, value: float | Failure) -> dict[str, Any]:
    entry = {"failure": value.reason} if isinstance(value, Failure) else {"value": value}
    return {**entry, "packages": metric_packages(name)}


def _value(entry: Mapping[str, Any]) -> float | Failure:
    return Failure(str(entry["failure"])) if "failure" in entry else float(entry["value"])


@functools.cache
def metric_packages(name: str) -> str:
    """The versions of packages that a metric depends on: `numpy-2.4.6 pesq-0.0.4`."""
    return " ".join(package_versions(("si_sdr" if name == NOISY_PHASE else name,)))


def scoring_version() -> str:
    """Fingerprint of the code and packages of Table 1's metrics."""
    return code_fingerprint(*TABLE1_SCORING)


def score_key(system: str, clip: str) -> str:
    """Key of a system's scores on a clip, in any metrics.

    Args:
        system: `model_key`, the hash of a ready-made output, or the noisy row's name.
        clip: from `clip_keys`.
    """
    return digest({"system": system, "clip": clip, "code": code_fingerprint(*SCORING)})


def model_key(weights_sha256: str, device: str) -> str:
    """Key of a model as it enhances: its weights, the code that runs them, and the kind of device."""
    return digest({"weights": weights_sha256, "device": device, "code": code_fingerprint(*ENHANCING)})


def clip_keys(clips: Sequence[EvaluationClip], cache: FileCache) -> list[str | None]:
    """Hashes of clips' content, whatever their paths; None for a clip with an unreadable file.

    A pair is the bytes of its two files. A mixture is its plan row, the bytes of the files that it names, and
    the code that renders it.
    """
    hashes = file_hashes({path for clip in clips for path in _paths(clip)}, cache)
    return [_clip_key(clip, hashes) for clip in clips]


def _clip_key(clip: EvaluationClip, hashes: Mapping[str, str]) -> str | None:
    if any(path not in hashes for path in _paths(clip)):
        return None
    if isinstance(clip.source, ClipPair):
        rate_hz = clip.source.sample_rate_hz
        return digest(["pair", rate_hz, hashes[clip.source.noisy], hashes[clip.source.clean]])
    return digest(["mixture", code_fingerprint(*MIXING), _by_content(clip.source, hashes)])


def _paths(clip: EvaluationClip) -> list[str]:
    if isinstance(clip.source, ClipPair):
        return [clip.source.noisy, clip.source.clean]
    return [source.path for source in clip.source.sources()]


def _by_content(value: Any, hashes: Mapping[str, str]) -> Any:
    """A plan row as plain values, with a file's hash in place of its name, path and licence."""
    if isinstance(value, SourceRange):
        names = ("channel", "sample_rate_hz", "clip_samples", "offset", "samples")
        return [hashes[value.path], *(getattr(value, name) for name in names)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        return {name: _by_content(getattr(value, name), hashes) for name in fields}
    if isinstance(value, Mapping):
        return {name: _by_content(one, hashes) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(one, hashes) for one in value]
    return value


def file_hashes(paths: Iterable[str], cache: FileCache) -> dict[str, str]:
    """SHA-256 of each readable file's bytes; of unchanged files from the cache."""
    stamps = [stamp for path in sorted(set(paths)) if (stamp := stamp_or_none(path)) is not None]
    cached = cache.get(_HASH_KIND, stamps)
    known = {path: value for path, value in cached.items() if _is_sha256(value)}
    unknown = [stamp for stamp in stamps if stamp.path not in known]
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        hashed = dict(zip(unknown, pool.map(lambda stamp: _hash_or_none(stamp.path), unknown), strict=True))
    new = {stamp: sha256 for stamp, sha256 in hashed.items() if sha256 is not None}
    if new:
        cache.put(_HASH_KIND, new)
    return known | {stamp.path: sha256 for stamp, sha256 in new.items()}


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _hash_or_none(path: str) -> str | None:
    try:
        return sha256_of(local_path(path))
    except OSError:
        return None  # reported when the clip is scored


def digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Hexadecimal SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
