"""Layers against plain formulations, sharing, and validation of the configuration.

Legend: B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwsa.config import build
from rwsa.errors import InputError
from rwsa.kernels.layout import SequenceAxis
from rwsa.models import SIZES, ModelConfig, RWSAMambaUNet, build_model, load_model, save_model
from rwsa.models.attention import AxialAttention
from rwsa.models.config import Sharing, size
from rwsa.models.layers import DeformableConv, DenseBlock, FrequencyUpsample
from rwsa.models.mamba import BiMamba, MambaMixer
from tests.tensors import normal, parameters, torch_attention

TINY = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)
SHARINGS: tuple[Sharing, ...] = ("resolution", "block", "none", "off")


def tiny(**changes: Any) -> ModelConfig:
    return dataclasses.replace(TINY, **changes)


class TestParameters:
    @pytest.mark.parametrize(("name", "count"), [("xs", 1_024_360), ("s", 1_946_664), ("m", 3_914_424)])
    def test_the_papers_sizes(self, name: str, count: int) -> None:
        assert parameters(build_model(size(name))) == count

    # One attention of width C has 4C² + 6C weights: 304, 1120 and 2448 at widths 8, 16 and 24.
    @pytest.mark.parametrize(
        ("sharing", "count"), [("off", 81_192), ("resolution", 85_064), ("block", 86_488), ("none", 91_784)]
    )
    def test_each_sharing_mode(self, sharing: Sharing, count: int) -> None:
        assert parameters(build_model(tiny(sharing=sharing))) == count

    @pytest.mark.parametrize(("depth", "count"), [(2, 47_200), (3, 85_064), (4, 153_328)])
    def test_each_depth(self, depth: int, count: int) -> None:
        assert parameters(build_model(tiny(depth=depth))) == count

    def test_every_parameter_has_a_gradient(self) -> None:
        model = build_model(TINY)
        mag_BFT, pha_BFT = model(normal(1, 256, 8).abs(), normal(1, 256, 8, seed=1))
        named = dict(model.named_parameters())
        gradients = torch.autograd.grad(mag_BFT.sum() + pha_BFT.sum(), list(named.values()))
        assert [n for n, g in zip(named, gradients, strict=True) if not torch.isfinite(g).all()] == []
        # A bias before an instance norm has no effect; every other parameter has one.
        still = [n for n, g in zip(named, gradients, strict=True) if g.abs().max() == 0]
        assert [name for name in still if not name.endswith("bias")] == []

    def test_equal_seeds_give_equal_weights_without_the_global_generator(self) -> None:
        before = torch.get_rng_state()
        one, two, other = (build_model(TINY, seed=seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert not torch.equal(one["encoder.widen.0.weight"], other["encoder.widen.0.weight"])

    def test_the_generators_of_gpus_are_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seeded: list[int] = []
        monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
        build_model(TINY, seed=5)
        assert seeded == []


def attentions(model: RWSAMambaUNet) -> Iterator[tuple[AxialAttention, ...]]:
    """(encoder time, encoder frequency, decoder time, decoder frequency) of each shared level's blocks."""
    for down, up in zip(model.down_stages, model.up_stages, strict=True):
        for first, second in zip(down.blocks, up.blocks, strict=True):
            pairs = [(b.time_attention, b.frequency_attention) for b in (first, second)]
            yield tuple(itertools.chain.from_iterable(pairs))


# Equal letters are one module.
PATTERNS = {"resolution": "aaaa", "block": "aabb", "none": "abcd"}


def assert_shared(model: RWSAMambaUNet, sharing: Sharing) -> None:
    found = list(attentions(model))
    assert len(found) == (model.config.depth - 1) * model.config.blocks
    for quartet in found:
        if sharing == "off":
            assert quartet == (None,) * 4
            continue
        for (i, a), (j, b) in itertools.combinations(enumerate(quartet), 2):
            assert (a is b) == (PATTERNS[sharing][i] == PATTERNS[sharing][j])
    for block in model.middle.blocks:
        assert (block.time_attention is block.frequency_attention) == (sharing != "none")
    # No attention is shared by two blocks or two levels.
    firsts = [quartet[0] for quartet in found if quartet[0] is not None]
    assert len(set(map(id, firsts))) == len(firsts)


