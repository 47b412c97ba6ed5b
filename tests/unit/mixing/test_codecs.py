"""Codecs keep length and alignment and are reproducible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwsa.errors import InputError
from rwsa.mixing.codecs import CODECS
from rwsa.mixing.transforms import Transform, apply_transforms, check_transform
from tests.clips import RATE_HZ, wave


def codec(**parameters: Any) -> Transform:
    return Transform(name="Codec", parameters=parameters)


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_length_and_alignment_are_kept(name: str, rate_hz: int) -> None:
    transform = codec(codecs=[name], sample_rates_hz=[rate_hz])
    check_transform(transform, RATE_HZ, aligned=True)
    wav = wave(1.01)
    coded, (drawn,) = apply_transforms([transform], wav, RATE_HZ, 1)
    assert coded.shape == wav.shape
    assert (drawn["codec"], drawn["codec_rate_hz"]) == (name, rate_hz)
    assert 0.3 < np.corrcoef(wav, coded)[0, 1] < 0.99999
    again, _ = apply_transforms([transform], wav, RATE_HZ, 1)
    np.testing.assert_array_equal(coded, again)


def test_a_telephone_has_no_upper_band() -> None:
    coded, _ = apply_transforms([codec(codecs=["mulaw"], sample_rates_hz=[8000])], wave(1.0), RATE_HZ, 0)
    power_F = np.square(np.abs(np.fft.rfft(coded)))
    assert power_F[4100:].sum() < 1e-3 * power_F[:3900].sum()


def test_signals_above_full_scale_do_not_clip() -> None:
    loud = wave(0.5, scale=2.0)
    coded, _ = apply_transforms([codec(codecs=["alaw"])], loud, RATE_HZ, 0)
    assert np.abs(coded).max() == pytest.approx(np.abs(loud).max(), rel=0.05)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"codecs": ["mp4"]}, r"codecs \['mp4'\] are unknown; valid: mulaw"),
        ({"min_compression": 0.9, "max_compression": 0.1}, "must be in order"),
        ({"codecs": ["opus"], "sample_rates_hz": [11025]}, "Opus only supports"),
    ],
)
def test_codec_errors_are_named(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"Codec.*{message}"):
        check_transform(codec(**parameters), RATE_HZ, aligned=True)
