"""Constants that several parts of the library share."""

from __future__ import annotations

from typing import Final

SAMPLE_RATE_HZ: Final = 16_000
"""The sample rate that models are trained at, metrics are defined at and features are computed at."""

DEFAULT_CROSSFADE: Final = 0.1
"""Overlap of neighbouring segments in enhancement, as a share of a segment."""
