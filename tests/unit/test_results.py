"""Means with counts, the check of a corpus's noisy row, the choice of clips, and the printed table."""

from __future__ import annotations

import json

import pytest

from pipelines.clip_scores import METRICS, NOISY_PHASE, ClipScores
from pipelines.noisy_row import verdict
from pipelines.results import CorpusScores, EvaluationSummary
from pipelines.score_table import format_table, markdown_table
from rwsa.cards import Scores
from rwsa.manifest import Problem
from rwsa.metrics import Failure


def clip(
    name: str, noisy_db: float | Failure, enhanced_db: float | Failure, *, error: str | None = None
) -> ClipScores:
    noisy = {"pesq": 1.5, "ssnr": -1.0, "estoi": 0.6, "si_sdr": noisy_db}
    enhanced = {"pesq": 2.0, "ssnr": 4.0, "estoi": 0.7, "si_sdr": enhanced_db, NOISY_PHASE: 5.0}
    failed = Failure(error or "")
    return ClipScores(
        corpus="toy",
        clip_id=f"toy/{name}",
        seconds=2.0,
        speaker=None,
        environment=None,
        input_snr_db=1.0,
        noisy=noisy if error is None else dict.fromkeys(noisy, failed),
        enhanced=enhanced if error is None else dict.fromkeys(enhanced, failed),
        error=error,
    )


def test_no_clip_at_all_is_compared_with_nothing() -> None:
    nothing = dict.fromkeys(("pesq", "ssnr", "estoi", "si_sdr"))
    said = verdict(PUBLISHED, nothing, scored=0, of_clips=0)
    assert said == "not compared with the published row: 0 of 0 clips scored"


def corpus(*clips: ClipScores, name: str = "toy", **values: object) -> CorpusScores:
    return CorpusScores(name=name, clips=clips, **{"of_clips": len(clips), **values})  # type: ignore[arg-type]


def summary(*corpora: CorpusScores) -> EvaluationSummary:
    return EvaluationSummary(name="try", weights="w", weights_sha256="0", corpora=corpora, seconds=1.0)


def test_failures_are_counted_and_never_averaged() -> None:
    scores = corpus(
        clip("a", 2.0, 6.0), clip("b", 4.0, Failure("NaN")), clip("c", 0.0, 0.0, error="c.wav: damaged")
    )
    enhanced = scores.summaries("enhanced")["si_sdr"]
    assert (enhanced.mean, enhanced.count, enhanced.failures) == (6.0, 1, 2)
    noisy = scores.summaries("noisy")["si_sdr"]
    assert (noisy.mean, noisy.count, noisy.failures) == (3.0, 2, 1)
    # Over the clips that have both, so not 6 − 3.
    assert scores.gains()["si_sdr"] == 4.0
    assert scores.failures() == ["toy/b: enhanced.si_sdr: NaN", "toy/c: c.wav: damaged"]
    shown = format_table(summary(scores))
    assert "6.00 (2 failed)" in shown
    assert "toy/c: c.wav: damaged" in shown


def test_a_mean_over_nothing_is_none() -> None:
    scores = corpus(clip("a", 0.0, 0.0, error="damaged"))
    assert scores.means("enhanced") == dict.fromkeys((*METRICS, NOISY_PHASE))
    assert scores.gains()["pesq"] is None
    assert scores.chosen(3) == []
    assert "– (1 failed)" in format_table(summary(scores))


def test_json_keeps_the_order_of_the_corpora() -> None:
    given = [corpus(clip("a", 2.0, 6.0), name=name) for name in ("libri", "commands", "voices")]
    values = json.loads(json.dumps(summary(*given).as_json()))
    assert list(values["corpora"]) == ["libri", "commands", "voices"]
    one = values["corpora"]["libri"]
    assert set(one) == {"clips", "noisy", "enhanced"}
    assert set(one["noisy"]) == {"pesq", "ssnr", "estoi", "si_sdr"}
    assert set(one["enhanced"]) == {"pesq", "ssnr", "estoi", "si_sdr", "si_sdr_noisy_phase"}


PUBLISHED = Scores(pesq=1.5, ssnr=-1.0, estoi=0.6, si_sdr=2.0)


def test_a_genuine_corpus_is_verified() -> None:
    assert corpus(clip("a", 2.009, 6.0), published=PUBLISHED).verdict() == "verified"
    assert corpus(clip("a", 2.0, 6.0)).verdict() is None


def test_another_corpus_is_told_by_how_much_it_is_off() -> None:
    scores = corpus(clip("a", 2.011, 6.0), published=PUBLISHED)
    assert scores.verdict() == "not the published corpus: SI-SDR 2.011 where 2.000 is published (+0.011)"
    assert "noisy − published" in format_table(summary(scores))
    assert "+0.01" in markdown_table(summary(scores))


@pytest.mark.parametrize(
    "scores",
    [
        corpus(clip("a", 2.0, 6.0), of_clips=150, published=PUBLISHED),
        corpus(clip("a", 2.0, 6.0), clip("b", 2.0, Failure("NaN")), published=PUBLISHED),
    ],
)
def test_a_part_of_a_corpus_is_not_compared(scores: CorpusScores) -> None:
    verdict = scores.verdict()
    assert verdict is not None
    assert verdict.startswith("not compared with the published row: 1 of ")


def test_clips_are_chosen_from_worst_to_best() -> None:
    scores = corpus(*(clip(str(gain), 0.0, gain) for gain in (3.0, 1.0, 5.0, 2.0, 4.0)))
    assert scores.chosen(3) == [("worst", 1), ("median", 0), ("best", 2)]
    assert scores.chosen(1) == [("median", 0)]
    assert scores.chosen(0) == []
    every = scores.chosen(9)
    assert [label for label, _ in every] == ["worst", "rank-2-of-5", "median", "rank-4-of-5", "best"]
    assert [index for _, index in every] == [1, 3, 0, 4, 2]
    assert corpus(clip("a", 1.0, 2.0)).chosen(3) == [("only", 0)]


def test_table_columns_are_aligned() -> None:
    scores = corpus(clip("a", 2.0, 16.25), problems=(Problem(path="x.wav", reason="is empty"),))
    lines = format_table(summary(scores)).splitlines()
    assert lines[0].split() == "corpus clips signal PESQ (MOS) SSNR (dB) ESTOI SI-SDR (dB)".split()  # noqa: SIM905
    assert lines[1].endswith("2.00")
    assert lines[2].endswith("16.25")
    assert lines[3].endswith("5.00")
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4:] == ["toy: unusable files, left out (1):", "  x.wav: is empty"]