class TestSharing:
    @pytest.mark.parametrize("sharing", SHARINGS)
    def test_sharing_survives_copying_and_loading(self, tmp_path: Path, sharing: Sharing) -> None:
        model = build_model(tiny(sharing=sharing, blocks=2))
        save_model(tmp_path / "m.safetensors", model)
        for each in (model, copy.deepcopy(model), load_model(tmp_path / "m.safetensors")):
            assert_shared(each, sharing)
            assert parameters(each) == parameters(model)
        for stage in (*model.down_stages, *model.up_stages, model.magnitude_refinement.stage):
            assert len({id(block) for block in stage.blocks}) == 2

    def test_sharing_survives_ddp(self, tmp_path: Path) -> None:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
        )
        try:
            wrapped = nn.parallel.DistributedDataParallel(build_model(TINY))
            assert_shared(wrapped.module, "resolution")
            wrapped(normal(1, 256, 4).abs(), normal(1, 256, 4))[0].sum().backward()
        finally:
            torch.distributed.destroy_process_group()

    def test_a_blend_learns_its_share(self, tmp_path: Path) -> None:
        model = build_model(tiny(sharing="blend", blocks=2))
        assert parameters(model) == parameters(build_model(tiny(sharing="block", blocks=2))) + 2 * 2
        for down, up in zip(model.down_stages, model.up_stages, strict=True):
            for encoder, decoder in zip(down.blocks, up.blocks, strict=True):
                assert decoder.time_attention is decoder.frequency_attention
                assert decoder.time_attention.shared is encoder.time_attention
        assert {name: share.item() for name, share in model.shared_shares().items()} == {
            "level_1": 0.5,
            "level_2": 0.5,
        }
        model(normal(1, 256, 8).abs(), normal(1, 256, 8, seed=1))[0].sum().backward()
        logits = [block.time_attention.logit for stage in model.up_stages for block in stage.blocks]
        assert all(logit.grad is not None for logit in logits)
        with torch.no_grad():
            logits[0].fill_(1.0)
        save_model(tmp_path / "m.safetensors", model)
        again = load_model(tmp_path / "m.safetensors")
        assert again.shared_shares()["level_1"] == model.shared_shares()["level_1"] > 0.6
        assert build_model(tiny()).shared_shares() == {}

    def test_a_blend_at_its_limits_is_the_shared_or_the_own_attention(self) -> None:
        blend = build_model(tiny(sharing="blend")).eval()
        attention = blend.up_stages[0].blocks[0].time_attention
        for seed, each in enumerate((attention.shared, attention.own)):
            nn.init.normal_(each.out.weight, generator=torch.Generator().manual_seed(seed))
        x_BTFC = normal(1, 5, 6, 8)
        for logit, one in ((torch.inf, attention.shared), (-torch.inf, attention.own)):
            with torch.no_grad():
                attention.logit.fill_(logit)
                torch.testing.assert_close(
                    attention(x_BTFC, SequenceAxis.TIME), one(x_BTFC, SequenceAxis.TIME)
                )

    def test_official_weights_are_shared_too(self, official: Path) -> None:
        assert_shared(load_model(official / "RWSA_xs_random.pth"), "resolution")

    def test_heads_are_the_same_in_every_mode(self) -> None:
        for sharing in ("resolution", "block", "none"):
            model = build_model(tiny(sharing=sharing, channels=16, heads=4, middle_heads=8))
            assert {a.heads for quartet in attentions(model) for a in quartet} == {4}
            assert {block.time_attention.heads for block in model.middle.blocks} == {8}


class TestShapes:
    @pytest.mark.parametrize("depth", [2, 3, 4])
    @pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 9, 33])
    def test_any_number_of_frames_is_preserved(self, depth: int, frames: int) -> None:
        model = build_model(tiny(depth=depth)).eval()
        with torch.inference_mode():
            mag_BFT, pha_BFT = model(normal(2, 256, frames).abs(), normal(2, 256, frames, seed=1))
        assert mag_BFT.shape == pha_BFT.shape == (2, 256, frames)
        assert torch.isfinite(mag_BFT).all()
        assert (mag_BFT >= 0).all()
        assert (pha_BFT.abs() <= math.pi + 1e-6).all()

    def test_a_residual_phase_is_initially_the_noisy_one(self) -> None:
        model, pha = build_model(tiny(phase="residual")).eval(), normal(2, 256, 8, seed=1)
        with torch.inference_mode():
            _, enhanced = model(normal(2, 256, 8).abs(), pha)
        torch.testing.assert_close(enhanced, pha)

    def test_clips_of_a_batch_are_independent(self) -> None:
        model, mag, pha = build_model(TINY).eval(), normal(3, 256, 8).abs(), normal(3, 256, 8, seed=1)
        with torch.inference_mode():
            together, _ = model(mag, pha)
            alone, _ = model(mag[1:2], pha[1:2])
        torch.testing.assert_close(together[1:2], alone)


