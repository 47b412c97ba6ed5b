"""The configurations in pipelines/configs."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.core.runtime_env import CHECKOUT
from pipelines.train import CONFIGS, config_paths
from pipelines.training.config import TrainRunConfig
from rwsa.config import read_config
from rwsa.errors import InputError
from rwsa.models import SIZES

OWN_RECIPES = ("semamba", "mpsenet", "xlstm_senet")
REQUIRED = ["name=x", "data.shards=y"]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_in_yaml_equal_those_of_the_library(size: str) -> None:
    assert read_config(TrainRunConfig, config_paths(["base", size]), REQUIRED).model == SIZES[size]


def test_base_is_the_papers_recipe() -> None:
    config = read_config(TrainRunConfig, config_paths(["base", "xs"]), REQUIRED)
    assert config.optimiser.betas == (0.8, 0.99)
    assert config.optimiser.decay_per_epoch == 0.99
    assert config.loss_weights.metric == 0.05
    assert config.model.segment_samples == 30600


def test_a_later_configuration_overrides_an_earlier_one() -> None:
    config = read_config(TrainRunConfig, config_paths(["base", "nano", "demo"]), [*REQUIRED, "max_steps=3"])
    assert config.max_steps == 3
    assert config.loss_weights.metric == 0
    assert config.optimiser.betas == (0.8, 0.99)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data", ["vb_demandex", "dns2020", "starter", "online", "varied"])
def test_every_size_combines_with_every_corpus_and_smoke(size: str, data: str) -> None:
    config = read_config(TrainRunConfig, config_paths(["base", size, data, "smoke"]), ["name=x"])
    assert config.model == SIZES[size]
    assert config.max_steps == 12
    assert config.loss_weights.metric == 0.05
    assert (config.data.mix is None) == (data == "vb_demandex")
    if config.data.mix is not None:
        for path in (config.data.mix.card, config.data.mix.recipe):
            assert isinstance(path, str)
            assert (CHECKOUT / path).is_file()


@pytest.mark.parametrize("size", OWN_RECIPES)
def test_a_baselines_own_recipe_changes_training_only(size: str) -> None:
    config = read_config(TrainRunConfig, config_paths(["base", size, f"{size}_published"]), REQUIRED)
    across = {"conformer_attention": "batch"} if size == "mpsenet" else {}
    assert config.model == dataclasses.replace(SIZES[size], **across)
    assert config.max_steps == 200 * 11_572 // config.global_batch_size
    assert config.loss_weights.consistency == (0 if size == "mpsenet" else 0.1)


def test_cpu_is_xs_with_residual_phase_and_shorter_segments() -> None:
    config = read_config(TrainRunConfig, config_paths(["base", "xs", "cpu"]), ["name=x"])
    assert config.model == dataclasses.replace(SIZES["xs"], phase="residual", segment_frames=128)
    assert config.max_steps == 560


def test_long_changes_training_only() -> None:
    config = read_config(TrainRunConfig, config_paths(["base", "nano", "long"]), REQUIRED)
    assert config.model == SIZES["nano"]
    assert (config.loss_weights.metric, config.average_decay) == (0, 0.998)
    assert config.checkpoint_every_steps < config.max_steps


def test_every_configuration_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        *SIZES, *(f"{size}_published" for size in OWN_RECIPES),
        "base", "cpu", "demo", "long", "online", "varied", "smoke", "vb_demandex", "dns2020", "starter"
    }  # fmt: skip


def test_an_unknown_configuration_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"giant: no such configuration; give a path or one of base, .*nano"):
        config_paths(["base", "giant"])
