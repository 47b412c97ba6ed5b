"""Inference: arrays here, files and streams in `rwsa.enhancement.files`; all use `enhance_recordings`."""

from __future__ import annotations

from rwsa.enhancement.arrays import ArrayRecording, enhance, enhance_phases

__all__ = ["ArrayRecording", "enhance", "enhance_phases"]
