"""Multiply-accumulates of a forward pass: the actual number, and the number as in the paper's table.

Shapes come from a pass on the meta device, which computes nothing. Layers that are functions rather than
modules inside (Mamba, attention, deformable convolution) are skipped there and counted by formula.

The table's values are those of the profiler thop, which sums over calls of the module types it knows. Of the
authors' networks it counts
- convolutions: outputs × input channels × taps; transposed ones too, although stride skips most taps;
- affine norms (batch, instance and layer) as 4 per element, PReLU as 1;
- of Mamba the causal convolution, d_conv - 1 outputs longer than needed, `x_proj` and `out_proj`; but
  neither the input and step projections nor the scan, which are functions;
- of attention only the layer norm, times k² for a module registered in k places, since it is hooked once per
  place and its sum is added in each. A shared one is in the encoder, the decoder and a list: k = 3;
- of the Conformer all but the attention's projections and inside;
- of mLSTM the up and down projections, the causal convolution, as long as Mamba's, and both gates; not its
  norms, the block-diagonal projections and the cell;
- of an LSTM of h units 4((C + h)h + 3h) + 4h per step and direction;
- nothing of deformable convolutions.
The values of xs, m and all baselines agree to both decimals; for s it is 14.902, and 14.91 in the table.

Legend: B batch, C channels, T frames, F frequency bins, H heads, W width of a head.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rwsa.kernels.layout import SequenceAxis
from rwsa.models.attention import AxialAttention
from rwsa.models.build import Network
from rwsa.models.conformer import Conformer
from rwsa.models.layers import DeformableConv, FrequencyUpsample
from rwsa.models.lstm import BiLSTM
from rwsa.models.mamba import BiMamba, MambaMixer
from rwsa.models.mlstm import BiMLSTM, MLSTMBlock
from rwsa.models.unet import AxialBlock


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Multiply-accumulates of one pass, without norms, activations and biases.

    Attributes:
        convolutions: all but deformable ones, including Mamba's causal convolutions.
        deformable: per tap, 4 for interpolation and 1 for its weight.
        projections: the linear layers of mixers and attention, including an LSTM's recurrent ones.
        scans: all multiplications of recurrences. Of Mamba 4 per state (ΔA, ΔuB, Āh, Ch) and 3 per channel
            (Δu, Du, the gate). Of mLSTM in its recurrent form, per step and head, 3 W² for the state (decay,
            key by value, query) and 7 W for the rest: normalizer (decay, query), scales of key, query and
            output, skip, gate. Of an LSTM 3 per unit.
        attention: queries by keys, and weights by values.
        published: the count as in the paper's table, independent of the others.
    """

    convolutions: int = 0
    deformable: int = 0
    projections: int = 0
    scans: int = 0
    attention: int = 0
    published: int = 0

    @property
    def total(self) -> int:
        return self.convolutions + self.deformable + self.projections + self.scans + self.attention

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


# Maps (layer, inputs, output) to the cost of one call.
_Rule = Callable[[Any, tuple[Any, ...], Tensor], Cost]


class LayerCall(NamedTuple):
    """One call of a layer, and the elements that it must read and write: input, output and weights."""

    layer: nn.Module
    cost: Cost
    read: int
    written: int
    weights: int


def cost(model: Network, frames: int | None = None) -> Cost:
    """The cost of one clip of `frames` frames, by default of the model's segment length."""
    return sum((call.cost for call in layer_calls(model, frames)), Cost())


def layer_calls(model: Network, frames: int | None = None) -> list[LayerCall]:
    """The calls of all counted layers in a pass of one clip, in order; arguments as of `cost`."""
    shape = (1, model.config.spectral.bins, frames or model.config.segment_frames)
    meta_model = copy.deepcopy(model).to("meta").eval()
    rules: dict[type[nn.Module], _Rule] = {
        **_RULES,
        AxialAttention: partial(_attention, places=_places(meta_model)),
    }
    calls: list[LayerCall] = []
    for layer in meta_model.modules():
        if rule := rules.get(type(layer)):
            layer.register_forward_hook(partial(_record, calls, rule))
        if isinstance(layer, AxialAttention | DeformableConv | BiMamba | BiMLSTM | BiLSTM | Conformer):
            layer.forward = _skip  # type: ignore[assignment]
    with torch.no_grad():
        meta_model(torch.empty(shape, device="meta"), torch.empty(shape, device="meta"))
    return calls


