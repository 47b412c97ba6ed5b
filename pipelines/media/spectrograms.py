"""Spectrograms side by side: one time axis, one frequency axis, one colour scale in dB.

Legend: F frequency bins, T frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.media.figures import COLOUR_MAP
from rwsa.stft import SpectralConfig, stft

# Fractions of the figure's width; reports align audio players with the panels.
PANELS_LEFT, PANELS_RIGHT, PANELS_GAP = 0.045, 0.925, 0.02
_RANGE_DB = 80.0
# Steps of 1.25 dB are not visible; a bitmap of few colours takes a third of the bytes.
_COLOURS = 64


def loudest_level_db(signals: Iterable[np.ndarray]) -> float:
    """The highest level of any bin and frame, for figures that share a colour scale."""
    return max(float(_level_db(wav).max()) for wav in signals)


def draw_spectrograms(
    figure: Figure,
    signals: Mapping[str, np.ndarray],
    sample_rate_hz: int,
    *,
    columns: int | None = None,
    loudest_db: float | None = None,
) -> None:
    """Draw spectrograms of signals of equal length, `[samples]`, titled by their keys.

    Args:
        columns: number of columns; the number of signals by default.
        loudest_db: top of the colour scale; the highest level of these signals by default.
    """
    levels_db = {title: _level_db(wav) for title, wav in signals.items()}
    if loudest_db is None:
        loudest_db = max(float(level_FT.max()) for level_FT in levels_db.values())
    seconds = len(next(iter(signals.values()))) / sample_rate_hz
    # gridspec counts the gap in panel widths.
    count = columns or len(signals)
    panel = (PANELS_RIGHT - PANELS_LEFT - (count - 1) * PANELS_GAP) / count
    grid = figure.add_gridspec(
        1, count, left=PANELS_LEFT, right=PANELS_RIGHT, bottom=0.16, top=0.84, wspace=PANELS_GAP / panel
    )
    colours = matplotlib.colormaps[COLOUR_MAP].resampled(_COLOURS)
    first: Axes | None = None
    image: Any = None
    for column, (title, level_FT) in enumerate(levels_db.items()):
        axes = figure.add_subplot(grid[0, column], sharex=first, sharey=first)
        image = axes.imshow(
            level_FT,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, sample_rate_hz / 2000),
            cmap=colours,
            # When downscaled, average levels, not colours, which would add many colours.
            interpolation_stage="data",
            vmin=loudest_db - _RANGE_DB,
            vmax=loudest_db,
        )
        axes.set_title(title, fontsize=8, loc="left")
        axes.set_xlabel("time (s)")
        # Otherwise the last label of a panel overlaps the first of the next.
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=(1, 2, 5, 10), prune="upper"))
        if first is None:
            first = axes
            axes.set_ylabel("frequency (kHz)")
        else:
            axes.tick_params(labelleft=False)
    bar = figure.add_axes((PANELS_RIGHT + 0.012, 0.16, 0.012, 0.68))
    figure.colorbar(image, cax=bar).set_label("level (dB re full-scale sine)", fontsize=8)
    bar.tick_params(labelsize=8)


def _level_db(wav: np.ndarray) -> np.ndarray:
    """Level of each bin and frame, `[F, T]`, relative to a sine of full scale."""
    config = SpectralConfig()
    mag_FT = stft(torch.tensor(wav)[None], config)[0][0].numpy().astype(np.float64)
    # The Hann window's sum is half its length, and a sine's energy is split between two frequencies.
    full_scale = config.window_samples / 4
    return 20 * np.log10(np.maximum(mag_FT ** (1 / config.compression) / full_scale, 1e-10))
