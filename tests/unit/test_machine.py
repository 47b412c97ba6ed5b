"""Settings and machines that break libraries are repaired, or end in one line."""

from __future__ import annotations

import errno
import getpass
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rwsa import machine
from rwsa.command_line import BAD_INPUT, verb
from rwsa.machine import private_folder, remedy, repair_environment


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy of the environment, with a home and a temporary folder of the test's own."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in (*machine._CACHES, "RAY_TMPDIR"):
        os.environ.pop(name, None)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    os.environ |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}


def test_a_notebooks_backend_is_replaced() -> None:
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    repair_environment()
    assert os.environ["MPLBACKEND"] == "agg"


def test_nothing_else_changes_on_a_sound_machine(capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = "4,2"
    before = {**os.environ, "MPLBACKEND": "agg"}
    repair_environment()
    assert {name: value for name, value in os.environ.items() if name not in ("USER", "LOGNAME")} == {
        name: value for name, value in before.items() if name not in ("USER", "LOGNAME")
    }
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["garbage", "", "0", "-1", "2.5"])
def test_a_number_of_threads_that_is_none_is_ignored(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["NUMBA_NUM_THREADS"] = value
    repair_environment()
    assert "NUMBA_NUM_THREADS" not in os.environ
    assert f"NUMBA_NUM_THREADS is '{value}', not a number of threads" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["/no/such/folder", "relative", ""])
def test_an_unusable_temporary_folder_is_ignored(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["TMPDIR"] = value
    repair_environment()
    assert "TMPDIR" not in os.environ
    assert f"TMPDIR {value!r} is not a writable folder; ignored\n" == capsys.readouterr().err


@pytest.mark.parametrize("home", ["/no/such/home", "/", None])
def test_without_a_home_caches_are_kept_in_a_private_folder(
    home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del os.environ["HOME"]
    if home is not None:
        os.environ["HOME"] = home
    monkeypatch.setattr(Path, "home", lambda: Path("/no/such/home"))
    repair_environment()
    private = private_folder()
    assert Path(os.environ["HOME"]) == (Path("/") if home == "/" else private)
    assert Path(os.environ["NUMBA_CACHE_DIR"]) == private / "cache" / "numba"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_a_read_only_home_stays_since_it_may_hold_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(machine, "is_writable", lambda folder: folder != home)
    repair_environment()
    assert os.environ["HOME"] == str(home)
    assert os.environ["MPLCONFIGDIR"] == str(private_folder() / "cache" / "matplotlib")


def test_a_user_without_an_account_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        os.environ.pop(name, None)

    def fail(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", fail)
    repair_environment()
    assert getpass.getuser() == f"uid{os.getuid()}"


def test_a_private_folder_that_another_user_could_have_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tmp" / f"rwsa-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert private_folder().parent != tmp_path / "tmp"


def test_a_short_private_folder_is_short() -> None:
    assert len(os.fsencode(private_folder(longest=30))) <= 30


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "full", "/data/x"), "/data/x: no space left on the device; free some, or"),
        (OSError(errno.EMFILE, "too many"), "too many open files; raise the limit with 'ulimit -n 65536'"),
        (MemoryError(), "out of memory; use fewer workers"),
        (PermissionError(errno.EACCES, "denied", "/data/x"), "/data/x: permission denied; check the perm"),
        (OSError(errno.ENAMETOOLONG, "long", "x" * 300), f"{'x' * 300}: the name is too long for the file"),
    ],
)
def test_a_limit_of_the_machine_ends_in_one_line(
    error: BaseException, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @verb("tool", "About.")
    def main(options: object) -> int:
        raise error

    assert main([]) == BAD_INPUT
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {text}")
    assert printed.count("\n") == 1
    assert remedy(ValueError("a bug")) is None


def test_commands_import_without_home_account_or_temporary_folder_of_their_own() -> None:
    """As in a container of an arbitrary user id; `setpriv` needs root."""
    as_nobody = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", sys.executable, "-c"]
    if os.getuid() != 0 or subprocess.run([*as_nobody, ""], capture_output=True).returncode:
        pytest.skip("needs root, and a Python that every user can run")
    program = "import pipelines, getpass, matplotlib, os; print(getpass.getuser(), os.environ['HOME'])"
    done = subprocess.run(
        [*as_nobody, program],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    name, home = done.stdout.split()
    assert name == "uid12345"
    assert home.endswith("/rwsa-12345")
