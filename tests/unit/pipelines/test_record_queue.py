"""Record queue: records are sent in order once the receiver answers, if need be by another process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from pipelines.core import record_queue
from pipelines.core.record_queue import SPOOLED, Record, RecordQueue, abandoned_keys
from rwsa.errors import InputError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_queue, "_SECONDS_BETWEEN_SENDS", 0.02)


class Receiver:
    """Accepts two records per call, unless it is offline."""

    def __init__(self, *, offline: bool = False) -> None:
        self.offline, self.taken, self.files = offline, list[int](), list[str]()

    def __call__(self, records: list[Record]) -> int:
        if self.offline:
            raise OSError("offline")
        for record in records[:2]:
            self.taken.append(record["n"])
            if SPOOLED in record:
                self.files += [path.read_text() for path in Path(record[SPOOLED]).iterdir()]
        return min(2, len(records))


def open_queue(folder: Path, receiver: Receiver, key: str = "run") -> RecordQueue:
    return RecordQueue(folder, key, receiver, retry_on=(OSError,))


def test_records_are_sent_in_order_and_then_deleted(tmp_path: Path) -> None:
    receiver = Receiver()
    one = open_queue(tmp_path, receiver)
    for n in range(25):
        one.add({"n": n})
    assert one.close()
    assert receiver.taken == list(range(25))
    assert list(tmp_path.iterdir()) == []


def test_no_record_is_lost_while_the_receiver_is_offline(tmp_path: Path) -> None:
    receiver = Receiver(offline=True)
    one = open_queue(tmp_path, receiver)
    for n in range(10):
        one.add({"n": n})
    wait_until(lambda: one.last_error is not None)
    receiver.offline = False
    wait_until(lambda: len(receiver.taken) == 10 and one.path.read_text() == "")
    one.add({"n": 10})
    assert one.close()
    assert receiver.taken == list(range(11))


def test_unsent_records_are_sent_by_the_next_queue(tmp_path: Path) -> None:
    offline = Receiver(offline=True)
    one = open_queue(tmp_path, offline)
    one.add({"n": 0})
    with one.spooled({"n": 1}) as folder:
        (folder / "a.txt").write_text("kept")
    assert not one.close()
    assert str(one.last_error) == "offline"
    assert abandoned_keys(tmp_path) == ["run"]
    other, receiver = open_queue(tmp_path, Receiver(), "other"), Receiver()
    assert open_queue(tmp_path, receiver).close()
    assert (receiver.taken, receiver.files) == ([0, 1], ["kept"])
    assert other.close()
    assert list(tmp_path.iterdir()) == []


def killed(folder: Path) -> None:
    """A process that is killed while it writes a line."""
    one = open_queue(folder, Receiver(offline=True))
    one.add({"n": 0}, {"n": 1})
    one._file.write('{"n": 2')
    one._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_loses_no_complete_record(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=killed, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    receiver = Receiver()
    assert open_queue(tmp_path, receiver).close()
    assert receiver.taken == [0, 1]


def test_the_queue_of_a_running_process_is_not_taken_over(tmp_path: Path) -> None:
    mine = open_queue(tmp_path, Receiver(offline=True))
    mine.add({"n": 0})
    assert abandoned_keys(tmp_path) == []
    receiver = Receiver()
    assert open_queue(tmp_path, receiver).close()
    assert receiver.taken == []
    assert json.loads(mine.path.read_text()) == {"n": 0}
    assert not mine.close()


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    one = open_queue(tmp_path, Receiver())
    one._file.close()
    one._file = open("/dev/full", "w")  # noqa: SIM115, PTH123
    with pytest.raises(InputError, match=r"run\..*jsonl: cannot be written \(No space left on device\)"):
        one.add({"n": 0})


def wait_until(condition, seconds: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
