"""Phone error rate: does a recogniser hear the same phones in the enhanced clip as in the clean one?

It shows lost and invented speech, which PESQ may reward. The recogniser is PocketSphinx with the English
models in its package; it needs no transcript and no download. Of other languages it recognises the nearest
English phones, of both clips alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwsa.metrics.packages import import_package
from rwsa.metrics.values import UndefinedError

_PEAK = 0.9
_SETTINGS = {"lm": None, "dict": None, "lw": 2.0, "beam": 1e-20, "pbeam": 1e-20, "loglevel": "FATAL"}
# Silence, noise and breath.
_NOT_PHONES = {"SIL", "+NSN+", "+SPN+", "[NOISE]", "[SPEECH]"}


def phones(wav: np.ndarray) -> tuple[str, ...]:
    """The phones that the recogniser finds in a clip, such as `("HH", "AH", "L", "OW")`.

    Each clip has a decoder of its own, since one adapts to what it has heard before. The level does not
    matter.

    Args:
        wav: float64 `[samples]` at 16 kHz.

    Raises:
        InputError: pocketsphinx is not installed.
    """
    package = import_package("pocketsphinx")
    peak = float(np.abs(wav).max(initial=0))
    if peak == 0:
        return ()
    models = Path(package.get_model_path()) / "en-us"
    decoder = package.Decoder(
        hmm=str(models / "en-us"), allphone=str(models / "en-us-phone.lm.bin"), **_SETTINGS
    )
    samples = np.round(wav * (_PEAK / peak) * 32767).astype("<i2")
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), False, True)
    decoder.end_utt()
    found: Any = decoder.seg() or ()
    return tuple(segment.word for segment in found if segment.word not in _NOT_PHONES)


def phone_error(clean_phones: Sequence[str], enhanced: np.ndarray) -> float:
    """Phones inserted, deleted and replaced, over those of the clean clip; 0 is best, and it may exceed 1.

    Args:
        clean_phones: `phones` of the clean clip.
        enhanced: float64 `[samples]` at 16 kHz.

    Raises:
        UndefinedError: no phone was found in the clean clip.
        InputError: pocketsphinx is not installed.

    Source: Levenshtein distance; the recogniser's phones stand for a transcript, as in the phone distances of
    Pirklbauer et al., Evaluation metrics for generative speech enhancement methods, ITG 2023.
    """
    if not clean_phones:
        raise UndefinedError("no phone was recognised in the clean clip")
    return edit_distance(clean_phones, phones(enhanced)) / len(clean_phones)


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """The least number of insertions, deletions and replacements that make one sequence the other."""
    before = list(range(len(second) + 1))
    for row, one in enumerate(first, 1):
        current = [row]
        for column, other in enumerate(second, 1):
            current.append(min(before[column] + 1, current[-1] + 1, before[column - 1] + (one != other)))
        before = current
    return before[-1]
