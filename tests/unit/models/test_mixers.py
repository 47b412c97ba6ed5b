"""The axis `mixer`: sizes, parts against plain formulations, both architectures, and refused configurations.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rwsa.config import as_mapping, build, config_hash
from rwsa.errors import InputError
from rwsa.kernels.layout import SequenceAxis
from rwsa.models import SIZES, ModelConfig, build_model, load_model, save_model
from rwsa.models.batch_norm import GlobalBatchNorm
from rwsa.models.config import Mixer
from rwsa.models.conformer import Conformer
from rwsa.models.lstm import BiLSTM
from rwsa.models.mlstm import BiMLSTM, MLSTMBlock
from rwsa.stft import SpectralConfig
from tests.tensors import normal, parameters, torch_attention

MIXERS: tuple[Mixer, ...] = get_args(Mixer)
UNET = ModelConfig(channels=8, blocks=1, heads=2, middle_heads=2, spectral=SpectralConfig(n_fft=30))
FLAT = ModelConfig(
    architecture="mambattention",
    channels=8,
    blocks=2,
    heads=2,
    sharing="off",
    spectral=SpectralConfig(n_fft=32),
)


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "count"),
        [
            ("mambattention", 2_325_841),
            ("semamba", 2_258_769),
            ("mpsenet", 2_048_849),
            ("xlstm_senet", 2_203_601),
            ("lstm_senet", 2_344_273),
        ],
    )
    def test_the_baselines_of_table_1(self, name: str, count: int) -> None:
        with torch.device("meta"):
            assert parameters(build_model(name)) == count

    def test_configurations_without_the_new_keys_keep_their_hash(self) -> None:
        # Of checkpoints, trials and MLflow runs of earlier versions.
        assert config_hash(SIZES["xs"]) == "939ab593c1fe"
        assert config_hash(SIZES["mambattention"]) == "e766fc98cfc4"
        assert "mixer" not in as_mapping(SIZES["xs"])
        stored = as_mapping(SIZES["mpsenet"])
        assert stored["mixer"] == "conformer"
        assert build(ModelConfig, stored, where="m") == SIZES["mpsenet"]


class TestBothArchitectures:
    @pytest.mark.parametrize("mixer", MIXERS)
    @pytest.mark.parametrize("sharing", ["resolution", "off"])
    def test_in_the_unet(self, tmp_path: Path, mixer: Mixer, sharing: Any) -> None:
        if (mixer, sharing) == ("none", "off"):
            return  # refused, below
        self._assert_usable(dataclasses.replace(UNET, mixer=mixer, sharing=sharing), tmp_path)

    @pytest.mark.parametrize("mixer", MIXERS)
    def test_without_the_unet(self, tmp_path: Path, mixer: Mixer) -> None:
        sharing: Any = "block" if mixer == "none" else "off"
        self._assert_usable(dataclasses.replace(FLAT, mixer=mixer, sharing=sharing), tmp_path)

    def _assert_usable(self, config: ModelConfig, folder: Path) -> None:
        model, bins = build_model(config).eval(), config.spectral.bins
        mag, pha = normal(3, bins, 7).abs(), normal(3, bins, 7, seed=1)
        together = model(mag, pha)[0]
        assert together.shape == mag.shape
        alone = model(mag[1:2], pha[1:2])[0]
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
        named = dict(model.named_parameters())
        gradients = torch.autograd.grad(
            together.square().sum() + model(mag, pha)[1].sum(), list(named.values())
        )
        still = [name for name, g in zip(named, gradients, strict=True) if g.abs().max() == 0]
        assert [name for name in still if not name.endswith("bias")] == []
        save_model(folder / "m.safetensors", model)
        loaded = load_model(folder / "m.safetensors")
        assert loaded.config == config
        assert torch.equal(loaded(mag, pha)[0], together)

    @pytest.mark.parametrize("mixer", [m for m in MIXERS if m != "mamba"])
    def test_autocast(self, mixer: Mixer) -> None:
        model = build_model(dataclasses.replace(FLAT, mixer=mixer, sharing="block"))
        with torch.autocast("cpu", torch.bfloat16):
            mag, pha = model(normal(1, 17, 6).abs(), normal(1, 17, 6, seed=1))
        (mag.float().sum() + pha.float().sum()).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


class TestMLSTM:
    def test_it_is_the_plain_formulation(self) -> None:
        block, x = MLSTMBlock(8, 2, expand=2).double(), normal(3, 70, 8).double()
        for seed, parameter in enumerate(block.parameters()):
            parameter.data += 0.3 * normal(*parameter.shape, seed=seed).double()
        torch.testing.assert_close(block(x), plain_mlstm(block, x))

    def test_it_is_causal_and_one_direction_is_the_other_flipped(self) -> None:
        mixer, x = BiMLSTM(8, 2, expand=2), normal(1, 2, 9, 8)
        mixer.merge = nn.Identity()
        mixer.directions[1].load_state_dict(mixer.directions[0].state_dict())
        forward, backward = mixer(x, SequenceAxis.FREQUENCY).chunk(2, dim=-1)
        flipped = mixer(x.flip(2), SequenceAxis.FREQUENCY).flip(2)
        torch.testing.assert_close(backward, flipped[..., :8])
        changed = mixer(torch.cat((x[:, :, :5], x[:, :, 5:] + 1), dim=2), SequenceAxis.FREQUENCY)
        assert torch.equal(changed[:, :, :5, :8], forward[:, :, :5])

    def test_initial_gates_are_one_half_as_published(self) -> None:
        block = MLSTMBlock(64, 4)
        for gate in (block.input_gate, block.forget_gate):
            assert not gate.weight.any()
            assert not gate.bias.any()
        assert block.up.weight.std().item() == pytest.approx((2 / 5 / 64) ** 0.5, rel=0.02)
        assert block.down.weight.std().item() == pytest.approx(2 / 8, rel=0.02)


def plain_mlstm(block: MLSTMBlock, x: torch.Tensor) -> torch.Tensor:
    """The block step by step: its recurrent form, with the state of every head as a matrix."""
    heads, inner = block.heads, block.skip.numel()
    width = inner // heads
    normed = F.layer_norm(x, x.shape[-1:], 1 + block.norm.weight, block.norm.bias)
    u, z = block.up(normed).chunk(2, dim=-1)
    c = F.silu(F.conv1d(F.pad(u.mT, (3, 0)), block.conv.weight, block.conv.bias, groups=inner).mT)
    q, k, v = (
        y @ torch.block_diag(*layer.weight).T + layer.bias
        for layer, y in ((block.query, c), (block.key, c), (block.value, u))
    )
    gates = torch.cat((q, k, v), dim=-1)
    log_forget, log_input = F.logsigmoid(block.forget_gate(gates)), block.input_gate(gates)
    outputs = torch.empty_like(u)
    for n, head in itertools.product(range(len(x)), range(heads)):
        at = slice(head * width, (head + 1) * width)
        state, norm, peak = torch.zeros(width, width).double(), torch.zeros(width).double(), -torch.inf
        for t in range(x.shape[1]):
            step, enters = log_forget[n, t, head], log_input[n, t, head]
            new = torch.maximum(step + peak, enters)
            kept, scaled = torch.exp(step + peak - new), torch.exp(enters - new) * k[n, t, at] / width**0.5
            state, norm, peak = kept * state + torch.outer(scaled, v[n, t, at]), kept * norm + scaled, new
            total = torch.maximum((q[n, t, at] @ norm).abs(), torch.exp(-peak)) + 1e-6
            outputs[n, t, at] = F.layer_norm(q[n, t, at] @ state / total, (width,))
    outputs = outputs * (1 + block.head_norm.weight) + block.head_norm.bias
    return x + block.down((outputs + block.skip * c) * F.silu(z))


@pytest.mark.parametrize("mixer", [BiMLSTM(8, 2), BiLSTM(8, expand=2), Conformer(8, 2).eval()])
def test_one_axis_is_the_other_transposed(mixer: nn.Module) -> None:
    x = normal(2, 5, 7, 8)
    along_time = mixer(x, SequenceAxis.TIME)
    other = mixer(x.transpose(1, 2), SequenceAxis.FREQUENCY).transpose(1, 2)
    torch.testing.assert_close(along_time, other)
    # And each row is a sequence of its own.
    torch.testing.assert_close(along_time[:, :, 2:3], mixer(x[:, :, 2:3], SequenceAxis.TIME))


class TestConformer:
    def test_as_published_it_attends_across_the_batch(self) -> None:
        model = build_model(dataclasses.replace(FLAT, mixer="conformer", conformer_attention="batch")).eval()
        assert model.config.mixes_clips
        mag, pha = normal(2, 17, 7).abs(), normal(2, 17, 7, seed=1)
        apart = (model(mag, pha)[0][:1] - model(mag[:1], pha[:1])[0]).abs().max()
        assert apart > 1e-3

    @pytest.mark.parametrize("axis", SequenceAxis)
    def test_across_the_batch_is_torchs_attention_with_sequences_first(self, axis: SequenceAxis) -> None:
        ours = Conformer(8, 2, across_batch=True).attention
        theirs = torch_attention(ours, batch_first=False)  # positions first
        x = normal(3, 4, 6, 8)
        rows = x.transpose(1, 2) if axis is SequenceAxis.TIME else x
        sequences = ours.norm(rows).flatten(0, 1)
        expected = theirs(sequences, sequences, sequences, need_weights=False)[0].view_as(rows)
        if axis is SequenceAxis.TIME:
            expected = expected.transpose(1, 2)
        torch.testing.assert_close(ours(x, axis, None), expected)

    def test_dropout_depends_on_the_clip_only(self) -> None:
        model = build_model(dataclasses.replace(FLAT, mixer="conformer")).eval()  # batch norm without a batch
        mag, pha = normal(3, 17, 7).abs(), normal(3, 17, 7, seed=1)
        seeds = torch.tensor([7, 8, 9])
        together = model(mag, pha, seeds)[0]
        torch.testing.assert_close(together[1:2], model(mag[1:2], pha[1:2], seeds[1:2])[0])
        assert torch.equal(together, model(mag, pha, seeds)[0])
        assert not torch.allclose(together, model(mag, pha, seeds + 1)[0])
        assert not torch.allclose(together, model(mag, pha)[0])

    def test_dropout_keeps_the_mean(self) -> None:
        attention, x = Conformer(8, 2).attention, normal(1, 6, 5, 8)
        drawn = [
            attention(x, SequenceAxis.TIME, [torch.Generator().manual_seed(seed)]) for seed in range(400)
        ]
        plain = attention(x, SequenceAxis.TIME, None)
        assert (torch.stack(drawn).mean(dim=0) - plain).abs().max() < 0.1 * plain.abs().max()

    @pytest.mark.parametrize("training", [True, False])
    def test_batch_norm_is_torchs(self, training: bool) -> None:
        ours, theirs = GlobalBatchNorm(6).double(), nn.BatchNorm1d(6).double()
        for module in (ours, theirs):
            nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(1))
            module.train(training)
        for seed in range(3):
            x = (2 + 3 * normal(4, 5, 7, 6, seed=seed)).double()
            expected = theirs(x.flatten(0, 2)).view_as(x)
            torch.testing.assert_close(ours(x), expected)
            torch.testing.assert_close(ours.running_mean, theirs.running_mean)
            torch.testing.assert_close(ours.running_var, theirs.running_var)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixer": "gru"}, "'mixer' is 'gru'"),
        ({"mixer": "none", "sharing": "off"}, "mixer 'none' with sharing 'off' leaves nothing along time"),
        ({"mixer": "lstm", "d_state": 8}, "mixer 'lstm' has no d_state; leave it out, or set it to 16"),
        ({"mixer": "none", "expand": 2}, "mixer 'none' has no expand; leave it out, or set it to 4"),
        ({"conformer_attention": "batch"}, "mixer 'mamba' has no conformer_attention; leave it out"),
        ({"mixer": "conformer", "expand": 1.0625}, "16 channels times expand 1.0625 must be even, for the"),
        ({"mixer": "lstm", "expand": 1.1}, "16 channels times expand 1.1 must be whole, for LSTM"),
        ({"expand": 1.5}, "expand is 1.5; it must be whole for the mixer 'mamba'"),
        ({"mixer": "mlstm", "heads": 8, "expand": 1}, "width 16 times expand 1 must divide by 4 times 8"),
    ],
)
def test_invalid_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(ModelConfig, values, where="model.yaml")
    assert message in str(caught.value)
