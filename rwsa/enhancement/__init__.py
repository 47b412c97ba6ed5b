"""Enhancement, the only inference path: arrays here, files and streams in `rwsa.enhancement.files`."""

from __future__ import annotations

from rwsa.enhancement.arrays import ArrayRecording, enhance, enhance_phases

__all__ = ["ArrayRecording", "enhance", "enhance_phases"]
