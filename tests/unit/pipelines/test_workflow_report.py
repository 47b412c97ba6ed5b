"""The page of a workflow from made-up steps: its graph, timeline, scores and tables."""

from __future__ import annotations

import dataclasses
import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from pipelines.evaluation.published_tables import published_tables, read_published
from pipelines.reports.workflow_graph import graph_svg, laid_out, without_implied
from pipelines.reports.workflow_report import markdown, workflow_html
from pipelines.reports.workflow_scores import readable, workflow_score_blocks
from pipelines.reports.workflow_steps import STATES, PageStep, short_duration
from pipelines.reports.workflow_timeline import busy_spans, period, timeline_svg
from tests import workflow_pages as made_up

DAY = 86400.0
SETS = {"small": made_up.small_steps(), "large": made_up.large_steps()}


@pytest.mark.parametrize("steps", SETS.values(), ids=SETS)
def test_boxes_stand_below_what_they_need_and_do_not_overlap(steps: list[PageStep]) -> None:
    boxes, rows, paths = laid_out(steps)
    assert len(boxes) == len({step.base for step in steps})
    assert sum(len(box.steps) for box in boxes) == len(steps)
    of = {box.base: box for box in boxes}
    base_of = {step.name: step.base for step in steps}
    for step in steps:
        for need in step.needs:
            upper = of[base_of[need]]
            assert upper.y + upper.height < of[step.base].y
    for row in rows:
        for left, right in itertools.pairwise(row):
            assert left.x + left.width < right.x
        assert row[-1].x + row[-1].width <= 1160
    for box in boxes:
        assert all(0 < chip.x < chip.x + chip.width < box.width for chip in box.chips)
        assert all(chip.y < box.height for chip in box.chips)
    assert len(paths) >= len(boxes) - 1


def test_a_long_edge_has_a_lane_in_every_row_that_it_passes() -> None:
    steps = [
        made_up.step("a", "mix"),
        made_up.step("b", "mix"),
        made_up.step("c", "train", ["b"]),
        made_up.step("d", "evaluate", ["c", "a"]),
    ]
    _, rows, paths = laid_out(steps)
    assert [sorted(box.base for box in row) for row in rows] == [["a", "b"], ["", "c"], ["d"]]
    assert len(paths) == 3


def test_edges_that_others_imply_are_left_out() -> None:
    needs = {"a": set[str](), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "b", "c"}}
    assert without_implied(needs) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}}


def test_many_wide_boxes_take_several_rows() -> None:
    _, rows, _ = laid_out([made_up.step(f"step-{number}", "mix") for number in range(60)])
    assert len(rows) > 5


def test_pauses_in_which_nothing_ran_are_cut_out() -> None:
    spans = [(0.0, 100.0), (20.0, 130.0), (134.0, 200.0), (DAY, DAY + 60)]
    assert busy_spans(spans) == [(0.0, 200.0), (DAY, DAY + 60)]
    steps = [made_up.step("a", "mix", seconds=100), made_up.step("b", "mix", at=2 * DAY, seconds=100)]
    svg = timeline_svg(steps, now=made_up.BEGIN)
    assert "1 d 23 h idle" in svg
    bars = [float(one.get("width", 0)) for one in _all(svg, "rect") if one.get("rx")]
    assert bars == pytest.approx([bars[0]] * 2, rel=0.01)
    assert period(steps, made_up.BEGIN) == "21 September 2026, 14:13 to 23 September 2026, 14:15 UTC"
    assert timeline_svg([made_up.step("a", "mix", state="new")], now=made_up.BEGIN) == ""


def test_a_running_step_has_a_bar_until_now() -> None:
    steps = [made_up.step("a", "mix", seconds=50), made_up.step("b", "train", at=50, state="running")]
    svg = timeline_svg(steps, now=made_up.BEGIN + 100)
    widths = [float(one.get("width", 0)) for one in _all(svg, "rect") if one.get("rx")]
    assert widths[0] == pytest.approx(widths[1], rel=0.01)


