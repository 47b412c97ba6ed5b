"""PESQ as a program that `pesq_process` runs, with the mode (`wb` or `nb`) as its argument.

Reads pairs from standard input until its end: the number of samples as a little-endian int64, then clean and
enhanced as float64. Writes a line of JSON per pair: the score, or the package's error message. Imports
nothing of rwsa, so that it starts quickly.
"""

from __future__ import annotations

import json
import signal
import sys

import numpy as np


def main() -> None:
    """Score the pairs on standard input."""
    from pesq import PesqError, pesq

    # Ctrl-C and a scheduler's SIGTERM reach the process group; this process ends when its parent closes the
    # pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while header := sys.stdin.buffer.read(8):
        samples = int.from_bytes(header, "little")
        pair = np.frombuffer(sys.stdin.buffer.read(2 * 8 * samples), dtype=np.float64)
        clean, enhanced = pair.reshape(2, samples)
        try:
            response = {"pesq": float(pesq(16_000, clean, enhanced, sys.argv[1]))}
        except PesqError as error:
            response = {"reason": error.args[0].decode()}
        print(json.dumps(response), flush=True)


if __name__ == "__main__":
    main()
