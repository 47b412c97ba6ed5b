"""Networks of equal size: widths searched until the number of parameters is that of another network."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import torch

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.models import ModelConfig, build_model

# How far from the network's own; beyond, it would hardly be the same one.
_CHANNELS, _EXPANSIONS, _STATES = (-8, -4, 0, 4, 8), (-1, 0, 1), range(2, 65)


@config
class Match:
    """Under `match` in a named value of an axis: search the model's widths.

    Attributes:
        parameters_of: the value of the same axis whose number of parameters is to be met.
        within: as a share of it.
    """

    parameters_of: str
    within: float = 0.01


@functools.cache
def count_parameters(config: ModelConfig) -> int:
    """How many parameters the model has, without making them."""
    with torch.device("meta"):
        model = build_model(config)
    return sum(parameter.numel() for parameter in model.parameters())


# Whoever names a trial builds it, and so asks again and again.
@functools.cache
def matched(config: ModelConfig, parameters: int, *, within: float) -> ModelConfig:
    """The network nearest to `config` that has so many parameters; of channels, Mamba's expansion and state.

    Nearest is where the logarithms of the three change least in all.

    Raises:
        InputError: no widths come near enough.
    """
    fitting = [one for one, count in _candidates(config) if abs(count / parameters - 1) <= within]
    if not fitting:
        raise InputError(
            f"no widths give {parameters:,} parameters within {within:.1%} for {config.summary}; allow more"
            " in match.within"
        )
    return min(fitting, key=lambda one: _distance(config, one))


def _candidates(config: ModelConfig) -> Iterator[tuple[ModelConfig, int]]:
    """Networks of other widths, with their numbers of parameters."""
    for more_channels in _CHANNELS:
        for more_expansion in _EXPANSIONS:
            channels, expand = config.channels + more_channels, config.expand + more_expansion
            try:
                first, second = (
                    dataclasses.replace(config, channels=channels, expand=expand, d_state=states)
                    for states in _STATES[:2]
                )
            except ValueError:
                continue  # no width at all, or one that heads do not divide
            least = count_parameters(first)
            each = count_parameters(second) - least  # the count is linear in the states
            for number, states in enumerate(_STATES):
                yield dataclasses.replace(first, d_state=states), least + number * each


def _distance(config: ModelConfig, other: ModelConfig) -> float:
    names = ("channels", "expand", "d_state")
    return sum(abs(math.log(getattr(other, name) / getattr(config, name))) for name in names)
