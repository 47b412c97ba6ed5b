"""Capacity matching: search a network's widths for a given number of parameters."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.models import ModelConfig, build_model
from rwsa.models.config import Mixer
from rwsa.models.conformer import Conformer
from rwsa.models.mixers import build_mixer
from rwsa.models.unet import AxialBlock


@config
class CapacityMatch:
    """The key `match` of a named axis value: search the model's widths.

    Attributes:
        parameters_of: value of the same axis whose number of parameters is the target.
        at: values of other axes at which it is counted; by default those of the trial.
        within: tolerance, as a fraction of the target.
    """

    parameters_of: str
    at: dict[str, Any] = dataclasses.field(default_factory=dict)
    within: float = 0.01


# The keys that are searched by mixer, the last with the finest steps. The mixer `none` has no width.
_SEARCHED: Mapping[Mixer, tuple[str, ...]] = MappingProxyType(
    {
        "mamba": ("channels", "expand", "d_state"),
        "conformer": ("channels", "blocks", "expand"),
        "mlstm": ("channels", "blocks", "expand", "d_conv"),
        "lstm": ("channels", "blocks", "expand"),
        "none": ("channels", "blocks"),
    }
)
# Steps of an LSTM's and the Conformer's width, relative to the stage's.
_EIGHTHS = 8


def _choices(config: ModelConfig, key: str) -> Sequence[float]:
    """The values to try, ascending. Farther from the network's own it would be a different network."""
    match key, config.mixer:
        case "channels", _:
            return [config.channels + offset for offset in (-8, -4, 0, 4, 8) if config.channels + offset > 0]
        case "d_state", _:
            return range(2, 65)
        case "blocks", _:
            return range(1, 2 * config.blocks + 1)
        case "d_conv", _:
            return range(2, 2 * config.d_conv + 1)
        case "expand", "mamba":
            return [e for e in (config.expand - 1, config.expand, config.expand + 1) if e > 0]
        case "expand", "mlstm":
            return range(1, 2 * int(config.expand) + 1)
        case _:
            return [eighths / _EIGHTHS for eighths in range(1, int(2 * _EIGHTHS * config.expand) + 1)]


@functools.cache
def count_parameters(config: ModelConfig) -> int:
    """Number of parameters of a model, counted without allocating them."""
    with torch.device("meta"):
        return _count(build_model(config))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Cached because every process that names a trial builds its configuration.
@functools.cache
def match_capacity(config: ModelConfig, parameters: int, *, within: float) -> ModelConfig:
    """Change the widths that the network's mixer has to reach a number of parameters.

    Of the configurations within the tolerance, returns the nearest to `config`: the smallest sum of absolute
    log ratios of the keys that are searched.

    Raises:
        InputError: no widths are within the tolerance.
    """
    *coarse, fine = _SEARCHED[config.mixer]
    nearest: ModelConfig | None = None
    for other in sorted(_variants(config, coarse), key=lambda other: _distance(other, config)):
        if nearest is not None and _distance(other, config) >= _distance(nearest, config):
            break
        steps = list(_variants(other, [fine]))  # with ever more parameters
        first = bisect.bisect_left(steps, parameters * (1 - within), key=_quick_count)
        last = bisect.bisect_right(steps, parameters * (1 + within), key=_quick_count)
        found = [] if nearest is None else [nearest]
        nearest = min([*found, *steps[first:last]], key=lambda o: _distance(o, config), default=None)
    if nearest is None:
        raise InputError(
            f"no widths give {parameters:,} parameters within {within:.1%} for {config.summary}; increase"
            " match.within"
        )
    return nearest


def _variants(config: ModelConfig, keys: Sequence[str]) -> Iterator[ModelConfig]:
    """All valid combinations of the choices of some keys."""
    for values in itertools.product(*(_choices(config, key) for key in keys)):
        try:
            changes: dict[str, Any] = dict(zip(keys, values, strict=True))
            yield dataclasses.replace(config, **changes)
        except ValueError:
            continue  # not divisible by the number of heads, for example


def _distance(other: ModelConfig, config: ModelConfig) -> float:
    return sum(abs(math.log(getattr(other, key) / getattr(config, key))) for key in _SEARCHED[config.mixer])


def _quick_count(config: ModelConfig) -> int:
    """`count_parameters`, from the mixers' counts and the rest, which is linear in the number of blocks."""
    plain = dataclasses.replace(config, mixer="conformer", expand=2, d_state=16, d_conv=4)
    (one, sites), (two, _) = (_without_mixers(dataclasses.replace(plain, blocks=n)) for n in (1, 2))
    alike = dataclasses.replace(config, blocks=1)
    per_block = sum(count * _mixer_count(*site, alike) for site, count in sites.items())
    return one + (config.blocks - 1) * (two - one) + config.blocks * per_block


@functools.cache
def _without_mixers(config: ModelConfig) -> tuple[int, Counter[tuple[int, int]]]:
    """Parameters of a network without its Conformers, and how many have each width and number of heads."""
    with torch.device("meta"):
        model = build_model(config)
    blocks = [module for module in model.modules() if isinstance(module, AxialBlock)]
    mixers = [mixer for block in blocks for mixer in block.mixers if isinstance(mixer, Conformer)]
    sites = Counter((mixer.attention.out.out_features, mixer.attention.heads) for mixer in mixers)
    return _count(model) - sum(map(_count, mixers)), sites


@functools.cache
def _mixer_count(channels: int, heads: int, config: ModelConfig) -> int:
    with torch.device("meta"):
        mixer = build_mixer(channels, heads, config)
    return 0 if mixer is None else _count(mixer)
