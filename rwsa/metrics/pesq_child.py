"""Run as a program: wide-band PESQ in a process that may die, one pair after the other.

Reads pairs from standard input until it ends: the number of samples as a little-endian int64, then clean
and enhanced as float64. Answers each with a line of JSON, the score or the package's complaint. Imports
nothing of rwsa, so that it starts quickly and from anywhere.
"""

from __future__ import annotations

import json
import signal
import sys

import numpy as np


def main() -> None:
    """Score what standard input holds."""
    from pesq import PesqError, pesq

    # Ctrl-C and a scheduler's SIGTERM reach the whole group; this one ends when its parent closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while header := sys.stdin.buffer.read(8):
        samples = int.from_bytes(header, "little")
        pair = np.frombuffer(sys.stdin.buffer.read(2 * 8 * samples), dtype=np.float64)
        clean, enhanced = pair.reshape(2, samples)
        try:
            answer = {"pesq": float(pesq(16_000, clean, enhanced, "wb"))}
        except PesqError as error:
            answer = {"reason": error.args[0].decode()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