def test_every_state_is_on_the_page_in_words() -> None:
    steps = SETS["large"]
    text = workflow_html(made_up.page(steps, is_running=True))
    assert {step.state for step in steps} == STATES.keys()
    for state, style in STATES.items():
        assert f"{state}: {style.meaning}" in text
    assert "22 of 61 steps done, 1 failed, 2 running" in text
    assert text.count("val_loss is NaN at step 1200") >= 3  # above, in the graph and in the table
    assert 'http-equiv="refresh"' in text
    assert "<script" not in text
    # Every box leads somewhere, also those of instances that share a row of the table.
    for step in steps:
        assert text.count(f'id="{step.anchor}"') == 1
    ended = workflow_html(made_up.page(SETS["small"]))
    assert "refresh" not in ended
    assert "5 of 5 steps done" in ended


def test_the_copy_in_mlflow_has_no_links_to_files() -> None:
    page = made_up.page(SETS["small"])
    assert 'href="mix/0123456789ab/log.txt"' in workflow_html(page)
    copy = workflow_html(page, links=False)
    assert "log.txt" in copy
    assert 'href="mix/' not in copy
    assert 'href="http://127.0.0.1:5000/' in copy


def test_names_are_text() -> None:
    step = made_up.step("a", "mix", why='<b> & "quoted"', state="failed")
    text = workflow_html(made_up.page([step], source="name: <x>", params={"a": "<y>"}))
    for raw in ("<b>", "<x>", "<y>"):
        assert raw not in text
    ElementTree.fromstring(graph_svg([step], links=False))


def test_the_description_of_the_run_is_a_table() -> None:
    lines = markdown(made_up.page(SETS["small"])).splitlines()
    assert lines[0] == "Every stage of the project on small recordings."
    assert lines[4].startswith("| mix | done | 13 s |")
    assert len(lines) == 9


def test_evaluations_of_one_step_share_a_table() -> None:
    corpora = ("a", "b")
    files = [
        made_up.scores(f"on-{one}", ["net"], [one, *(o for o in corpora if o != one)]) for one in corpora
    ]
    (block,) = workflow_score_blocks(files, published_tables())
    assert [table.name for table in block.tables] == ["a", "b"]
    rows = [
        [(row.name, row.cells[0].text, row.cells[0].notes) for row in table.rows] for table in block.tables
    ]
    assert rows[0] == [
        ("noisy", "1.200", ()),
        ("on-a · net", "1.300", ("in-domain",)),
        ("on-b · net", "1.270", ("",)),
    ]
    assert [name for name, *_ in rows[1]] == [name for name, *_ in rows[0]]
    assert rows[1][2][2] == ("in-domain",)
    assert [row.cells[0].best for row in block.tables[0].rows] == [False, True, False]


def test_systems_of_one_evaluation_may_have_corpora_of_their_own() -> None:
    both = made_up.scores(systems=("net-a 1", "net-a 2", "net-b"), corpora=("a", "b"))
    file = dataclasses.replace(both, trained_on={"net-a": "a", "net-b": "b"})
    (block,) = workflow_score_blocks([file], published_tables())
    marked = [
        [row.name for row in table.rows if row.cells[0].notes == ("in-domain",)] for table in block.tables
    ]
    assert marked == [["net-a 1", "net-a 2"], ["net-b"]]
    assert [table.about for table in block.tables] == ["16 clips", "16 clips"]


def test_published_rows_stand_beside_their_corpora() -> None:
    published = read_published()
    (block,) = workflow_score_blocks([made_up.scores(corpora=list(published.corpora))], [published])
    names = [row.name for row in block.tables[0].rows]
    assert names[:2] == ["noisy", "nano"]
    assert "noisy, published" in names
    assert block.tables[0].about == "in-domain · 16 clips"


@pytest.mark.parametrize("values", [None, [], {}, {"corpora": {}}, {"corpora": {"a": {"clips": 1}}}])
def test_other_files_are_no_scores(values: object) -> None:
    assert not readable(values)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text


def _all(svg: str, tag: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall(f".//{{http://www.w3.org/2000/svg}}{tag}")
