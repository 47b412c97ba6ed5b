"""A bidirectional LSTM along one axis of `[B, T, F, C]`: the mixer of LSTM-SENet, as reconstructed.

No code of LSTM-SENet was published. This form follows from its published counts of parameters and operations,
which others meet as well; whether a direction has a residual or an activation of its own they do not show.

Legend: B batch, T frames, F frequency bins, C channels, N sequences, L length.
"""

from __future__ import annotations

from torch import Tensor, nn

from rwsa.kernels.layout import SequenceAxis


class BiLSTM(nn.Module):
    """x → Linear[forward, backward], each direction one LSTM layer of `expand`·C units."""

    def __init__(self, channels: int, *, expand: float = 1) -> None:
        super().__init__()
        units = round(expand * channels)
        self.lstm = nn.LSTM(channels, units, batch_first=True, bidirectional=True)
        self.merge = nn.Linear(2 * units, channels)

    def forward(self, x_BTFC: Tensor, axis: SequenceAxis) -> Tensor:
        rows = x_BTFC.transpose(1, 2) if axis is SequenceAxis.TIME else x_BTFC
        y_NLD, _ = self.lstm(rows.flatten(0, 1).contiguous())
        y = self.merge(y_NLD).unflatten(0, rows.shape[:2])
        return y.transpose(1, 2) if axis is SequenceAxis.TIME else y
