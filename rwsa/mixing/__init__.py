"""Mixing speech and noise: draw the rows of a plan, and render them into pairs of noisy and clean speech."""

from __future__ import annotations

from rwsa.mixing.mixture import Mixture, describe
from rwsa.mixing.plan_audio import SILENCE_DBFS, Sources, load_sources
from rwsa.mixing.plans import MixPlan, SourceRange, draw_mix, plan_split
from rwsa.mixing.recipes import Recipe, read_recipe
from rwsa.mixing.render import render_example, render_mix

__all__ = [
    "SILENCE_DBFS",
    "MixPlan",
    "Mixture",
    "Recipe",
    "SourceRange",
    "Sources",
    "describe",
    "draw_mix",
    "load_sources",
    "plan_split",
    "read_recipe",
    "render_example",
    "render_mix",
]
