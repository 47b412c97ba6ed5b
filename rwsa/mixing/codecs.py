"""Speech and music codecs as an audiomentations transform, by libsndfile and no other program.

Imported only when a recipe has transforms, since importing audiomentations takes a second.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import numpy as np
import soundfile
from audiomentations.core.transforms_interface import BaseWaveformTransform

from rwsa.audio import resample

# Codec -> libsndfile's container and subtype, and whether it has a compression level.
CODECS = {
    "mulaw": ("WAV", "ULAW", False),  # ITU-T G.711
    "alaw": ("WAV", "ALAW", False),
    "gsm": ("WAV", "GSM610", False),  # GSM 06.10 full rate
    "vorbis": ("OGG", "VORBIS", True),
    "opus": ("OGG", "OPUS", True),
    "mp3": ("MP3", "MPEG_LAYER_III", True),
}


class Codec(BaseWaveformTransform):  # type: ignore[misc]
    """Encode and decode, optionally at a lower sample rate; the output is equally long and aligned.

    A signal above full scale is scaled down before and back up after, so that it does not clip.

    Args:
        codecs: names out of `CODECS`, each equally likely.
        sample_rates_hz: rates to encode at, each equally likely (8000 for telephone); default: the
            signal's own rate.
        min_compression, max_compression: the compression level of vorbis, opus and mp3 is uniform between
            them; 0 is the best quality, 1 the lowest.
        p: probability of being applied.
    """

    def __init__(
        self,
        codecs: Sequence[str] = ("mulaw", "opus", "mp3"),
        sample_rates_hz: Sequence[int] = (),
        min_compression: float = 0.3,
        max_compression: float = 0.95,
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        unknown = sorted(set(codecs) - set(CODECS))
        if unknown or not codecs:
            raise ValueError(f"codecs {unknown} are unknown; valid: {', '.join(CODECS)}")
        if not 0 <= min_compression <= max_compression <= 1:
            raise ValueError("min_compression and max_compression must be in order between 0 and 1")
        self.codecs, self.sample_rates_hz = list(codecs), list(sample_rates_hz)
        self.min_compression, self.max_compression = min_compression, max_compression

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        """Draw from Python's global generator, as audiomentations does; `apply_transforms` seeds it."""
        super().randomize_parameters(samples, sample_rate)
        if self.parameters["should_apply"]:
            self.parameters["codec"] = random.choice(self.codecs)
            self.parameters["codec_rate_hz"] = random.choice(self.sample_rates_hz or [sample_rate])
            self.parameters["compression"] = random.uniform(self.min_compression, self.max_compression)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        container, subtype, has_level = CODECS[self.parameters["codec"]]
        rate = self.parameters["codec_rate_hz"]
        scale = max(1.0, float(np.abs(samples).max()))
        level = {"compression_level": self.parameters["compression"]} if has_level else {}
        file = io.BytesIO()
        encoded = resample(samples / np.float32(scale), sample_rate, rate)
        soundfile.write(file, encoded, rate, format=container, subtype=subtype, **level)
        file.seek(0)
        decoded = resample(soundfile.read(file, dtype="float32")[0], rate, sample_rate)[: samples.size]
        # Samples that the codec drops at the end are replaced by silence.
        return np.pad(decoded, (0, samples.size - decoded.size)) * np.float32(scale)
