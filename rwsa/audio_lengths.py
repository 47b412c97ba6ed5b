"""Does a file hold the audio that its header declares? libsndfile reads a WAV cut off in a download silently.

Only headers are read and, of FLAC and Ogg, the end of the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

# What may follow the audio undeclared: padding to a disk sector, tags.
_SURPLUS_BYTES, _SURPLUS_SHARE = 4096, 0.01
_TAIL_BYTES = 1 << 16
_LARGEST_CHUNKS = 1000
_FRAME_SYNC = re.compile(rb"\xff(?=[\xf8\xf9][\x10-\xfe])")
_NO_NAME = re.compile(rb"[^ -~]")


class Patch(NamedTuple):
    """Bytes to read at `at` in place of the file's: the length that a streaming encoder left open."""

    at: int
    data: bytes


class LengthError(ValueError):
    """The header and the file disagree; the message says how."""


def check_length(file: BinaryIO, size: int) -> Patch | None:
    """Compare the length in a header with the file, of `size` bytes.

    A length left open by a streaming encoder (0, or the largest number) stands for all that follows.

    Returns:
        How to read the header, where libsndfile does not read such a length itself.

    Raises:
        LengthError: the file is cut off, or holds more or less audio than declared.
    """
    magic = file.read(12)
    if magic[:3] == b"ID3":
        return None
    for start, check in _CHECKS.items():
        if magic.startswith(start):
            return check(file, size)
    return None


def _riff(file: BinaryIO, size: int) -> Patch | None:
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    size_64 = None
    for chunk in _chunks(file, order):
        name, at, length = chunk
        if name == b"ds64" and len(sizes := file.read(16)) == 16:
            size_64 = struct.unpack("<QQ", sizes)[1]
        if name == b"data":
            break
    else:
        return None
    start = at + 8
    if length == 0xFFFFFFFF and size_64:
        length = size_64
    elif length == 0 and size > start and not _is_chunk(file, start, size, order):
        return Patch(at + 4, struct.pack(order + "I", min(size - start, 0xFFFFFFFE)))
    elif length == 0 or _is_open(length):
        return None
    _compare(file, size, start, length, chunks=order)
    return None


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, position, length) of the chunks of RIFF or AIFF; the file is then behind the chunk's header."""
    at = 12
    for _ in range(_LARGEST_CHUNKS):
        file.seek(at)
        header = file.read(8)
        if len(header) < 8:
            return
        name, length = struct.unpack(order + "4sI", header)
        yield name, at, length
        at += 8 + length + length % 2


def _is_open(length: int) -> bool:
    """Whether encoders that write to a pipe leave this 32-bit length, or one less the size of a header."""
    return 0x7FFFF000 <= length <= 0x80000100 or length >= 0xFFFFF000


def _compare(file: BinaryIO, size: int, start: int, length: int, *, chunks: str | None = None) -> None:
    """Compare `length` declared bytes from `start`; with the byte order `chunks`, chunks may follow."""
    if start + length > size:
        raise LengthError(
            f"is cut off: its header declares {length:,} bytes of audio, it has {size - start:,}"
        )
    at = start + length
    if chunks:
        at += length % 2
        for _ in range(_LARGEST_CHUNKS):
            if not (follows := _is_chunk(file, at, size, chunks)):
                break
            at = follows
    surplus = size - at
    if surplus > max(_SURPLUS_BYTES, _SURPLUS_SHARE * length):
        file.seek(at)
        if file.read(_TAIL_BYTES).strip(b"\0"):
            raise LengthError(
                f"has a wrong header, which declares {length:,} bytes of audio, while {surplus:,} more follow"
            )


def _is_chunk(file: BinaryIO, at: int, size: int, order: str) -> int:
    """The end of a chunk at `at` that fits into the file; 0 if there is none."""
    file.seek(at)
    header = file.read(8)
    if len(header) < 8 or _NO_NAME.search(header[:4]):
        return 0
    length: int = struct.unpack(order + "I", header[4:])[0]
    end = at + 8 + length
    return end + length % 2 if end <= size else 0


def _aiff(file: BinaryIO, size: int) -> None:
    for name, at, length in _chunks(file, ">"):
        if name == b"SSND":
            if length and not _is_open(length):
                _compare(file, size, at + 8, length, chunks=">")
            return


