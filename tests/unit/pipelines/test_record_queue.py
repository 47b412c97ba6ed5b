"""Journals: what is added is sent in order, once a receiver takes it, even by another process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from pipelines.core import record_queue
from pipelines.core.record_queue import SPOOLED, Journal, Record, waiting_keys
from rwsa.errors import InputError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_queue, "_SECONDS_BETWEEN_SENDS", 0.02)


class Receiver:
    """Takes two records at a time, unless it is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away, self.taken, self.files = away, list[int](), list[str]()

    def __call__(self, records: list[Record]) -> int:
        if self.away:
            raise OSError("away")
        for record in records[:2]:
            self.taken.append(record["n"])
            if SPOOLED in record:
                self.files += [path.read_text() for path in Path(record[SPOOLED]).iterdir()]
        return min(2, len(records))


def opened(folder: Path, receiver: Receiver, key: str = "run") -> Journal:
    return Journal(folder, key, receiver, refusals=(OSError,))


def test_what_is_added_is_sent_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    receiver = Receiver()
    one = opened(tmp_path, receiver)
    for n in range(25):
        one.add({"n": n})
    assert one.close()
    assert receiver.taken == list(range(25))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_lost_while_the_receiver_is_away(tmp_path: Path) -> None:
    receiver = Receiver(away=True)
    one = opened(tmp_path, receiver)
    for n in range(10):
        one.add({"n": n})
    wait_until(lambda: one.trouble is not None)
    receiver.away = False
    wait_until(lambda: len(receiver.taken) == 10)
    assert one.path.read_text() == ""
    one.add({"n": 10})
    assert one.close()
    assert receiver.taken == list(range(11))


def test_what_could_not_be_sent_is_sent_by_the_next(tmp_path: Path) -> None:
    away = Receiver(away=True)
    one = opened(tmp_path, away)
    one.add({"n": 0})
    with one.spooled({"n": 1}) as folder:
        (folder / "a.txt").write_text("kept")
    assert not one.close()
    assert str(one.trouble) == "away"
    assert waiting_keys(tmp_path) == ["run"]
    other, receiver = opened(tmp_path, Receiver(), "other"), Receiver()
    assert opened(tmp_path, receiver).close()
    assert (receiver.taken, receiver.files) == ([0, 1], ["kept"])
    assert other.close()
    assert list(tmp_path.iterdir()) == []


def killed(folder: Path) -> None:
    """A process that dies while it holds a journal, in the middle of a line."""
    one = opened(folder, Receiver(away=True))
    one.add({"n": 0}, {"n": 1})
    one._file.write('{"n": 2')
    one._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=killed, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    receiver = Receiver()
    assert opened(tmp_path, receiver).close()
    assert receiver.taken == [0, 1]


def test_a_living_process_keeps_its_own(tmp_path: Path) -> None:
    mine = opened(tmp_path, Receiver(away=True))
    mine.add({"n": 0})
    assert waiting_keys(tmp_path) == []
    receiver = Receiver()
    assert opened(tmp_path, receiver).close()
    assert receiver.taken == []
    assert json.loads(mine.path.read_text()) == {"n": 0}
    assert not mine.close()


def test_a_disk_that_takes_nothing_is_named(tmp_path: Path) -> None:
    one = opened(tmp_path, Receiver())
    one._file.close()
    one._file = open("/dev/full", "w")  # noqa: SIM115, PTH123
    with pytest.raises(InputError, match=r"run\..*jsonl: cannot be written \(No space left on device\)"):
        one.add({"n": 0})


def wait_until(condition, seconds: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
