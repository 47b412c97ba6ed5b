"""Recordings share batches; their order, errors and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rwsa.audio import AudioInfo
from rwsa.enhancement import enhance
from rwsa.enhancement.recordings import Piece, enhance_recordings
from rwsa.errors import InputError
from rwsa.models import ModelConfig, build_model

RATE_HZ = 16_000
CONFIG = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)
LENGTH = CONFIG.segment_samples


class Halve(nn.Module):
    """A model that halves the signal and records its batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.batches = CONFIG, list[int]()
        self.parameter = nn.Parameter(torch.zeros(()))

    def forward(self, mag_BFT: Tensor, pha_BFT: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(len(mag_BFT))
        return mag_BFT * 0.5**CONFIG.spectral.compression, pha_BFT


class Blocks:
    """An array as a recording, in blocks of 1000 samples; reading number `fault` raises an error."""

    def __init__(self, wav: np.ndarray, rate_hz: int = RATE_HZ, fault: int | None = None) -> None:
        self.wav, self.fault, self.readings, self.samples_read = np.atleast_2d(wav), fault, 0, 0
        self.info = AudioInfo(sample_rate_hz=rate_hz, channels=len(self.wav), samples=self.wav.shape[1])

    def blocks(self) -> Iterator[np.ndarray]:
        self.readings += 1
        for at in range(0, self.wav.shape[1], 1000):
            if self.readings == self.fault and at > self.wav.shape[1] / 2:
                raise InputError("half of it is missing")
            self.samples_read += self.wav[:, at : at + 1000].shape[1]
            yield self.wav[:, at : at + 1000]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def run(
    recordings: Sequence[Blocks], model: nn.Module, batch_size: int = 4
) -> Iterator[tuple[Blocks, Piece | InputError]]:
    return enhance_recordings(recordings, model, ("model",), crossfade=0.1, batch_size=batch_size)


def enhance_all(recordings: Sequence[Blocks], model: nn.Module, batch_size: int = 4) -> list[np.ndarray]:
    """Each recording enhanced, `[channels, samples]`."""
    parts: dict[Blocks, list[np.ndarray]] = {recording: [] for recording in recordings}
    order = []
    for recording, piece in run(recordings, model, batch_size):
        assert isinstance(piece, Piece)
        parts[recording].append(piece.wav[0])
        order.append(list(recordings).index(recording))
    assert order == sorted(order)
    return [np.concatenate(each, axis=1) for each in parts.values()]


def test_short_recordings_and_channels_fill_batches() -> None:
    model = Halve()
    recordings = [
        Blocks(noise(1 + n % 2, 200 + 10 * n, seed=n), 48_000 if n % 3 else 16_000) for n in range(7)
    ]
    enhanced = enhance_all(recordings, model)
    assert model.batches == [4, 4, 2]
    for recording, wav in zip(recordings, enhanced, strict=True):
        assert wav.shape == recording.wav.shape
        if recording.info.sample_rate_hz == RATE_HZ:
            np.testing.assert_allclose(wav, recording.wav / 2, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_a_recording_in_shared_batches_equals_one_alone(batch_size: int) -> None:
    model = build_model(CONFIG, seed=1).eval()
    wavs = [noise(channels, samples, seed=samples) for channels, samples in ((1, 9000), (2, 500), (1, 7000))]
    enhanced = enhance_all([Blocks(wav) for wav in wavs], model, batch_size)
    for wav, shared in zip(wavs, enhanced, strict=True):
        np.testing.assert_allclose(shared, enhance(wav, RATE_HZ, model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fault", [1, 2])
def test_an_error_ends_only_its_own_recording(fault: int) -> None:
    recordings = [Blocks(noise(9000)), Blocks(noise(9000), fault=fault), Blocks(noise(9000))]
    pieces: list[list[Piece | InputError]] = [[], [], []]
    for recording, piece in run(recordings, Halve()):
        pieces[recordings.index(recording)].append(piece)
    assert str(pieces[1][-1]) == "half of it is missing"
    assert [isinstance(piece, InputError) for piece in pieces[1][:-1]] == [False] * (len(pieces[1]) - 1)
    assert (len(pieces[1]) > 1) == (fault == 2)  # the first reading precedes all pieces
    for complete in (pieces[0], pieces[2]):
        wav = np.concatenate([piece.wav[0, 0] for piece in complete if isinstance(piece, Piece)])
        np.testing.assert_allclose(wav, noise(9000) / 2, atol=1e-6)


def test_a_recording_that_shrinks_between_readings_is_an_error() -> None:
    class Shrinking(Blocks):
        def blocks(self) -> Iterator[np.ndarray]:
            for block in super().blocks():
                yield block[:, :900] if self.readings == 2 else block

    *_, (_, last) = run([Shrinking(noise(20_000))], Halve())
    assert str(last) == "ends after 18000 samples where 20000 were counted"


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_read_ahead_is_bounded(level: float) -> None:
    # Silence needs no network; it must not pile up behind a segment that waits for a full batch.
    short, long = Blocks(noise(100)), Blocks(level * noise(300 * LENGTH))
    longest = 0
    for recording, piece in run([short, long], Halve()):
        assert isinstance(piece, Piece)
        if recording is long:
            second_reading = long.samples_read - long.wav.shape[1]
            ahead = second_reading - piece.segments_done * (LENGTH - int(0.1 * LENGTH))
            longest = max(longest, ahead)
    assert 0 < longest <= 8 * LENGTH


def test_arguments_out_of_range_raise_at_once() -> None:
    with pytest.raises(InputError, match=r"batch_size \(0\)"):
        next(run([Blocks(noise(10))], Halve(), batch_size=0))