def _au(file: BinaryIO, size: int) -> None:
    file.seek(0)
    order = ">" if file.read(4) == b".snd" else "<"
    start, length = struct.unpack(order + "II", file.read(8).ljust(8, b"\0"))
    if length and not _is_open(length):
        _compare(file, size, start, length)


def _wave64(file: BinaryIO, size: int) -> None:
    at = 40
    for _ in range(_LARGEST_CHUNKS):
        file.seek(at)
        header = file.read(24)
        if len(header) < 24:
            return
        length = struct.unpack("<Q", header[16:])[0]
        if header[:4] == b"data":
            if length > 24 and length < 1 << 62:
                _compare(file, size, at + 24, length - 24, chunks="<")
            return
        at += max(24, length + -length % 8)
        if at > size:
            return


def _sphere(file: BinaryIO, size: int) -> None:
    file.seek(0)
    text = file.read(1024).decode("latin-1")
    lines = {name: value for name, _, value in re.findall(r"^(\w+) -(i|s\d+) (\S+)", text, re.MULTILINE)}
    if lines.get("sample_coding", "pcm") != "pcm":
        return
    counts = [lines.get(name, "") for name in ("sample_count", "channel_count", "sample_n_bytes")]
    if all(count.isdecimal() for count in counts):
        samples, channels, width = map(int, counts)
        _compare(file, size, 1024, samples * channels * width)


def _ogg(file: BinaryIO, size: int) -> None:
    """The last page must be complete."""
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return
    header = tail[at : at + 27]
    lengths = tail[at + 27 : at + 27 + header[26]] if len(header) == 27 else b""
    rest = len(tail) - (at + 27 + len(lengths) + sum(lengths))
    if len(header) < 27 or len(lengths) < header[26] or rest < 0 or tail[len(tail) - rest :] in (b"O", b"Og"):
        raise LengthError("is cut off: its last Ogg page is incomplete")


def _flac(file: BinaryIO, size: int) -> Patch | None:
    """The samples of STREAMINFO against the number of the last frame."""
    file.seek(8)
    info = file.read(34)
    if len(info) < 34:
        return None
    declared = int.from_bytes(info[13:18], "big") & (1 << 36) - 1
    last_frame = size - (int.from_bytes(info[7:10], "big") or _TAIL_BYTES)
    samples = None
    for start in (last_frame, last_frame - 4 * _TAIL_BYTES):  # farther back if tags follow
        file.seek(max(42, start))
        if (samples := _samples_to_last_frame(file.read(), info)) is not None:
            break
    if samples is None and start <= 42:
        raise LengthError("has no audio after its header")
    if samples is None or samples == declared:
        return None
    if declared == 0:
        return Patch(21, (int.from_bytes(info[13:18], "big") | samples).to_bytes(5, "big"))
    raise LengthError(f"has {samples:,} samples, but its header declares {declared:,}")


def _samples_to_last_frame(tail: bytes, info: bytes) -> int | None:
    """The number of samples up to the end of the last frame whose header is in `tail`."""
    block = int.from_bytes(info[2:4], "big")
    channels = (info[12] >> 1 & 7) + 1
    for match in reversed(list(_FRAME_SYNC.finditer(tail))):
        header = tail[match.start() : match.start() + 16]
        assigned = header[3] >> 4 if len(header) > 5 else -1
        if assigned + 1 == channels or (channels == 2 and 8 <= assigned <= 10):
            end = _last_sample(header, block)
            if end is not None:
                return end
    return None


def _last_sample(header: bytes, block: int) -> int | None:
    """The end of the frame with this header, in samples; None if it is no header (its CRC is wrong)."""
    lead = header[4]
    extra = 0 if lead < 0x80 else 8 - (lead ^ 0xFF).bit_length() - 1
    number = lead & (0x7F if not extra else 0x3F >> extra)
    for byte in header[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    at = 5 + extra
    code, rate = header[2] >> 4, header[2] & 15
    if code in (6, 7):
        length = int.from_bytes(header[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        length = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(header) or _crc_8(header[:at]) != header[at]:
        return None
    return (number if header[1] & 1 else number * block) + length


def _crc_8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


_CHECKS: dict[bytes, Callable[[BinaryIO, int], Patch | None]] = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": _au,
    b"riff": _wave64,
    b"NIST_1A": _sphere,
    b"OggS": _ogg,
    b"fLaC": _flac,
}
