"""Results of trials are saved and read, in folders and object stores."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest

from rwsa.errors import InputError
from tests.sweep_rows import row_of, sweep_of
from tune.search_space import base_values, plan_trials
from tune.trial_results import ResultFolder, TrialProgress

POINT = {"model.sharing": "none"}


@pytest.fixture(params=["folder", "store"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ResultFolder:
    where = tmp_path if request.param == "folder" else f"memory://{uuid.uuid4().hex}/sweep"
    return ResultFolder(where)


def test_the_first_rule_is_the_preregistered_one(files: ResultFolder) -> None:
    assert files.preregister_rule("the highest") == "the highest"
    assert files.preregister_rule("the lowest") == "the highest"


def test_results_are_in_the_order_of_the_sweep(files: ResultFolder) -> None:
    sweep = sweep_of(seeds=[0])
    planned = plan_trials(sweep, base_values(sweep, ["data.shards=x"]))
    first, second, third = planned
    done = row_of(third.point, 0, 3.0, trial=third.name)
    files.save_result(done)
    files.save_progress(second.name, TrialProgress().with_report(5, 1.5, 10.0, point=second.point))
    evaluated = done.evaluated
    assert evaluated is not None
    rows = files.results(planned, evaluated)
    assert rows[2] == done
    # Corpora keep their order: the first is the in-domain one.
    assert list(rows[2].means) == ["near", "away", "far"]
    assert [(row.status, row.reason, row.step) for row in rows[:2]] == [
        ("waiting", "not started", 0),
        ("waiting", "interrupted after step 5", 5),
    ]
    assert files.trial_names() == sorted([second.name, third.name])
    (other,) = files.results([third], dataclasses.replace(evaluated, examples=3))
    assert (other.status, other.means) == ("waiting", {})
    assert "evaluated with other corpora" in (other.reason or "")
    files.delete_result(third.name)
    assert files.result(third.name) is None
    assert first.name not in files.trial_names()


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    files = ResultFolder(tmp_path)
    files.save_result(row_of(POINT, 0, 1.0, trial="one"))
    path = tmp_path / "trials" / "one.json"
    path.write_text(path.read_text().replace('"finished"', '"done"'))
    with pytest.raises(InputError, match=r"one\.json: 'status' is 'done'"):
        files.result("one")


def test_repeated_steps_count_once_and_their_time_twice() -> None:
    progress = TrialProgress()
    for step, score in ((10, 1.0), (20, 2.0), (20, 2.5), (30, 3.0)):
        progress = progress.with_report(step, score, 4.0, point=POINT)
    assert progress.reports == ((10, 1.0), (20, 2.5), (30, 3.0))
    assert progress.seconds == 16.0
