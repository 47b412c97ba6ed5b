"""Colours of figures and pages; without a drawing library, since pages without figures use them too."""

from __future__ import annotations

from typing import Final

# Distinct for colour-blind readers (Okabe and Ito), and visible on black and on white.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#777777"
COLOURS: Final = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
