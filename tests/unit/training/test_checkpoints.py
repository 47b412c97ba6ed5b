"""Checkpoints: atomic saving and retention, in a folder, an object store and on a full disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwsa.errors import InputError
from rwsa.files import location, write_json
from rwsa.training.checkpoints import STATE_FILE, Checkpoints, local_folder
from rwsa.training.context import LocalContext
from rwsa.training.loop import fit
from tests.training_runs import assert_same_bits, config_of, trained, write_shards


@pytest.fixture(params=["folder", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" if request.param == "folder" else location(f"memory://{tmp_path.name}/c")


def save(checkpoints: Checkpoints, step: int, *, best_step: int | None) -> None:
    def write(path: Path) -> None:
        (path / "weights.safetensors").write_bytes(bytes([step]) * 10)
        write_json(path / STATE_FILE, {"best_step": best_step})

    checkpoints.save(step, write, best_step=best_step)


def test_the_newest_and_the_best_are_kept(folder: Path) -> None:
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    for step in (1, 2, 3, 4, 5):
        save(checkpoints, step, best_step=min(step, 2))
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best() == folder / "step-000002"
    assert checkpoints.latest() == folder / "step-000005"
    with local_folder(folder / "step-000005") as copy:
        assert (copy / "weights.safetensors").read_bytes() == b"\5" * 10
    reopened = Checkpoints(folder)
    assert (reopened.latest(), reopened.best()) == (checkpoints.latest(), checkpoints.best())


def test_the_newest_is_the_best_without_a_validation(folder: Path) -> None:
    checkpoints = Checkpoints(folder, keep=1)
    for step in (1, 2):
        save(checkpoints, step, best_step=None)
    assert checkpoints.best() == folder / "step-000002"


def test_saving_a_step_again_replaces_its_checkpoint(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    save(checkpoints, 3, best_step=None)
    save(checkpoints, 3, best_step=3)
    assert checkpoints.steps() == [3]
    assert checkpoints.best() == folder / "step-000003"


def test_incomplete_checkpoints_are_ignored(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    save(checkpoints, 1, best_step=1)
    (folder / "step-000002").mkdir(parents=True, exist_ok=True)
    (folder / "step-000002" / "weights.safetensors").write_bytes(b"half")
    (folder / ".step-000003").mkdir(parents=True, exist_ok=True)
    assert checkpoints.latest() == folder / "step-000001"
    save(checkpoints, 2, best_step=1)
    assert checkpoints.latest() == folder / "step-000002"


def test_a_failed_write_leaves_no_files(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    save(checkpoints, 1, best_step=1)

    def fail(path: Path) -> None:
        (path / "weights.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, fail, best_step=1)
    assert checkpoints.steps() == [1]
    assert [path.name for path in folder.iterdir()] == ["step-000001"]


def test_a_deleted_best_checkpoint_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 2, best_step=1)
    with pytest.raises(
        InputError, match=r"step-000001: the best checkpoint according to step-000002 is missing"
    ):
        checkpoints.best()


@pytest.mark.parametrize("state", [[], {}, {"best_step": "../../x"}, {"best_step": 1.5}])
def test_a_damaged_state_names_no_best_checkpoint(tmp_path: Path, state: object) -> None:
    (tmp_path / "step-000001").mkdir()
    write_json(tmp_path / "step-000001" / STATE_FILE, state)
    with pytest.raises(InputError, match=r"step-000001/state\.json: damaged: .*; start the run again"):
        Checkpoints(tmp_path).best()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with space for about one and a half checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16M", "none", disk], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_training_stops_on_a_full_disk_and_resumes_with_free_space(small_disk: Path, tmp_path: Path) -> None:
    config = config_of(write_shards(tmp_path / "shards"))
    ballast = small_disk / "ballast"
    one = one_checkpoint_bytes(tmp_path / "measured", tmp_path / "shards")
    space = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    ballast.write_bytes(bytes(space - one - one // 2))
    with pytest.raises(InputError, match=r"step-000004: the checkpoint cannot be saved .*No space left"):
        fit(config, LocalContext(small_disk))
    checkpoints = Checkpoints(small_disk / "checkpoints")
    assert checkpoints.steps() == [2]
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-000002"]
    ballast.unlink()
    resumed = fit(config, LocalContext(small_disk))
    assert_same_bits(resumed, trained(config, tmp_path / "uninterrupted"))


def one_checkpoint_bytes(folder: Path, shards: Path) -> int:
    trained(config_of(shards, max_steps=2), folder)
    files = (folder / "checkpoints" / "step-000002").iterdir()
    return sum(-path.stat().st_size // 4096 * -4096 for path in files)
