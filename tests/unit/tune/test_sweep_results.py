"""Rows of a sweep come back as they were put, from folders and stores; how many trials a cluster takes."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest

from rwsa.errors import InputError
from tests.sweep_rows import row_of, sweep_of
from tune.dry_run import concurrent_trials
from tune.results import Progress, ResultFolder
from tune.spaces import base_values, trials

POINT = {"model.sharing": "none"}


@pytest.fixture(params=["folder", "store"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ResultFolder:
    where = tmp_path if request.param == "folder" else f"memory://{uuid.uuid4().hex}/sweep"
    return ResultFolder(where)


def test_the_rule_is_the_one_that_was_stated_first(files: ResultFolder) -> None:
    assert files.stated_rule("the highest") == "the highest"
    assert files.stated_rule("the lowest") == "the highest"


def test_rows_come_back_in_the_order_of_the_sweep(files: ResultFolder) -> None:
    sweep = sweep_of(seeds=[0])
    planned = trials(sweep, base_values(sweep, ["data.shards=x"]))
    first, second, third = planned
    done = row_of(third.point, 0, 3.0, trial=third.name)
    files.put(done)
    files.put_progress(second.name, Progress().with_report(5, 1.5, 10.0, point=second.point))
    evaluated = done.evaluated
    assert evaluated is not None
    rows = files.rows(planned, evaluated)
    assert rows[2] == done
    # The first corpus is the in-domain one: their order is kept.
    assert list(rows[2].means) == ["home", "away", "far"]
    assert [(row.status, row.reason, row.step) for row in rows[:2]] == [
        ("waiting", "not begun", 0),
        ("waiting", "interrupted after step 5", 5),
    ]
    assert files.names() == sorted([second.name, third.name])
    (other,) = files.rows([third], dataclasses.replace(evaluated, examples=3))
    assert (other.status, other.means) == ("waiting", {})
    assert "evaluated on something else" in (other.reason or "")
    files.forget(third.name)
    assert files.result(third.name) is None
    assert first.name not in files.names()


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    files = ResultFolder(tmp_path)
    files.put(row_of(POINT, 0, 1.0, trial="one"))
    path = tmp_path / "trials" / "one.json"
    path.write_text(path.read_text().replace('"finished"', '"done"'))
    with pytest.raises(InputError, match=r"one\.json: 'status' is 'done'"):
        files.result("one")


def test_steps_that_are_taken_again_count_once_and_their_time_twice() -> None:
    progress = Progress()
    for step, score in ((10, 1.0), (20, 2.0), (20, 2.5), (30, 3.0)):
        progress = progress.with_report(step, score, 4.0, point=POINT)
    assert progress.reports == ((10, 1.0), (20, 2.5), (30, 3.0))
    assert progress.seconds == 16.0


@pytest.mark.parametrize(
    ("changes", "resources", "expected"),
    [
        ({"workers": 0, "cpus_per_worker": 2}, {"CPU": 2}, 1),
        ({"workers": 2}, {"CPU": 8}, 4),
        ({"workers": 2, "concurrent_trials": 3}, {"CPU": 8}, 3),
        ({"workers": 2}, {"CPU": 64, "GPU": 4}, 2),
        ({"workers": 4}, {"CPU": 2}, 1),
    ],
)
def test_as_many_trials_as_there_is_room_for(
    changes: dict[str, int], resources: dict[str, float], expected: int
) -> None:
    assert concurrent_trials(sweep_of(**changes), resources) == expected
