"""What a model is, as configuration; the paper's sizes by name, and one for demonstrations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rwsa.config import config
from rwsa.errors import InputError
from rwsa.spectral import SpectralConfig

Sharing = Literal["resolution", "block", "none", "off"]
Phase = Literal["absolute", "residual"]
Positive = Annotated[int, Field(gt=0)]


@config
class ModelConfig:
    """RWSA-MambaUNet's shape.

    Attributes:
        channels: C; level k of the U-Net (from 1) has width C·k.
        blocks: N, MambAttention blocks a stage.
        depth: levels; the deepest is the middle. T and F/2 are padded to multiples of 2^(depth-1).
        sharing: which attention modules are one module. `resolution` (the paper's RWSA): time and
            frequency inside a block, and encoder and decoder blocks of one level; `block`: time and
            frequency only; `none`: each its own; `off`: no attention at all.
        phase: what the phase decoder's output is. `absolute` (the paper's): the clean phase, which begins
            as noise and takes long to learn; `residual`: what to add to the noisy phase, beginning at 0.
        heads: attention heads outside the middle. Fixed across sharing modes, so that an ablation
            changes one thing.
        middle_heads: attention heads in the middle.
        d_state, d_conv, expand: Mamba-1's N, convolution width and expansion.
        spectral: STFT geometry that the model was made for.
        segment_frames: length of the segments that it is trained on and enhances by; instance norm and
            attention see another signal at other lengths.
    """

    channels: Positive = 16
    blocks: Positive = 2
    depth: Annotated[int, Field(ge=2, le=4)] = 3
    sharing: Sharing = "resolution"
    phase: Phase = "absolute"
    heads: Positive = 4
    middle_heads: Positive = 8
    d_state: Positive = 16
    d_conv: Positive = 4
    expand: Positive = 4
    spectral: SpectralConfig = SpectralConfig()
    segment_frames: Positive = 256

    @property
    def segment_samples(self) -> int:
        """30,600 samples (1.9 s) in the paper."""
        return self.spectral.samples(self.segment_frames)

    def __post_init__(self) -> None:
        for level in range(1, self.depth + 1):
            heads = self.middle_heads if level == self.depth else self.heads
            if self.channels * level % heads:
                raise ValueError(
                    f"width {self.channels * level} of level {level} must divide by {heads} heads"
                )
        if self.channels % 4:
            raise ValueError(f"channels is {self.channels}; it must divide by 4, for the pixel shuffles")
        if self.spectral.bins % 2**self.depth:
            raise ValueError(
                f"{self.spectral.bins} bins must divide by {2**self.depth} at depth {self.depth}"
            )


SIZES = {
    "nano": ModelConfig(
        channels=8,
        blocks=1,
        d_state=8,
        expand=2,
        heads=2,
        middle_heads=4,
        phase="residual",
        segment_frames=64,
        spectral=SpectralConfig(hop_samples=240),
    ),
    "xs": ModelConfig(channels=16, blocks=2),
    "s": ModelConfig(channels=16, blocks=4),
    "m": ModelConfig(channels=24, blocks=4),
}


def size(name: str) -> ModelConfig:
    """The configuration of a named size.

    Raises:
        InputError: there is no such size.
    """
    if name not in SIZES:
        raise InputError(f"model size '{name}' is unknown; choose {', '.join(SIZES)}")
    return SIZES[name]
