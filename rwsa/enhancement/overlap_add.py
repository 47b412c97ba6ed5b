"""Overlap-add: split a signal into overlapping segments and cross-fade them, one segment in memory.

The default crossfade is in `rwsa.constants`.

Legend: C channels, L samples of a segment, S samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rwsa.errors import InputError


def segment_starts(samples: int, length: int, overlap: int) -> list[int]:
    """Start positions of segments of `length` that cover `samples` and overlap by `overlap`.

    The last segment is moved back to end with the signal, so that it needs no padding. A signal shorter
    than a segment has one segment, padded at its end.
    """
    last = max(samples - length, 0)
    return [*range(0, last, length - overlap), last]


def fade_window(length: int, overlap: int) -> np.ndarray:
    """Cross-fade weights of a segment `[length]`, float32: 1 inside, sin² ramps over the overlap; never 0."""
    window = np.ones(length)
    if overlap:
        rise = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / overlap) ** 2
        window[:overlap], window[-overlap:] = rise, rise[::-1]
    return window.astype(np.float32)


def split_blocks(
    blocks_CS: Iterable[np.ndarray], starts: Sequence[int], length: int, samples: int
) -> Iterator[np.ndarray]:
    """Segments `[C, L]` at `starts` (ascending) of a signal of `samples`, read in blocks.

    A segment that extends beyond the signal's end is zero-padded.

    Raises:
        InputError: the signal has fewer samples.
    """
    blocks = iter(blocks_CS)
    buffer_CS, origin = next(blocks), 0
    for start in starts:
        buffer_CS, origin = buffer_CS[:, start - origin :], start
        while buffer_CS.shape[1] < length and (block := next(blocks, None)) is not None:
            buffer_CS = np.concatenate((buffer_CS, block), axis=1)
        if start + buffer_CS.shape[1] < min(start + length, samples):
            raise InputError(f"ends after {start + buffer_CS.shape[1]} samples where {samples} were counted")
        lacking = max(0, length - buffer_CS.shape[1])
        yield np.pad(buffer_CS[:, :length], ((0, 0), (0, lacking)))


class OverlapAdd:
    """Cross-fades segments, added in order, into the signal they were split from."""

    def __init__(self, samples: int, length: int, overlap: int) -> None:
        self.starts = segment_starts(samples, length, overlap)
        self.ends = [*self.starts[1:], samples]  # end of the finished signal after each segment
        self.window_L = fade_window(length, overlap)
        self.added = 0
        self.total: np.ndarray | None = None
        self.weight_L = np.zeros(length, np.float32)

    def add(self, segment: np.ndarray) -> np.ndarray:
        """Add the next segment `[..., L]`; returns the finished samples `[..., S]`."""
        if self.total is None:
            self.total = np.zeros_like(segment)
        self.total += segment * self.window_L
        self.weight_L += self.window_L
        done = self.ends[self.added] - self.starts[self.added]
        self.added += 1
        finished: np.ndarray = self.total[..., :done] / self.weight_L[:done]
        self.total, self.weight_L = _shifted(self.total, done), _shifted(self.weight_L, done)
        return finished


def _shifted(array: np.ndarray, by: int) -> np.ndarray:
    """`array` shifted towards its start and zero-filled at its end."""
    return np.concatenate((array[..., by:], np.zeros_like(array[..., :by])), axis=-1)
