"""Capacity matching: search a network's widths for a given number of parameters."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import torch

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.models import ModelConfig, build_model

# Range of the search around the network's own widths; farther away it would be a different network.
_CHANNEL_OFFSETS, _EXPANSION_OFFSETS, _STATES = (-8, -4, 0, 4, 8), (-1, 0, 1), range(2, 65)


@config
class CapacityMatch:
    """The key `match` of a named axis value: search the model's widths.

    Attributes:
        parameters_of: value of the same axis whose number of parameters is the target.
        within: tolerance, as a fraction of the target.
    """

    parameters_of: str
    within: float = 0.01


@functools.cache
def count_parameters(config: ModelConfig) -> int:
    """Number of parameters of a model, counted without allocating them."""
    with torch.device("meta"):
        model = build_model(config)
    return sum(parameter.numel() for parameter in model.parameters())


# Cached because every process that names a trial builds its configuration.
@functools.cache
def match_capacity(config: ModelConfig, parameters: int, *, within: float) -> ModelConfig:
    """Change channels, Mamba's expansion and its state size to reach a number of parameters.

    Of the configurations within the tolerance, returns the nearest to `config`: the smallest sum of absolute
    log ratios of the three widths.

    Raises:
        InputError: no widths are within the tolerance.
    """
    matching = [other for other, count in _candidates(config) if abs(count / parameters - 1) <= within]
    if not matching:
        raise InputError(
            f"no widths give {parameters:,} parameters within {within:.1%} for {config.summary}; increase"
            " match.within"
        )
    widths = ("channels", "expand", "d_state")
    return min(
        matching,
        key=lambda other: sum(abs(math.log(getattr(other, name) / getattr(config, name))) for name in widths),
    )


def _candidates(config: ModelConfig) -> Iterator[tuple[ModelConfig, int]]:
    """Configurations of other widths, with their numbers of parameters."""
    for channel_offset in _CHANNEL_OFFSETS:
        for expansion_offset in _EXPANSION_OFFSETS:
            channels, expand = config.channels + channel_offset, config.expand + expansion_offset
            try:
                first, second = (
                    dataclasses.replace(config, channels=channels, expand=expand, d_state=states)
                    for states in _STATES[:2]
                )
            except ValueError:
                continue  # not positive, or not divisible by the number of heads
            least = count_parameters(first)
            per_state = count_parameters(second) - least  # the count is linear in the state size
            for number, states in enumerate(_STATES):
                yield dataclasses.replace(first, d_state=states), least + number * per_state
