"""audiomentations transforms as recipe entries, seeded without changing the global generators.

Recipes may name every transform of audiomentations. To add one of our own: its class in a module beside this
one, its name in `_make`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.global_random import seeded_globals
from rwsa.mixing.packages import mixing_package

# Causal filters delay by much less than this; a larger delay misaligns mixture and target.
_MAX_DELAY_SECONDS = 0.002
_PROBE_SECONDS = 1.0
_PROBE_DRAWS = 4


@config
class Transform:
    """One audiomentations transform, or `Codec` (`rwsa.mixing.codecs`).

    Attributes:
        name: the class, such as `ClippingDistortion`.
        p: probability of being applied to an example.
        parameters: the other arguments of the class.
    """

    name: str
    p: Annotated[float, Field(ge=0, le=1)] = 1.0
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)


def apply_transforms(
    transforms: Sequence[Transform], wav: np.ndarray, sample_rate_hz: int, seed: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw each transform's parameters and apply it, in order; the result depends only on the arguments.

    Args:
        transforms: the transforms.
        wav: float32 `[samples]`.
        sample_rate_hz: sample rate of `wav`.
        seed: seed of all draws.

    Returns:
        wav: float32 `[samples]`, equally long.
        drawn: name and drawn parameters of each applied transform.

    Raises:
        InputError: a transform is unknown, fails, changes the length, or gives NaN or infinity.
    """
    if not transforms:
        return wav, []
    drawn = []
    # Some transforms draw again while being applied, so both steps are seeded.
    with seeded_globals(seed):
        for transform in transforms:
            made = _make(transform)
            try:
                changed = np.asarray(made(wav.copy(), sample_rate_hz), dtype=np.float32)
            except (ImportError, ValueError, RuntimeError, AssertionError) as error:
                raise InputError(f"transform {transform.name}: {_in_one_line(error)}") from error
            if changed.shape != wav.shape:
                raise InputError(
                    f"transform {transform.name}: turns {wav.size} samples into {changed.size};"
                    " use one that keeps the length"
                )
            if not np.isfinite(changed).all():
                raise InputError(f"transform {transform.name}: gives NaN or infinity; check its parameters")
            wav = changed
            if made.parameters["should_apply"]:
                drawn.append({"name": transform.name, **_plain(made.serialize_parameters())})
    return wav, drawn


def check_transform(transform: Transform, sample_rate_hz: int, *, aligned: bool) -> None:
    """Apply a transform to one second of noise several times, to check it.

    Args:
        transform: the transform.
        sample_rate_hz: the sample rate at which it will be used.
        aligned: require that input and output are aligned to 2 ms, as a mixture and its clean target must
            be.

    Raises:
        InputError: it is unknown, cannot be made with these parameters, changes the length, or delays the
            signal although `aligned`.
    """
    probe = np.random.default_rng(0).normal(scale=0.1, size=round(_PROBE_SECONDS * sample_rate_hz))
    probe = probe.astype(np.float32)
    always = dataclasses.replace(transform, p=1.0)
    for seed in range(_PROBE_DRAWS):
        changed, _ = apply_transforms([always], probe, sample_rate_hz, seed)
        delay = abs(_delay_samples(probe, changed)) / sample_rate_hz
        if aligned and delay > _MAX_DELAY_SECONDS:
            raise InputError(
                f"transform {transform.name}: delays the mixture by {delay:.3f} s against its clean target;"
                " use it on the noise, or leave it out"
            )


def _delay_samples(before: np.ndarray, after: np.ndarray) -> int:
    """The lag of the largest cross-correlation in magnitude (polarity does not matter)."""
    size = 2 * before.size
    product = np.fft.rfft(after, size) * np.conj(np.fft.rfft(before, size))
    lag = int(np.argmax(np.abs(np.fft.irfft(product, size))))
    return lag if lag < before.size else lag - size


def _make(transform: Transform) -> Any:
    # Imported late: it takes a second, and most recipes do not need it.
    audiomentations = mixing_package("audiomentations", needed_by=f"transform {transform.name}")
    from audiomentations.core.transforms_interface import BaseWaveformTransform

    from rwsa.mixing.codecs import Codec

    known = {name: kind for name, kind in vars(audiomentations).items() if _is_a(kind, BaseWaveformTransform)}
    known["Codec"] = Codec
    if transform.name not in known:
        near = difflib.get_close_matches(transform.name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(sorted(known))}"
        raise InputError(f"transform '{transform.name}' is not in audiomentations; {hint}")
    try:
        return known[transform.name](**transform.parameters, p=transform.p)
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        given = f"{transform.name}({transform.parameters})"
        raise InputError(f"transform {given}: {_in_one_line(error)}") from error


def _is_a(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or f"refused by audiomentations ({type(error).__name__})"


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    """Drawn parameters as JSON values, without arrays (drawn noise), which the seed reproduces."""
    plain = {}
    for name, value in parameters.items():
        value = value.item() if isinstance(value, np.generic) else value
        if name != "should_apply" and isinstance(value, bool | int | float | str | None):
            plain[name] = value
    return plain