def _record(
    calls: list[LayerCall], rule: _Rule, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> None:
    read = sum(x.numel() for x in inputs if isinstance(x, Tensor))
    weights = sum(weight.numel() for weight in layer.parameters())
    calls.append(LayerCall(layer, rule(layer, inputs, output), read, output.numel(), weights))


def _skip(x: Tensor, *_: SequenceAxis | Tensor | None) -> Tensor:
    return x


def _places(model: nn.Module) -> dict[AxialAttention, int]:
    """In how many places the authors' network registers each attention: blocks, and a list of shared ones."""
    blocks: Counter[AxialAttention] = Counter()
    for block in model.modules():
        if isinstance(block, AxialBlock):
            pair = {block.time_attention, block.frequency_attention}
            blocks.update(attention for attention in pair if isinstance(attention, AxialAttention))
    return {attention: count + (count > 1) for attention, count in blocks.items()}


def _convolution(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> Cost:
    macs = output.numel() * layer.weight[0].numel()
    return Cost(convolutions=macs, published=macs)


def _transposed(layer: nn.ConvTranspose2d, inputs: tuple[Tensor], output: Tensor) -> Cost:
    taps = layer.weight[0, 0].numel()
    return Cost(
        convolutions=inputs[0].numel() * layer.weight[0].numel(),
        published=output.numel() * layer.in_channels * taps,
    )


def _frequency_upsample(layer: FrequencyUpsample, inputs: tuple[Tensor], output: Tensor) -> Cost:
    """Its 1×1 convolution, of which the authors compute both halves; `smooth` is counted separately."""
    macs = inputs[0][:, 0].numel() * layer.expand.weight.numel()
    return Cost(convolutions=macs // 2, published=macs)


def _deformable(layer: DeformableConv, inputs: tuple[Tensor, Tensor], output: Tensor) -> Cost:
    return Cost(deformable=5 * output.numel() * layer.weight[0].numel())


def _instance_norm(layer: nn.InstanceNorm2d, inputs: tuple[Tensor], output: Tensor) -> Cost:
    return Cost(published=4 * output.numel())


def _prelu(layer: nn.PReLU, inputs: tuple[Tensor], output: Tensor) -> Cost:
    return Cost(published=output.numel())


def _bimamba(layer: BiMamba, inputs: tuple[Tensor, SequenceAxis], output: Tensor) -> Cost:
    x_BTFC, axis = inputs
    positions = x_BTFC[..., 0].numel()
    merge = positions * layer.merge.weight.numel()
    total = Cost(projections=merge, published=merge)
    for mixer in layer.mixers:
        assert isinstance(mixer, MambaMixer)
        inner, states = mixer.A_log.shape
        counted = mixer.x_proj.weight.numel() + mixer.out_proj.weight.numel()
        uncounted = mixer.in_proj.weight.numel() + mixer.dt_proj.weight.numel()
        total += _causal(mixer.conv, positions, length=x_BTFC.shape[axis])
        total += Cost(
            projections=positions * (counted + uncounted),
            scans=positions * inner * (4 * states + 3),
            published=positions * counted,
        )
    return total


def _bimlstm(layer: BiMLSTM, inputs: tuple[Tensor, SequenceAxis], output: Tensor) -> Cost:
    x_BTFC, axis = inputs
    positions = x_BTFC[..., 0].numel()
    merge = positions * layer.merge.weight.numel()
    total = Cost(projections=merge, published=merge)
    for block in layer.directions:
        assert isinstance(block, MLSTMBlock)
        inner, width = block.skip.numel(), block.skip.numel() // block.heads
        linear = sum(x.weight.numel() for x in (block.up, block.down, block.input_gate, block.forget_gate))
        by_blocks = sum(x.weight.numel() for x in (block.query, block.key, block.value))
        total += _causal(block.conv, positions, length=x_BTFC.shape[axis])
        total += Cost(
            projections=positions * (linear + by_blocks),
            scans=positions * inner * (3 * width + 7),
            published=positions * linear,
        )
    return total


def _causal(conv: nn.Conv1d, positions: int, *, length: int) -> Cost:
    """A causal depthwise convolution of sequences; thop's count includes padding at their end."""
    surplus = positions // length * (conv.kernel_size[0] - 1)
    weights = conv.weight.numel()
    return Cost(convolutions=positions * weights, published=(positions + surplus) * weights)


def _bilstm(layer: BiLSTM, inputs: tuple[Tensor, SequenceAxis], output: Tensor) -> Cost:
    positions = inputs[0][..., 0].numel()
    units, width = layer.lstm.hidden_size, layer.lstm.input_size
    merge = positions * layer.merge.weight.numel()
    products = 4 * (width + units) * units
    return Cost(
        projections=merge + 2 * positions * products,
        scans=2 * positions * 3 * units,
        published=merge + 2 * positions * (products + 4 * 3 * units + 4 * units),
    )


def _conformer(layer: Conformer, inputs: tuple[Tensor, SequenceAxis, object], output: Tensor) -> Cost:
    x_BTFC, axis = inputs[:2]
    positions, channels = x_BTFC[..., 0].numel(), x_BTFC.shape[-1]
    attended = x_BTFC.shape[axis]
    if layer.attention.across_batch:  # with one clip: the other axis
        attended = x_BTFC.shape[1] * x_BTFC.shape[2] // attended
    convolution = layer.convolution
    pointwise = convolution.widen.weight.numel() + convolution.narrow.weight.numel()
    linear = pointwise + sum(
        x.weight.numel() for part in (layer.first, layer.second) for x in (part.widen, part.narrow)
    )
    depthwise = convolution.depthwise.weight.numel()
    norms = 5 * channels + convolution.batch_norm.weight.numel()
    return Cost(
        convolutions=positions * depthwise,
        projections=positions * (linear + 4 * channels * channels),
        attention=2 * x_BTFC.numel() * attended,
        published=positions * (linear + depthwise + 4 * norms),
    )


def _attention(
    layer: AxialAttention,
    inputs: tuple[Tensor, SequenceAxis],
    output: Tensor,
    *,
    places: dict[AxialAttention, int],
) -> Cost:
    x_BTFC, axis = inputs
    positions = x_BTFC[..., 0].numel()
    return Cost(
        projections=positions * (layer.qkv.weight.numel() + layer.out.weight.numel()),
        attention=2 * x_BTFC.numel() * x_BTFC.shape[axis],
        published=4 * x_BTFC.numel() * places.get(layer, 1) ** 2,
    )


_RULES: dict[type[nn.Module], _Rule] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.InstanceNorm2d: _instance_norm,
    nn.PReLU: _prelu,
    FrequencyUpsample: _frequency_upsample,
    DeformableConv: _deformable,
    BiMamba: _bimamba,
    BiMLSTM: _bimlstm,
    BiLSTM: _bilstm,
    Conformer: _conformer,
}
