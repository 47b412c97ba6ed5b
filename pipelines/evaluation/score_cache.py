"""Scores kept on disk by content: one small file a signal, so that writers hardly meet and a kill loses none.

ROOT/ab/abcdef….json   the scores of one signal of one clip, each with the packages that it rests on
ROOT/ab/abcdef….npy    its samples, for the few clips that are listened to
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from upath import UPath

from pipelines.evaluation.clip_scores import SignalScores
from pipelines.evaluation.score_keys import metric_packages
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.files import atomic_write, is_remote, reaching
from rwsa.metrics import Failure

# The folder of scores, beside what is known of files.
SCORES = "scores"


class ScoreCache:
    """The files; any number of processes on any number of machines may use one folder, or one in a store.

    A file that is damaged (a disk ran full, a power cut) counts as missing and is written again. Of two that
    add metrics to one signal at the same moment, one may lose its own, which are then computed again. A store
    is listed once, at the start: a question for each of thousands of scores that are not there takes minutes.

    Raises:
        InputError: from `put` and `put_audio`: the folder cannot be written; from all: it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._there = _listing(root) if is_remote(root) else None

    def get(self, key: str) -> SignalScores | None:
        """What `put` was given under this key, None where it was given nothing.

        Without scores that rest on other versions of packages than those installed.
        """
        try:
            found = json.loads(self._read(key, "json"))
            return SignalScores(
                values={
                    name: _value(kept)
                    for name, kept in found["values"].items()
                    if kept["packages"] == metric_packages(name)
                },
                snr_db=found["snr_db"],
                clipped_share=found["clipped_share"],
                floored=found["floored"],
            )
        except InputError:
            raise
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, key: str, scores: SignalScores) -> None:
        """Keep scores, beside those in other metrics; they survive a kill as soon as this returns."""
        before = self.get(key)
        kept = {**(before.values if before else {}), **scores.values}
        plain = {
            "values": {name: _plain(name, value) for name, value in kept.items()},
            "snr_db": scores.snr_db,
            "clipped_share": scores.clipped_share,
            "floored": scores.floored or (before is not None and before.floored),
        }
        with atomic_write(self._path(key, "json")) as aside:
            aside.write_text(json.dumps(plain), encoding="utf-8")
        self._note(key, "json")

    def get_audio(self, key: str) -> np.ndarray | None:
        """What `put_audio` was given under this key, None where it was given nothing."""
        try:
            return np.asarray(np.load(io.BytesIO(self._read(key, "npy")), allow_pickle=False))
        except InputError:
            raise
        except (FileNotFoundError, ValueError, EOFError):
            return None

    def put_audio(self, key: str, wav: np.ndarray) -> None:
        """Keep a signal, `[samples]`."""
        with atomic_write(self._path(key, "npy")) as aside:
            np.save(aside, wav, allow_pickle=False)
        self._note(key, "npy")

    def _path(self, key: str, suffix: str) -> Path:
        return self.root / key[:2] / f"{key}.{suffix}"

    def _note(self, key: str, suffix: str) -> None:
        if self._there is not None:
            self._there.add(f"{key}.{suffix}")

    def _read(self, key: str, suffix: str) -> bytes:
        if self._there is not None and f"{key}.{suffix}" not in self._there:
            raise FileNotFoundError(key)
        path = self._path(key, suffix)
        try:
            with reaching(path):
                return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(
                f"{self.root}: kept scores cannot be read ({error.strerror}); set storage.root to another"
            ) from error


def _listing(root: Path) -> set[str]:
    """Names of all files in a store's folder."""
    store = cast(UPath, root)
    with reaching(root):
        return {found.rpartition("/")[2] for found in store.fs.find(store.path)}


def beside(files: FileCache) -> ScoreCache:
    """The cache of scores that belongs to a cache of files, for all that score clips."""
    return ScoreCache(files.path.parent / SCORES)


def _plain(name: str, value: float | Failure) -> dict[str, Any]:
    what = {"failure": value.reason} if isinstance(value, Failure) else {"value": value}
    return {**what, "packages": metric_packages(name)}


def _value(kept: Mapping[str, Any]) -> float | Failure:
    return Failure(str(kept["failure"])) if "failure" in kept else float(kept["value"])
