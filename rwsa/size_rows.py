"""What `rwsa info` shows of the named sizes: building them takes seconds. A test builds them and compares."""

from __future__ import annotations

SIZE_ROWS = {
    "nano": "    93,512  64×256   0.57   0.23   0.02   0.16   0.10   0.06   0.34  C 8, N 1, depth 3, sharing resolution",  # noqa: E501
    "xs": " 1,024,360 256×256  21.15   3.80   0.12   9.34   5.83   2.05   9.22  C 16, N 2, depth 3, sharing resolution",  # noqa: E501
    "s": " 1,946,664 256×256  38.72   4.15   0.12  18.69  11.66   4.10  14.90  C 16, N 4, depth 3, sharing resolution",  # noqa: E501
    "m": " 3,914,424 256×256  70.64   8.74   0.18  38.08  17.49   6.15  28.47  C 24, N 4, depth 3, sharing resolution",  # noqa: E501
    "mambattention": " 2,325,841 321×201 101.73  49.18   0.00  36.81   8.81   6.92  65.52  C 64, N 4, mambattention, sharing block",  # noqa: E501
    "semamba": " 2,258,769 321×201  90.60  49.18   0.00  32.61   8.81   0.00  65.46  C 64, N 4, mambattention, sharing off",  # noqa: E501
    "mpsenet": " 2,048,849 321×201  83.94  49.67   0.00  27.35   0.00   6.92  74.29  C 64, N 4, mambattention, conformer, sharing off",  # noqa: E501
    "xlstm_senet": " 2,203,601 321×201 107.43  49.18   0.00  32.08  26.16   0.00  80.71  C 64, N 4, mambattention, mlstm, sharing off",  # noqa: E501
    "lstm_senet": " 2,344,273 321×201  86.72  48.66   0.00  37.87   0.20   0.00  88.59  C 64, N 8, mambattention, lstm, sharing off",  # noqa: E501
}