class TestCompile:
    @pytest.mark.full
    def test_a_compiled_graph_has_the_same_values_and_gradients(self) -> None:
        """By tracing only, since inductor would compile for minutes."""
        model, mag, pha = build_model(TINY), normal(1, 256, 4).abs(), normal(1, 256, 4, seed=1)
        torch.compiler.reset()
        outcomes = []
        for function in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
            model.zero_grad()
            enhanced, phase = function(mag, pha)
            (enhanced.square().sum() + phase.sin().sum()).backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            outcomes.append([enhanced.detach(), *gradients])
        torch.compiler.reset()
        for eager, traced in zip(*outcomes, strict=True):
            assert (eager - traced).abs().max() <= 1e-4 * eager.abs().max()


class TestLayers:
    def test_frequency_upsample_is_its_plain_formulation(self) -> None:
        layer, x = FrequencyUpsample(6), normal(2, 6, 5, 7)
        shuffled = F.pixel_shuffle(layer.expand(x), 2)
        plain = F.conv2d(shuffled, layer.smooth.weight, stride=(2, 1), padding=(0, 1), groups=6)
        assert plain.shape == (2, 6, 5, 14)
        torch.testing.assert_close(layer(x), plain)

    def test_dense_block_puts_the_new_before_the_old(self) -> None:
        block, x = DenseBlock(4, layers=2).double(), normal(1, 4, 9, 9).double()
        first = block.layers[0](x)
        torch.testing.assert_close(block(x), block.layers[1](torch.cat((first, x), dim=1)))
        assert [layer[0].dilation for layer in DenseBlock(4).layers] == [(1, 1), (2, 1), (4, 1), (8, 1)]


