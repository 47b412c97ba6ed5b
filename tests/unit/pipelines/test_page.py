"""Templates of reports: names stay text on every page, missing values are errors, nothing is external.

Dataset, domain gap and sweep pages with hostile names are tested with the commands that write them.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest

from pipelines.core.storage import StorageConfig
from pipelines.evaluate import statistics_of
from pipelines.evaluation.results import EvaluationSummary
from pipelines.reports import page
from pipelines.reports.evaluation_figures import evaluation_figures
from pipelines.reports.evaluation_gain_figure import gain_figure, gain_limits
from pipelines.reports.evaluation_report import TEMPLATE, ScoredSample, evaluation_html
from pipelines.reports.page import fill_template
from pipelines.reports.reference_report import reference_study_html
from pipelines.reports.trade_off_report import trade_off_html
from pipelines.studies.reference_conditions import CONDITIONS
from pipelines.studies.reference_results import CLEAN, NOISY, STUDIED, ClipStudy, ReferenceStudy
from pipelines.studies.trade_off_scores import TradeOffPanel, TradeOffPoint
from tests.evaluations import audio, model, synthetic_scores
from tests.parsed_page import HOSTILE, check_escaped

TEMPLATES = sorted((Path(page.__file__).parent / "templates").iterdir())


def test_evaluation_report_escapes_names() -> None:
    systems = (HOSTILE, "other")
    corpora = (synthetic_scores(HOSTILE, 0, systems), synthetic_scores("dns", 1, systems))
    summary = EvaluationSummary(name=HOSTILE, systems=tuple(map(model, systems)), corpora=corpora, seconds=1)
    statistics, limits = statistics_of(summary), gain_limits(summary)
    sample = ScoredSample(label=HOSTILE, scores=corpora[0].clips[0], audio=audio(0, systems))
    html = evaluation_html(
        summary,
        statistics,
        about={HOSTILE: HOSTILE},
        figures=list(evaluation_figures(summary, statistics).values()),
        gain_figures={corpus.name: gain_figure(corpus, summary, limits) for corpus in corpora},
        samples=[sample],
    )
    check_escaped(html)


def test_trade_off_report_escapes_names() -> None:
    points = tuple(TradeOffPoint(name=HOSTILE, in_domain=at, out_of_domain=-at, best=True) for at in (1, 2))
    panel = TradeOffPanel(
        key="k",
        metric="pesq",
        in_domain=HOSTILE,
        out_of_domain=HOSTILE,
        points=points,
        noisy=points[0],
        correlation=None,
    )
    check_escaped(trade_off_html([panel], StorageConfig(root=".", tracking_uri=HOSTILE)))


def test_reference_study_report_escapes_names() -> None:
    rows = {
        (condition, name): dict.fromkeys(STUDIED, 1.0) for condition in CONDITIONS for name in (NOISY, CLEAN)
    }
    clips = (ClipStudy(clip_id=HOSTILE, rows=rows), ClipStudy(clip_id=HOSTILE, rows={}, error=HOSTILE))
    study = ReferenceStudy(corpus=HOSTILE, about={"weights": HOSTILE}, estimates=(NOISY, CLEAN), clips=clips)
    check_escaped(reference_study_html(study))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_never_turn_escaping_off_and_load_nothing(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe|autoescape|<script|https?:|url\(|@import|\son\w+=", text)


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        fill_template("domain_gap_report.html", title="x")


def test_the_hash_of_a_template_covers_all_that_it_includes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in TEMPLATES:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(page, "_TEMPLATES", tmp_path)
    before = page.template_hash(TEMPLATE)
    for included in ("base.html", "macros.html", "score_table.html", "style.css", TEMPLATE):
        (tmp_path / included).write_text((tmp_path / included).read_text() + " ")
        assert before != (before := page.template_hash(TEMPLATE)), included
    (tmp_path / "dataset_report.html").write_text("another report")
    assert page.template_hash(TEMPLATE) == before
