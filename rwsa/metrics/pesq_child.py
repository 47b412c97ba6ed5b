"""Run as a program: one wide-band PESQ in a process that may die.

Reads clean and enhanced, float64 and of one length, from standard input; prints the score, or the
package's complaint, as JSON. Imports nothing of rwsa, so that it starts quickly and from anywhere.
"""

from __future__ import annotations

import json
import sys

import numpy as np


def main() -> None:
    """Score what standard input holds."""
    from pesq import PesqError, pesq

    clean, enhanced = np.frombuffer(sys.stdin.buffer.read(), dtype=np.float64).reshape(2, -1)
    try:
        answer = {"pesq": float(pesq(16_000, clean, enhanced, "wb"))}
    except PesqError as error:
        answer = {"reason": error.args[0].decode()}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
