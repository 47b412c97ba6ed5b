"""Locks of folders and stores, by real processes: refusal, release, takeover, and a late holder's stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from rwsa import lease
from rwsa.conditional_file import conditional_file
from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_folder, atomic_write, location
from rwsa.lease import check_held, exclusive_lock, lease_ticket, locked, under_lease
from rwsa.lease_holder import Holder
from tests.object_store import Store, environment, served

folder_only = pytest.mark.parametrize("target", ["folder"], indirect=True)

HOLD = """
import sys
from rwsa import lease, lease_holder
from rwsa.errors import InputError
if machine := sys.argv[2]:
    lease_holder._machine = lambda: machine
    lease.RENEW_SECONDS = 0.2
    lease_holder.LEASE_SECONDS = 1.0
try:
    with lease.exclusive_lock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except InputError as error:
    print(error, flush=True)
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[Store]:
    with served() as store:
        yield store


@pytest.fixture(params=["folder", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoragePath:
    """What is locked, in a folder or on S3."""
    monkeypatch.setattr(lease, "_POLL_SECONDS", {False: 0.05, True: 0.05})
    if request.param == "folder":
        return tmp_path / "results"
    for name, value in environment(request.getfixturevalue("s3").url).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    bucket = location(f"s3://rwsa-{uuid.uuid4().hex[:8]}")
    bucket.mkdir()
    return bucket / "results"


@contextmanager
def holder(target: StoragePath, *, machine: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of `target` until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(target), machine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


def take(target: StoragePath) -> float:
    """Take and release the lock; returns the seconds that it took."""
    started = time.monotonic()
    with exclusive_lock(target):
        return time.monotonic() - started


def test_one_process_at_a_time_holds_a_lock(target: StoragePath) -> None:
    with holder(target) as child:
        with pytest.raises(InputError) as refused, exclusive_lock(target):
            pass
        message = str(refused.value)
        assert message.startswith(f"{target}: in use by ")
        assert f"(process {child.pid}, -c) since 20" in message
        assert "wait for its end, stop it, or choose another name" in message
        child.kill()
        assert take(target) < 3  # not yet waited for by its parent: a zombie
    assert not (target / ".lease").exists()


@folder_only
def test_a_lock_is_waited_for(target: StoragePath) -> None:
    with holder(target) as child:
        assert child.stdin is not None
        threading.Timer(0.3, child.stdin.close).start()
        with exclusive_lock(target, wait_seconds=60):
            assert child.wait(10) == 0


@folder_only
def test_a_killed_process_of_this_machine_is_followed_at_once(target: StoragePath) -> None:
    with holder(target) as child:
        child.kill()
    assert take(target) < 0.5


@folder_only
def test_sigterm_releases_the_lock(target: StoragePath) -> None:
    with holder(target) as child:
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 128 + signal.SIGTERM
        assert not (target / ".lease").exists()


@folder_only
def test_a_process_of_another_machine_is_watched(
    target: StoragePath, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder(target, machine="elsewhere") as child:
        with pytest.raises(InputError, match="in use by"):
            take(target)
        child.kill()
        assert 0.9 < take(target) < 10
    first, second = capsys.readouterr().err.splitlines()
    for line in (first, second):
        assert line.endswith("; waiting up to 1 s to see whether that still runs")


def test_one_of_many_takes_an_expired_lease_over(target: StoragePath) -> None:
    ended = vars(Holder.this_process()) | {"process_start": "1"}
    (target if isinstance(target, Path) else target.parent).mkdir(exist_ok=True)
    (target / ".lease").write_bytes(Holder(**ended).content())
    start, tried = threading.Barrier(6), threading.Barrier(6)

    def contend(_: int) -> bool:
        start.wait(30)
        try:
            with exclusive_lock(target):
                tried.wait(30)
        except InputError:
            tried.wait(30)
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(contend, range(6))) == 1


def take_over(target: StoragePath, monkeypatch: pytest.MonkeyPatch) -> Holder:
    """Overwrite a lease as another process, and let this one's last renewal be long ago."""
    other = Holder(**(vars(Holder.this_process()) | {"host": "another", "pid": 7}))
    (target / ".lease").write_bytes(other.content())
    now = lease._clock()
    monkeypatch.setattr(lease, "_clock", lambda: now + 1000)
    return other


def test_a_holder_that_was_suspended_stops_before_its_next_write(
    target: StoragePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exclusive_lock(target):
        with atomic_folder(target / "folder", last="a") as temporary:
            (temporary / "a").write_text("before")
        other = take_over(target, monkeypatch)
        stopped = pytest.raises(InputError, match=r"results: taken over by .* on another .*start again")
        with stopped, atomic_write(target / "file") as temporary:
            temporary.touch()
        with stopped, atomic_folder(target / "folder", last="a") as temporary:
            (temporary / "a").write_text("after")
        with stopped:
            check_held(target)
        with atomic_write(tmp_path / "elsewhere") as temporary:
            temporary.touch()
        assert (target / "folder" / "a").read_text() == "before"
        assert sorted(path.name for path in target.iterdir()) == [".lease", "folder"]
    assert Holder.parse((target / ".lease").read_bytes()) == other


def test_the_workers_of_a_holder_stop_with_it(target: StoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
    with exclusive_lock(target):
        ticket = json.loads(json.dumps(lease_ticket(target / "checkpoints")))
    with under_lease(ticket):
        with atomic_write(target / "one") as temporary:
            temporary.touch()
        take_over(target, monkeypatch)
        with pytest.raises(InputError, match="taken over"), atomic_write(target / "two") as temporary:
            temporary.touch()
    assert lease_ticket(target) is None


def test_a_renewal_keeps_the_lease_and_replaces_a_deleted_one(
    target: StoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exclusive_lock(target):
        (held,) = lease._held
        before = (target / ".lease").read_bytes()
        held.renew()
        after = (target / ".lease").read_bytes()
        assert before != after
        assert Holder.parse(before) == Holder.parse(after) == held.holder
        (target / ".lease").unlink()
        held.renew()
        assert Holder.parse((target / ".lease").read_bytes()) == held.holder


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"pid": 1}', b"\xff\xfe", b"[" * 100_000, b"null", b"1" * 5000]
)
def test_a_damaged_lease_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "_POLL_SECONDS", {False: 0.05})
    (tmp_path / ".lease").write_bytes(content)
    assert 0.1 < take(tmp_path) < 2


def test_a_lease_cannot_claim_to_last_for_ever() -> None:
    values = vars(Holder.this_process())
    for seconds, kept in ((1e9, 600.0), (float("inf"), None), (10**400, None), ("long", None), (5, 5.0)):
        holder = Holder.parse(json.dumps(values | {"lease_seconds": seconds}).encode())
        assert (None if holder is None else holder.lease_seconds) == kept


def test_a_process_whose_pid_was_given_to_another_has_ended() -> None:
    values = vars(Holder.this_process())
    states = {
        "running": {},
        "ended": {"process_start": "1"},
        "unknown": {"machine": "another boot"},
    }
    for state, changed in states.items():
        assert Holder(**(values | changed)).state == state
    assert Holder(**(values | {"pid": 2**70})).state == "ended"
    assert Holder(**(values | {"pid": 2**22 + 7})).state == "ended"


def test_a_file_is_written_only_in_the_version_that_was_read(target: StoragePath) -> None:
    if isinstance(target, Path):
        target.mkdir()
    file = conditional_file(target / "f")
    assert file.read() is None
    assert file.write(b"one", version=None)
    assert not file.write(b"two", version=None)
    first = file.read()
    assert first is not None
    assert file.write(b"two", version=first[1])
    assert not file.write(b"three", version=first[1])
    assert file.read() != first
    assert (target / "f").read_bytes() == b"two"
    file.delete()
    file.delete()
    assert not file.write(b"four", version=first[1])
    assert file.read() is None


def test_an_empty_file_in_a_store_is_replaced() -> None:
    path = location(f"memory://{uuid.uuid4().hex}/f")
    path.fs.pipe_file(path.path, b"")
    file = conditional_file(path)
    assert file.read() == (b"", b"")
    assert not file.write(b"one", version=None)
    assert file.write(b"one", version=b"")


def test_a_function_is_locked_by_its_argument(tmp_path: Path) -> None:
    @locked("out", inside=False)
    def write(out: Path | None, *, text: str = "") -> list[str]:
        return [] if out is None else [path.name for path in out.parent.iterdir()]

    long = tmp_path / ("ä" * 120)
    assert write(tmp_path / "page.html") == [".page.html.lease"]
    assert len(write(out=long)) == 1
    assert write(None) == []
    with exclusive_lock(tmp_path / "page.html", inside=False), pytest.raises(InputError, match="in use by"):
        write(tmp_path / "page.html", text="x")


def test_locking_leaves_nothing_behind(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with exclusive_lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "kept"]


def test_what_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"/file: is a file; choose a folder"):
        take(tmp_path / "file")
    with pytest.raises(InputError, match=r"/file/x: cannot be written \(Not a directory\)"):
        take(tmp_path / "file" / "x")
    with pytest.raises(InputError, match=r"/y{300}: cannot be written \(File name too long\)"):
        take(tmp_path / ("y" * 300))
    with pytest.raises(InputError, match=r"/proc/x: cannot be written"):
        take(Path("/proc/x"))


def test_a_missing_bucket_is_named(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(s3.url).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(InputError, match=r"s3://none/x: cannot be written .*; create the bucket first"):
        take(location("s3://none/x"))


def test_any_store_of_fsspec_can_be_locked() -> None:
    target = location(f"memory://{uuid.uuid4().hex}/x")
    with exclusive_lock(target), pytest.raises(InputError, match="in use by"):
        take(target)
    take(target)
