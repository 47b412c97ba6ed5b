"""Means with counts, the published-row test, the selection of clips, and the printed table."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from pipelines.evaluate import statistics_of
from pipelines.evaluation.clip_scores import NOISY_PHASE, ClipScores, SignalScores, unscored
from pipelines.evaluation.published_row import verdict
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.evaluation.systems import Outputs, System
from pipelines.reports.score_table import format_table, markdown_table
from rwsa.corpora.cards import Scores
from rwsa.corpora.manifest import Problem
from rwsa.metrics import TABLE1_METRICS, Failure
from tests.evaluations import model, synthetic_scores


def clip(
    name: str,
    noisy_db: float | Failure,
    enhanced_db: float | Failure,
    *,
    error: str | None = None,
    speaker: str | None = None,
    clipped_share: float = 0.0,
) -> ClipScores:
    noisy = {"pesq": 1.5, "ssnr": -1.0, "estoi": 0.6, "si_sdr": noisy_db}
    enhanced = {"pesq": 2.0, "ssnr": 4.0, "estoi": 0.7, "si_sdr": enhanced_db, NOISY_PHASE: 5.0}
    signals = {
        "noisy": SignalScores(values=noisy, snr_db=1.0),
        "enhanced": SignalScores(values=enhanced, clipped_share=clipped_share),
    }
    if error is not None:
        signals = {"noisy": unscored(error), "enhanced": unscored(error, model=True)}
    return ClipScores(
        corpus="toy",
        clip_id=f"toy/{name}",
        seconds=2.0,
        speaker=speaker,
        environment=None,
        signals=signals,
        error=error,
    )


def test_no_clips_are_not_compared() -> None:
    nothing = dict.fromkeys(("pesq", "ssnr", "estoi", "si_sdr"))
    result = verdict(PUBLISHED, nothing, scored=0, of_clips=0)
    assert result == "not compared with the published row: 0 of 0 clips scored"


def corpus(*clips: ClipScores, name: str = "toy", **values: object) -> CorpusScores:
    return CorpusScores(name=name, clips=clips, **{"of_clips": len(clips), **values})  # type: ignore[arg-type]


def summary(*corpora: CorpusScores, systems: tuple[System, ...] = (model("enhanced"),)) -> EvaluationSummary:
    return EvaluationSummary(name="try", systems=systems, corpora=corpora, seconds=1.0)


def shown(*corpora: CorpusScores) -> str:
    one = summary(*corpora)
    return format_table(one, statistics_of(one))


def test_failures_are_counted_and_never_averaged() -> None:
    scores = corpus(
        clip("a", 2.0, 6.0), clip("b", 4.0, Failure("NaN")), clip("c", 0.0, 0.0, error="c.wav: damaged")
    )
    enhanced = scores.summaries("enhanced")["si_sdr"]
    assert (enhanced.mean, enhanced.count, enhanced.failures) == (6.0, 1, 2)
    noisy = scores.summaries("noisy")["si_sdr"]
    assert (noisy.mean, noisy.count, noisy.failures) == (3.0, 2, 1)
    # Over the clips that have both, so not 6 − 3.
    assert scores.gains("enhanced")["si_sdr"] == 4.0
    assert scores.failures() == ["toy/b: enhanced.si_sdr: NaN", "toy/c: c.wav: damaged"]
    text = shown(scores)
    assert "6.00 (2 failed)" in text
    assert "toy/c: c.wav: damaged" in text


def test_a_mean_without_values_is_none() -> None:
    scores = corpus(clip("a", 0.0, 0.0, error="damaged"))
    assert scores.means("enhanced") == dict.fromkeys((*TABLE1_METRICS, NOISY_PHASE))
    assert scores.gains("enhanced")["pesq"] is None
    assert scores.select_clips("enhanced", 3) == []
    assert "– (1 failed)" in shown(scores)


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


def test_the_verdict_on_another_corpus_names_the_differences() -> None:
    scores = corpus(clip("a", 2.011, 6.0), published=PUBLISHED)
    assert scores.verdict() == "not the published corpus: SI-SDR 2.011 where 2.000 is published (+0.011)"
    assert "noisy − published" in shown(scores)
    assert "+0.01" in markdown_table(summary(scores), statistics_of(summary(scores)))


@pytest.mark.parametrize(
    "scores",
    [
        corpus(clip("a", 2.0, 6.0), of_clips=150, published=PUBLISHED),
        corpus(clip("a", 2.0, 6.0), clip("b", Failure("NaN"), 2.0), published=PUBLISHED),
    ],
)
def test_a_subset_of_a_corpus_is_not_compared(scores: CorpusScores) -> None:
    verdict = scores.verdict()
    assert verdict is not None
    assert verdict.startswith("not compared with the published row: 1 of ")


def test_failures_of_a_model_do_not_change_the_verdict() -> None:
    scores = corpus(clip("a", 2.0, 6.0), clip("b", 2.0, Failure("NaN")), published=PUBLISHED)
    assert scores.verdict() == "verified"


def test_clips_are_selected_from_worst_to_best() -> None:
    scores = corpus(*(clip(str(gain), 0.0, gain) for gain in (3.0, 1.0, 5.0, 2.0, 4.0)))
    assert scores.select_clips("enhanced", 3) == [("worst", 1), ("median", 0), ("best", 2)]
    assert scores.select_clips("enhanced", 1) == [("median", 0)]
    assert scores.select_clips("enhanced", 0) == []
    every = scores.select_clips("enhanced", 9)
    assert [label for label, _ in every] == ["worst", "rank-2-of-5", "median", "rank-4-of-5", "best"]
    assert [index for _, index in every] == [1, 3, 0, 4, 2]
    assert corpus(clip("a", 1.0, 2.0)).select_clips("enhanced", 3) == [("only", 0)]


def test_table_columns_are_aligned() -> None:
    scores = corpus(clip("a", 2.0, 16.25), problems=(Problem(path="x.wav", reason="is empty"),))
    lines = shown(scores).splitlines()
    assert lines[0].split() == "corpus clips signal PESQ (MOS) SSNR (dB) ESTOI SI-SDR (dB)".split()  # noqa: SIM905
    assert lines[1].endswith("2.00")
    assert lines[2].endswith("16.25")
    assert lines[3].endswith("5.00")
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4:] == [
        "toy: no intervals, 1 clips (speakers unknown) are too few",
        "toy: unusable files, left out (1):",
        "  x.wav: is empty",
    ]


def test_further_metrics_are_in_a_second_table() -> None:
    further = synthetic_scores("toy", 0, further=("csig", "stoi"))
    clips = [dataclasses.replace(further.clips[0].signals["noisy"], floored=True)]
    first = dataclasses.replace(further.clips[0], signals={**further.clips[0].signals, "noisy": clips[0]})
    scores = dataclasses.replace(further, clips=(first, *further.clips[1:]), published=PUBLISHED)
    four, below = shown(scores).split("\n\n")
    assert four.splitlines()[0].split("  ")[-1] == "SI-SDR (dB)"
    assert "noisy − published" in four
    lines = below.splitlines()
    assert lines[0].split() == ["corpus", "clips", "signal", "CSIG", "(MOS)", "STOI"]
    assert [line.split()[0] for line in lines[1:3]] == ["toy", "enhanced"]
    # Only Table 1's metrics count in the published-row test.
    assert lines[3].startswith("toy: not the published corpus: PESQ")
    assert "toy: CSIG and COVL are 1 due to digital silence (1):\n  toy/clip-00: noisy" in below
    assert markdown_table(summary(scores), statistics_of(summary(scores))).count("| :-- | --: | :-- |") == 2
    assert scores.gains("enhanced").keys() == {*TABLE1_METRICS, "csig", "stoi"}


def test_means_have_intervals_with_enough_speakers() -> None:
    clips = [clip(str(n), float(n), n + 2.0, speaker=f"s{n % 6}") for n in range(12)]
    text = shown(corpus(*clips))
    # With equal gains, the intervals of noisy and enhanced differ by the gain.
    assert re.search(r"noisy .* 5\.50 \[(-?[\d.]+), (-?[\d.]+)\]\n", text)
    assert "toy: 95% intervals by bootstrap over 6 speakers" in text


def test_runs_of_one_configuration_have_a_spread() -> None:
    one = clip("a", 1.0, 2.0)
    two = dataclasses.replace(
        one,
        signals={
            "noisy": one.signals["noisy"],
            "xs 1": one.signals["enhanced"],
            "xs 2": one.signals["noisy"],
        },
    )
    systems = (model("xs 1", configuration="xs"), model("xs 2", configuration="xs"))
    of_both = summary(corpus(two), systems=systems)
    text = format_table(of_both, statistics_of(of_both))
    assert "xs (2 seeds)" in text
    assert "1.50±0.71" in text
    assert [line.split()[:2] for line in text.splitlines()[3:5]] == [["xs", "1"], ["xs", "2"]]


def test_clipped_signals_and_extra_files_are_listed() -> None:
    scores = corpus(clip("a", 1.0, 2.0, clipped_share=0.02), extra={"other": ("out/b.wav",)})
    text = shown(scores)
    assert "toy: clipped at full scale (1):\n  toy/a: enhanced 2.0%" in text
    assert "toy: extra files of other that match no clip (1):\n  out/b.wav" in text


def test_a_table_without_systems_has_only_the_noisy_row() -> None:
    one = clip("a", 1.0, 2.0)
    noisy = dataclasses.replace(one, signals={"noisy": one.signals["noisy"]})
    alone = summary(corpus(noisy), systems=())
    lines = format_table(alone, statistics_of(alone)).splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["corpus", "toy"]
    assert alone.as_json()["corpora"]["toy"] == {"clips": 1, "noisy": {**one.signals["noisy"].values}}


def test_outputs_have_no_noisy_phase_row() -> None:
    one = clip("a", 1.0, 2.0)
    values = {name: one.signals["noisy"].values[name] for name in TABLE1_METRICS}
    other = dataclasses.replace(
        one, signals={"noisy": one.signals["noisy"], "o": SignalScores(values=values)}
    )
    of_other = summary(corpus(other), systems=(Outputs(name="o", folder="out"),))
    assert "noisy phase" not in format_table(of_other, statistics_of(of_other))
