"""Every mixer trains on recordings, alone and on two ranks alike, and resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from rwsa.audio import read_mono, rms, round_to_int16
from rwsa.audio_folders import find_audio
from rwsa.config import as_mapping, build, merge
from rwsa.models.config import Mixer
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index
from rwsa.training.config import TrainConfig
from rwsa.training.context import LocalContext
from rwsa.training.loop import fit
from rwsa.training.state import TrainState
from tests.training_runs import RATE_HZ, Log, assert_same_bits, config_of, trained

MIXERS: tuple[Mixer, ...] = get_args(Mixer)
STEPS = 6


def write_recordings(folder: Path, recordings: Path) -> None:
    """Four clips of speech for training and one for validation, with noise of the same level."""
    speech, noises = (find_audio(recordings / name / "valid") for name in ("libri", "esc50"))
    examples = []
    for number, (clean_path, noise_path) in enumerate(zip(speech[:5], noises[:5], strict=True)):
        clean, noise = (
            read_mono(path, RATE_HZ, start=4000, samples=6000) for path in (clean_path, noise_path)
        )
        noisy = clean + noise * rms(clean) / rms(noise)
        signals = {"clean": round_to_int16(clean / 2), "noisy": round_to_int16(noisy / 2)}
        examples.append(Example(example_id=f"clip-{number}", sample_rate_hz=RATE_HZ, meta={}, **signals))
    write_shard(folder, "train", 0, examples[:4], sample_rate_hz=RATE_HZ)
    write_shard(folder, "valid", 0, examples[4:], sample_rate_hz=RATE_HZ)
    merge_index(folder)


def config_for(mixer: Mixer, shards: Path) -> TrainConfig:
    model: dict[str, Any] = {
        "architecture": "mambattention",
        "mixer": mixer,
        "sharing": "block" if mixer == "none" else "off",
        "segment_frames": 40,
        "spectral": {"n_fft": 128, "hop_samples": 32, "window_samples": 128},
    }
    if mixer != "mamba":
        model["d_state"] = 16
    if mixer == "none":
        model["expand"] = 4
    # The other sizes are those of `config_of`, of which depth and middle_heads are the U-Net's.
    return config_of(
        shards,
        model=model | {"middle_heads": 8},
        global_batch_size=4,
        max_steps=STEPS,
        checkpoint_every_steps=3,
        optimiser={"learning_rate": 2e-3},
    )


@pytest.fixture(scope="module")
def shards(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixers") / "shards"
    write_recordings(folder, recordings)
    return folder


@pytest.mark.parametrize(
    "mixer",
    [pytest.param(m, marks=() if m in ("conformer", "mlstm") else pytest.mark.full) for m in MIXERS],
)
def test_it_learns_and_resumes_exactly(shards: Path, tmp_path: Path, mixer: Mixer) -> None:
    straight, config = Log(), config_for(mixer, shards)
    state = trained(config, tmp_path / "straight", straight)
    assert straight.steps[STEPS]["total"] < straight.steps[1]["total"]
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "killed", Log(interrupt_at=5))
    resumed = Log()
    assert_same_bits(trained(config, tmp_path / "killed", resumed), state)
    assert resumed.steps == {step: straight.steps[step] for step in range(4, STEPS + 1)}


@pytest.mark.parametrize("mixer", [pytest.param(m, marks=pytest.mark.full) for m in MIXERS])
def test_it_learns_inside_the_unet(shards: Path, tmp_path: Path, mixer: Mixer) -> None:
    log, outside = Log(), config_for(mixer, shards)
    unet = {"architecture": "rwsa", "sharing": "resolution", "middle_heads": 2}
    unet["spectral"] = {"n_fft": 126, "hop_samples": 32, "window_samples": 126}
    trained(build(TrainConfig, merge(as_mapping(outside), {"model": unet}), where=mixer), tmp_path, log)
    assert log.steps[STEPS]["total"] < log.steps[1]["total"]


class RankContext(LocalContext):
    """One of two processes that share a checkpoint folder."""

    def __init__(self, rank: int, folder: Path) -> None:
        self.log = Log()
        super().__init__(folder, self.log)
        self.rank, self.world_size = rank, 2


def train_as_rank(rank: int, shards: Path, folder: Path) -> None:
    """Entry point of each spawned process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        for mixer in MIXERS:
            context = RankContext(rank, folder / mixer)
            fit(config_for(mixer, shards), context)
            if rank == 0:
                (folder / f"{mixer}.json").write_text(json.dumps(context.log.steps))
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the curve of every mixer on two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train_as_rank, args=(shards, folder), nprocs=2)
    return folder


def moved_by_rounding(state: TrainState) -> None:
    """Multiply weights by 1 ± 6e-8, half the distance of neighbouring float32."""
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in state.generator.parameters():
            weight.mul_(1 + 6e-8 * torch.randn(weight.shape, generator=rng))


@pytest.mark.full
@pytest.mark.parametrize("mixer", MIXERS)
def test_two_ranks_have_the_curve_of_one(
    shards: Path, two_ranks: Path, tmp_path: Path, mixer: Mixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later steps amplify rounding: by as much as if the initial weights had been rounded differently."""
    config, alone, moved = config_for(mixer, shards), Log(), Log()
    trained(config, tmp_path / "alone", alone)
    init = TrainState.__init__
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainState, "__init__", lambda state, *of: (init(state, *of), moved_by_rounding(state))[0]
        )
        trained(config, tmp_path / "moved", moved)
    together = json.loads((two_ranks / f"{mixer}.json").read_text())
    for step in (1, 2):
        names = alone.steps[step].keys() - {"gradient_norm", "valid_si_sdr"}
        found, expected = (
            {name: of[name] for name in names} for of in (together[str(step)], alone.steps[step])
        )
        assert found == pytest.approx(expected, rel=1e-4), step
    steps = range(3, STEPS + 1)
    ranks, rounding = (
        max(abs(of[step]["total"] / alone.steps[step]["total"] - 1) for step in steps)
        for of in ({step: together[str(step)] for step in steps}, moved.steps)
    )
    assert ranks < 10 * rounding < 0.1
