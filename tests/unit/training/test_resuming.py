"""Resuming: past damaged checkpoints, with a line on changed settings, and of a finished run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from rwsa.errors import InputError
from rwsa.training.checkpoints import Checkpoints
from tests.training_runs import assert_same_bits, config_of, trained, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def changed_json(text: str) -> str:
    return json.dumps(json.loads(text) | {"step": "two", "files": {"../../x": "0"}})


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda c: (c / "state.safetensors").write_bytes((c / "state.safetensors").read_bytes()[:-9]),
    "empty": lambda c: (c / "generator.safetensors").write_bytes(b""),
    "missing": lambda c: (c / "generator.safetensors").unlink(),
    "no state": lambda c: (c / "state.json").unlink(),
    "empty state": lambda c: (c / "state.json").write_text(""),
    "hostile state": lambda c: (c / "state.json").write_text(changed_json((c / "state.json").read_text())),
}


def test_damaged_checkpoints_are_passed_over_and_kept(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, whole = config_of(shards), trained(config_of(shards), tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for damage in DAMAGES.values():
        caplog.clear()
        damage(checkpoints.path(4))
        with caplog.at_level(logging.WARNING):
            assert_same_bits(trained(config, tmp_path), whole)
        (line,) = [record.getMessage() for record in caplog.records]
        assert "step-000004" in line
        assert line.endswith("step-000004.damaged; training resumes at step 2")
        assert (tmp_path / "checkpoints" / "step-000004.damaged").is_dir()
        assert checkpoints.steps() == [2, 4]
    for step in (2, 4):
        DAMAGES["empty"](checkpoints.path(step))
    with pytest.raises(InputError, match=r"damaged or missing .*; no checkpoint of this run is intact"):
        trained(config, tmp_path)
    assert checkpoints.steps() == [2, 4]


def test_changed_settings_and_a_finished_run_are_reported(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(config_of(shards, max_steps=2), tmp_path)
    trained(config_of(shards, max_steps=2, optimiser={"learning_rate": 1e-3}), tmp_path)
    changed, finished = (record.getMessage() for record in caplog.records)
    assert "saved at step 2 with other settings: optimiser.learning_rate 0.0005 → 0.001; the new" in changed
    assert "is finished at step 2; to go on, raise max_steps (now 2); to start anew" in finished
    with pytest.raises(InputError, match=r"saved with another 'order' \(seed 0 → 1\)"):
        trained(config_of(shards, max_steps=2, seed=1), tmp_path)
    caplog.clear()
    trained(config_of(shards, max_steps=3), tmp_path)
    assert caplog.records == []


def test_a_checkpoint_in_a_store_is_set_aside(tmp_path: Path) -> None:
    from rwsa.files import location

    checkpoints = Checkpoints(location(f"memory://{tmp_path.name}/c"))
    checkpoints.save(3, lambda folder: [(folder / n).touch() for n in ("state.json", "a")], best_step=None)
    aside = checkpoints.set_aside(3)
    assert checkpoints.steps() == []
    assert sorted(path.name for path in aside.iterdir()) == ["a", "state.json"]
