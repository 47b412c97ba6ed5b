"""Figures as bytes: PNG, or SVG that follows the light or dark theme of its page.

Drawn on `Figure` objects, never through pyplot, which would choose a backend and hold on to every figure.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, Final

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pipelines.media.colours import COLOURS

WIDTH_INCHES: Final = 12.0
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
# Perceptually uniform, and ordered in greyscale too.
COLOUR_MAP: Final = "magma"
_DOTS_PER_INCH = 100
# Used for nothing else, so that it can be replaced.
_INK = "#010203"
_INKED = (
    *("text.color", "legend.labelcolor", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor"),
    *("xtick.color", "xtick.labelcolor", "ytick.color", "ytick.labelcolor"),
)
_EMBEDDED = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
_THEME = b"<style>:root{color:#1a1a1a}@media (prefers-color-scheme:dark){:root{color:#e4e4e4}}</style>"


def new_figure(*, height_inches: float, width_inches: float = WIDTH_INCHES) -> Figure:
    """An empty figure."""
    figure = Figure(figsize=(width_inches, height_inches), dpi=_DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    return figure


def series_style(number: int) -> dict[str, Any]:
    """Colour and marker of a system or configuration, the same in all figures."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    target = io.BytesIO()
    # Without matplotlib's version in it, equal figures have equal bytes.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def themed_svg(
    draw: Callable[[Figure], None], *, height_inches: float, width_inches: float = WIDTH_INCHES
) -> bytes:
    """A figure as SVG without a background, its lines and text dark on a light page and light on a dark one.

    Inside an `<img>`, an SVG gets the theme from the browser.
    """
    style: Any = {**dict.fromkeys(_INKED, _INK), "svg.hashsalt": "rwsa", "svg.fonttype": "path"}
    # Names in figures are text, not formulas.
    style |= {"text.parse_math": False}
    with matplotlib.rc_context(style):
        figure = new_figure(height_inches=height_inches, width_inches=width_inches)
        draw(figure)
        target = io.BytesIO()
        with warnings.catch_warnings():
            # A name in a script that the font lacks is drawn as boxes; the report's tables show it.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
            figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = _EMBEDDED.sub(_with_palette, target.getvalue())
    return svg.replace(_INK.encode(), b"currentColor").replace(b"<defs>", _THEME + b"<defs>", 1)


def _with_palette(embedded: re.Match[bytes]) -> bytes:
    """A bitmap inside the SVG, with a palette where it has at most 256 colours: a third of the bytes."""
    bitmap = Image.open(io.BytesIO(base64.b64decode(embedded[1])))
    opaque = bitmap.mode == "RGB" or bitmap.getextrema()[-1] == (255, 255)
    if not opaque or bitmap.convert("RGB").getcolors(256) is None:
        return embedded[0]
    target = io.BytesIO()
    bitmap.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, format="png", optimize=True)
    return b"data:image/png;base64," + base64.b64encode(target.getvalue())
