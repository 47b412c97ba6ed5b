"""Sweep YAML is read strictly: errors name unknown keys and invalid combinations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rwsa.config import merge
from rwsa.errors import InputError
from tune.sweep import _config, main
from tune.sweep_config import SweepConfig, read_sweep

ABLATIONS = sorted((Path(__file__).parents[3] / "tune" / "ablations").glob("*.yaml"))
PLAIN = {
    "name": "plain",
    "question": "Does it work?",
    "base": ["base", "nano"],
    "axes": {"model.sharing": ["resolution", "off"]},
    "corpora": ["card.yaml"],
    "smoke": {"examples": 2},
}


def write(folder: Path, changes: dict[str, Any]) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(merge(PLAIN, changes)))
    return path


def test_a_plain_list_is_short_for_values_with_the_first_as_baseline(tmp_path: Path) -> None:
    axis = read_sweep(write(tmp_path, {})).axes["model.sharing"]
    assert (axis.choices, axis.baseline_value) == (("resolution", "off"), "resolution")


def test_the_smoke_scale_overrides_the_sweep_and_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, {})
    paper, smoke = read_sweep(path), read_sweep(path, smoke=True)
    assert (paper.name, paper.examples, paper.seeds) == ("plain", None, (0,))
    assert (smoke.name, smoke.examples, smoke.seeds, smoke.workers) == ("plain-smoke", 2, (0, 1), 0)
    assert smoke.axes == paper.axes
    without = tmp_path / "without.yaml"
    without.write_text(yaml.safe_dump({key: value for key, value in PLAIN.items() if key != "smoke"}))
    with pytest.raises(InputError, match="has no smoke scale"):
        read_sweep(without, smoke=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "unknown key 'seed'; did you mean 'seeds'"),
        ({"gpu": True}, "gpu requires concurrent_trials"),
        ({"gpu": True, "concurrent_trials": 2, "workers": 0}, "gpu requires workers"),
        ({"axes": {"model.sharing": {"valuse": [1]}}}, "unknown key 'axes.model.sharing.valuse'"),
        ({"axes": {"model.sharing": {"values": [1], "uniform": [0, 1]}}}, "exactly one of values, named"),
        ({"axes": {"model.sharing": []}}, "needs at least one value"),
        ({"axes": {"model.sharing": {"values": [1, 2], "baseline": 3}}}, "baseline 3 is not among"),
        (
            {"axes": {"a": {"log_uniform": [0, 1]}}, "search": {"kind": "random", "trials": 1}},
            "bounds above 0",
        ),
        ({"axes": {"a": {"uniform": [2, 1]}}}, "the lower bound must come first"),
        ({"axes": {"a": {"uniform": [1, 2]}}}, "axis 'a' is a distribution; set search.kind"),
        ({"search": {"kind": "random"}}, "search.trials is required"),
        ({"search": {"trials": 3}}, "search.trials is required"),
        ({"scheduler": {"kind": "asha"}}, "scheduler.grace_steps is required for the kind asha"),
        ({"scheduler": {"interval_steps": 3}}, "scheduler.interval_steps is required for the kind pbt"),
        ({"scheduler": {"kind": "pbt", "interval_steps": 3}}, "axis 'model.sharing' does not"),
        ({"search": {"kind": "optuna", "trials": 3}, "seeds": [0, 1]}, "optuna accepts one seed"),
        ({"seeds": [1, 1]}, "one is listed twice"),
        ({"name": "no/name"}, "'name' is 'no/name'"),
    ],
)
def test_invalid_sweeps_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_sweep(write(tmp_path, changes))
    assert message in str(raised.value)


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_is_read_at_both_scales(path: Path) -> None:
    assert read_sweep(path).question
    if path.stem != "demo":
        assert read_sweep(path, smoke=True).base == ("base", "nano", "demo")


@pytest.mark.parametrize("value", ["'{'", "[1]", "3"])
def test_a_smoke_scale_that_is_no_mapping_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(f"name: plain\nsmoke: {value}\n")
    with pytest.raises(InputError, match=r"plain\.yaml: smoke must be a mapping"):
        read_sweep(path, smoke=True)


def test_options_replace_what_the_file_says(tmp_path: Path) -> None:
    def config(*words: str) -> SweepConfig:
        return _config(main.parser().parse_args([str(write(tmp_path, {})), *words]))

    assert config() == read_sweep(write(tmp_path, {}))
    found = config("--base", "base", "xs", "--core-minutes", "2.5", "--name", "other", "--corpora", "a.yaml")
    assert (found.base, found.core_minutes) == (("base", "xs"), 2.5)
    assert (found.name, found.corpora) == ("other", ("a.yaml",))
    with pytest.raises(InputError, match="'core_minutes' is 0"):
        config("--core-minutes", "0")
    with pytest.raises(InputError, match="'name' is"):
        config("--name", "a/b")
