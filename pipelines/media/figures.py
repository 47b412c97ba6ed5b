"""Figures as bytes: PNG, or SVG that takes the colours of a light or a dark page.

Drawn on `Figure` objects, never through pyplot, which would choose a backend and keep every figure.
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

WIDTH_INCHES: Final = 12.0
# Told apart by colour-blind readers (Okabe and Ito), and seen on black as on white.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#777777"
COLOURS: Final = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Perceptually even, and in order when printed in grey.
COLOUR_MAP: Final = "magma"
_DOTS_PER_INCH = 100
# Nothing else has this colour, so that it can be replaced.
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


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    target = io.BytesIO()
    # Without the version of matplotlib in it, equal pictures are equal bytes.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def themed_svg(
    draw: Callable[[Figure], None], *, height_inches: float, width_inches: float = WIDTH_INCHES
) -> bytes:
    """What `draw` draws, as SVG without a background, its lines and letters dark or light as the page wants.

    Inside an `<img>`, an SVG learns from the browser which of the two is wanted.
    """
    style: Any = {**dict.fromkeys(_INKED, _INK), "svg.hashsalt": "rwsa", "svg.fonttype": "path"}
    # Names in pictures are names, not formulas.
    style |= {"text.parse_math": False}
    with matplotlib.rc_context(style):
        figure = new_figure(height_inches=height_inches, width_inches=width_inches)
        draw(figure)
        target = io.BytesIO()
        with warnings.catch_warnings():
            # A name in a script that the font lacks shows as boxes here; the pages' tables spell it out.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
            figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = _EMBEDDED.sub(_with_palette, target.getvalue())
    return svg.replace(_INK.encode(), b"currentColor").replace(b"<defs>", _THEME + b"<defs>", 1)


def _with_palette(embedded: re.Match[bytes]) -> bytes:
    """A picture inside the SVG, with its colours numbered where they are few: a third of the bytes."""
    picture = Image.open(io.BytesIO(base64.b64decode(embedded[1])))
    opaque = picture.mode == "RGB" or picture.getextrema()[-1] == (255, 255)
    if not opaque or picture.convert("RGB").getcolors(256) is None:
        return embedded[0]
    target = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, format="png", optimize=True)
    return b"data:image/png;base64," + base64.b64encode(target.getvalue())