def naive_deformable(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """One tap at a time, bilinear, zero outside."""
    batch, _, frames, bins = x.shape
    out = torch.zeros_like(x)
    for b, t, f, k in itertools.product(range(batch), range(frames), range(bins), range(9)):
        y = t + k // 3 - 1 + offset[b, 2 * k, t, f].item()
        z = f + k % 3 - 1 + offset[b, 2 * k + 1, t, f].item()
        for row, column in itertools.product(
            (math.floor(y), math.floor(y) + 1), (math.floor(z), math.floor(z) + 1)
        ):
            if 0 <= row < frames and 0 <= column < bins:
                share = (1 - abs(y - row)) * (1 - abs(z - column))
                out[b, :, t, f] += share * weight[:, 0, k // 3, k % 3] * x[b, :, row, column]
    return out


class TestDeformableConv:
    SHAPES = ((2, 3, 4, 5), (1, 2, 1, 5), (1, 2, 5, 1), (1, 2, 1, 1), (1, 2, 2, 2))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_without_offsets_it_is_a_plain_depthwise_convolution(self, shape: tuple[int, ...]) -> None:
        batch, channels, frames, bins = shape
        layer, x = DeformableConv(channels).double(), normal(*shape).double()
        plain = F.conv2d(x, layer.weight, padding=1, groups=channels)
        torch.testing.assert_close(layer(x, torch.zeros(batch, 18, frames, bins).double()), plain)

    def test_whole_offsets_shift_it(self) -> None:
        layer, x = DeformableConv(3).double(), normal(2, 3, 6, 7).double()
        offset = torch.zeros(2, 9, 2, 6, 7).double()
        offset[:, :, 0], offset[:, :, 1] = 1, -1  # one frame later, one bin lower
        wide = F.conv2d(F.pad(x, (2, 2, 2, 2)), layer.weight, groups=3)
        torch.testing.assert_close(layer(x, offset.flatten(1, 2)), wide[:, :, 2:8, 0:7])

    @pytest.mark.parametrize("shape", SHAPES)
    def test_any_offsets_agree_with_a_loop(self, shape: tuple[int, ...]) -> None:
        batch, channels, frames, bins = shape
        layer, x = DeformableConv(channels).double(), normal(*shape).double()
        offset = normal(batch, 18, frames, bins, seed=2).double().clamp(-1, 1)
        torch.testing.assert_close(layer(x, offset), naive_deformable(x, offset, layer.weight.detach()))


class TestSequenceLayers:
    @pytest.mark.parametrize("axis", SequenceAxis)
    @pytest.mark.parametrize("d_conv", [1, 4])
    def test_backward_mixer_is_the_forward_one_between_flips(self, axis: SequenceAxis, d_conv: int) -> None:
        forward, backward = (
            MambaMixer(8, reverse=r, d_state=4, d_conv=d_conv, expand=2) for r in (False, True)
        )
        backward.load_state_dict(forward.state_dict())
        x = normal(2, 5, 7, 8)
        norm = normal(8, seed=1)
        flipped = forward(x.flip(axis), norm, axis).flip(axis)
        torch.testing.assert_close(backward(x, norm, axis), flipped)

    @pytest.mark.parametrize("axis", SequenceAxis)
    def test_forward_mixer_is_causal(self, axis: SequenceAxis) -> None:
        mixer, x = MambaMixer(8, reverse=False, d_state=4, expand=2), normal(1, 6, 6, 8)
        changed = x.clone()
        changed.select(axis, 3).add_(1)
        before, after = (mixer(of, torch.ones(8), axis) for of in (x, changed))
        difference = (before - after).abs().transpose(1, axis).amax((0, 2, 3))
        assert difference[:3].max() == 0
        assert difference[3:].min() > 0

    @pytest.mark.parametrize("layer", [BiMamba(8, d_state=4, expand=2), AxialAttention(8, 2)])
    def test_one_axis_is_the_other_transposed(self, layer: nn.Module) -> None:
        x = normal(2, 5, 7, 8)
        along_time = layer(x, SequenceAxis.TIME)
        torch.testing.assert_close(
            along_time, layer(x.transpose(1, 2), SequenceAxis.FREQUENCY).transpose(1, 2)
        )
        # And each row is a sequence of its own.
        torch.testing.assert_close(along_time[:, :, 2:3], layer(x[:, :, 2:3], SequenceAxis.TIME))

    def test_attention_is_torchs_own(self) -> None:
        ours = AxialAttention(8, 2)
        theirs = torch_attention(ours, batch_first=True)
        x = normal(3, 4, 6, 8)
        rows = ours.norm(x).flatten(0, 1)
        expected = theirs(rows, rows, rows, need_weights=False)[0].unflatten(0, (3, 4))
        torch.testing.assert_close(ours(x, SequenceAxis.FREQUENCY), expected)


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"channels": 0}, "'channels' is 0"),
            ({"channels": 10}, "width 10 of level 1 must divide by 4 heads"),
            ({"channels": 12}, "width 36 of level 3 must divide by 8 heads"),
            ({"channels": 6, "heads": 2, "middle_heads": 2}, "channels is 6; it must divide by 4"),
            ({"depth": 1}, "'depth' is 1"),
            ({"depth": 5}, "'depth' is 5"),
            ({"blocks": 0}, "'blocks' is 0"),
            ({"sharing": "some"}, "'sharing' is 'some'"),
            ({"spectral": {"n_fft": 400}}, "201 bins must divide by 8 at depth 3"),
            ({"spectral": {"nfft": 400}}, "unknown key 'spectral.nfft'; did you mean 'n_fft'?"),
            ({"chanels": 8}, "unknown key 'chanels'; did you mean 'channels'?"),
        ],
    )
    def test_what_cannot_be_built_is_refused(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError) as caught:
            build(ModelConfig, values, where="model.yaml")
        assert str(caught.value).startswith("model.yaml: ")
        assert message in str(caught.value)

    def test_unknown_size_is_refused(self) -> None:
        with pytest.raises(
            InputError, match="model size 'xxl' is unknown; choose nano, xs, s, m, mambattention"
        ):
            size("xxl")

    def test_the_papers_segment(self) -> None:
        assert {size(name).segment_samples for name in ("xs", "s", "m")} == {30_600}
        baselines = {"mambattention", "semamba", "mpsenet", "xlstm_senet", "lstm_senet"}
        assert set(SIZES) == {"nano", "xs", "s", "m"} | baselines
