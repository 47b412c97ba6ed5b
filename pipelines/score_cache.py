"""Scores kept on disk by content: one small file a signal, so that writers never meet and a kill loses none.

ROOT/ab/abcdef….json   the scores of one signal of one clip
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

from pipelines.clip_scores import SignalScores
from rwsa.errors import InputError
from rwsa.files import is_remote, reaching, written_aside
from rwsa.metrics import Failure


class ScoreCache:
    """The files; any number of processes on any number of machines may use one folder, or one in a store.

    A file that is damaged (a disk ran full, a power cut) counts as missing and is written again. A store is
    listed once, at the start: a question for each of thousands of scores that are not there takes minutes.

    Raises:
        InputError: from `put` and `put_audio`: the folder cannot be written; from all: the store is away.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._there = _listing(root) if is_remote(root) else None

    def get(self, key: str) -> SignalScores | None:
        """What `put` was given under this key, None where it was given nothing."""
        try:
            found = json.loads(self._read(key, "json"))
            return SignalScores(
                values={name: _value(value) for name, value in found["values"].items()},
                snr_db=found["snr_db"],
                clipped_share=found["clipped_share"],
            )
        except InputError:
            raise
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, key: str, scores: SignalScores) -> None:
        """Keep scores; they survive a kill as soon as this returns."""
        values = {
            name: {"failure": value.reason} if isinstance(value, Failure) else value
            for name, value in scores.values.items()
        }
        plain = {"values": values, "snr_db": scores.snr_db, "clipped_share": scores.clipped_share}
        with written_aside(self._path(key, "json")) as aside:
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
        with written_aside(self._path(key, "npy")) as aside:
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


def _value(stored: float | Mapping[str, Any]) -> float | Failure:
    return Failure(str(stored["failure"])) if isinstance(stored, Mapping) else float(stored)
