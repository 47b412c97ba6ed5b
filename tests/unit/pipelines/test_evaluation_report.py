"""The evaluation report: self-contained, well-formed HTML with every corpus and clip; its figures."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from pipelines.evaluate import statistics_of
from pipelines.evaluation.clip_scores import NOISY_PHASE, ClipAudio, ClipScores, SignalScores
from pipelines.evaluation.results import CorpusScores, EvaluationSummary
from pipelines.evaluation.systems import System
from pipelines.reports.evaluation_figures import evaluation_figures
from pipelines.reports.evaluation_gain_figure import gain_figure, gain_limits
from pipelines.reports.evaluation_report import ScoredSample, encode_audio, evaluation_html
from pipelines.reports.evaluation_spectrograms import spectrogram_rows
from pipelines.reports.page import ReportFigure
from rwsa.corpora.cards import Scores
from rwsa.metrics import Failure
from tests.evaluations import audio as some_audio
from tests.evaluations import model, synthetic_scores
from tests.parsed_page import ParsedPage

RATE_HZ = 16000
SVG = "{http://www.w3.org/2000/svg}"


def clip(corpus: str, number: int, *, failed: bool = False) -> ClipScores:
    noisy = {"pesq": 1.5, "ssnr": 1.0, "estoi": 0.6, "si_sdr": float(number)}
    return ClipScores(
        corpus=corpus,
        clip_id=f"{corpus}/<clip {number}>",
        seconds=1.0,
        speaker="anna",
        environment=None,
        signals={
            "noisy": SignalScores(values=noisy, snr_db=float(number)),
            "enhanced": SignalScores(
                values={**noisy, "si_sdr": Failure("NaN") if failed else number + 2.0, NOISY_PHASE: 1.0}
            ),
        },
    )


@pytest.fixture
def audio() -> ClipAudio:
    rng = np.random.default_rng(0)
    clean, noise = rng.normal(scale=0.1, size=(2, RATE_HZ)).astype(np.float32)
    return ClipAudio(signals={"noisy": clean + noise, "enhanced": clean + noise / 2, "clean": clean})


@pytest.fixture
def summary() -> EvaluationSummary:
    corpora = tuple(
        CorpusScores(name=name, clips=tuple(clip(name, n, failed=n == 9) for n in range(10)), of_clips=10)
        for name in ("libri", "commands", "voices", "dns")
    )
    return EvaluationSummary(name="a <b>", systems=(model("enhanced"),), corpora=corpora, seconds=1)


def page(summary: EvaluationSummary, samples: list[ScoredSample]) -> str:
    return evaluation_html(
        summary,
        statistics_of(summary),
        about={"commit": "1234"},
        figures=[],
        gain_figures={corpus.name: ReportFigure(svg=b"svg", alt="gain") for corpus in summary.corpora},
        samples=samples,
    )


def sample(label: str, scores: ClipScores, audio: ClipAudio) -> ScoredSample:
    return ScoredSample(label=label, scores=scores, audio=audio)


def test_page_holds_everything_itself_and_runs_nothing(summary: EvaluationSummary, audio: ClipAudio) -> None:
    samples = [sample("worst", corpus.clips[0], audio) for corpus in summary.corpora]
    text = page(summary, samples)
    parsed = ParsedPage(text)
    assert all(source.startswith("data:") for source in parsed.sources)
    assert parsed.tags.count("audio") == 3 * 4
    assert parsed.tags.count("img") == 4 + 4
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_names_are_escaped(summary: EvaluationSummary, audio: ClipAudio) -> None:
    scores = summary.corpora[0].clips[1]
    text = page(summary, [sample("best", scores, audio)])
    assert "<h1>a &lt;b&gt;</h1>" in text
    assert "libri/&lt;clip 1&gt;" in text


def test_matrix_shows_means_and_counts_with_at_most_three_corpora_abreast(summary: EvaluationSummary) -> None:
    matrices = re.findall(r'<div class="scores">.*?</div>', page(summary, []), flags=re.S)
    # The last one holds the published table, none of whose corpora is among these.
    assert [matrix.count("<table>") for matrix in matrices] == [3, 1, 3]
    names = re.findall(r'scope="row">(.*?)</th>', matrices[1])
    assert names == [
        "noisy", "enhanced<small>0.09 M · 0.34 GFLOPs</small>", "gain", "with the noisy phase",
    ]  # fmt: skip
    # 0…9 noisy; 2…10 enhanced, one of them failed.
    assert "<td>4.50<small>" in matrices[1]
    assert re.search(r"<td>6\.00<small>(\[[^<]*</small><small>)?1 failed</small></td>", matrices[1])
    # Tables abreast stay level.
    assert [matrix.count('class="rule tall"') for matrix in matrices[:2]] == [3, 1]
    assert "<td>+2.00</td>" in matrices[1]
    assert "<td>15.21<small>±0.064</small></td>" in matrices[2]


def test_published_row_is_compared_where_there_is_one() -> None:
    published = Scores(pesq=1.4, ssnr=1.0, estoi=0.6, si_sdr=1.0)
    corpora = tuple(
        CorpusScores(name=name, clips=(clip(name, 1),), of_clips=1, published=row)
        for name, row in (("dns2020", published), ("libri", None))
    )
    text = page(EvaluationSummary(name="x", systems=(model("enhanced"),), corpora=corpora, seconds=1), [])
    assert text.count("noisy − published") == 2
    assert text.count("<td>+0.100</td>") == 1
    assert "<small>in-domain · 1 clips · not the published corpus</small>" in text
    assert "dns2020: not the published corpus: PESQ 1.500 where 1.400 is published (+0.100)" in text
    # The published rows of DNS 2020 stand below ours, those of the other two corpora apart.
    ours, apart = re.findall(r'<div class="scores">.*?</div>', text, flags=re.S)
    assert "RWSA-MambaUNet-XS, published" in ours
    assert "<td>14.72<small>±0.120</small></td>" in ours
    assert "<td>14.72" not in apart
    assert "EARS-WHAM v2" in apart


def several(names: tuple[str, ...], configurations: tuple[str, ...]) -> EvaluationSummary:
    systems: tuple[System, ...] = tuple(
        model(name, configuration=configuration)
        for name, configuration in zip(names, configurations, strict=True)
    )
    corpora = (synthetic_scores("libri", 0, names), synthetic_scores("dns", 1, names))
    return EvaluationSummary(name="x", systems=systems, corpora=corpora, seconds=1)


def test_several_systems_are_ranked_tested_and_grouped() -> None:
    text = page(several(("a", "b"), ("a", "b")), [])
    ParsedPage(text)
    # The second gains 1 dB less everywhere.
    assert text.count('class="best"') == 2 * 4
    tests = re.findall(r'scope="row">(\w+) against (\w+)</th>', text)
    assert tests == [("a", "b"), ("a", "noisy"), ("b", "noisy")] * 2
    assert "p &lt; 0.001 · 40 / 0 / 0" in text
    for kind in ("input SNR", "noise class", "speaker"):
        assert text.count(f"<summary>By {kind}</summary>") == 2
    assert text.count("<summary>The 10 clips with the least SI-SDR gain of a</summary>") == 2


def test_further_metrics_stand_in_matrices_and_tests_of_their_own() -> None:
    further = ("csig", "cbak", "covl", "stoi", "dnsmos_ovrl")
    corpora = tuple(synthetic_scores(name, 0, ("a", "b"), further=further) for name in ("libri", "dns2020"))
    of_all = EvaluationSummary(name="x", systems=(model("a"), model("b")), corpora=corpora, seconds=1)
    text = page(of_all, [])
    ParsedPage(text)
    matrices = re.findall(r'<div class="scores">.*?</div>', text, flags=re.S)
    heads = [re.findall(r"<th>([^<]+)<small>([^<]+)</small>", matrix) for matrix in matrices]
    four = [("PESQ", "MOS"), ("SSNR", "dB"), ("ESTOI", "&nbsp;"), ("SI-SDR", "dB")]
    # Two corpora abreast in each; the published rows of the other two stand apart, in the four alone.
    rated = [("CSIG", "MOS"), ("CBAK", "MOS"), ("COVL", "MOS"), ("STOI", "&nbsp;")]
    assert heads == [four * 2, four * 2, rated * 2, [("DNSMOS OVRL", "MOS")] * 2]
    assert "published" not in "".join(matrices[2:])
    assert text.count('class="best"') == 2 * 9
    assert text.count('<table class="tests">') == 2 * 3
    figures = evaluation_figures(of_all, statistics_of(of_all))
    for name in ("distributions", "in-domain-against-out-of-domain"):
        axes = [one.get("id", "") for one in ElementTree.fromstring(figures[name].svg).iter(f"{SVG}g")]
        # In rows of four; panels without a metric are not drawn.
        assert [f"axes_{number}" in axes for number in (1, 9, 10)] == [True, True, False]


def test_seeds_of_one_configuration_are_one_row_with_a_spread_and_one_system_in_tests() -> None:
    text = page(several(("xs 1", "xs 2"), ("xs", "xs")), [])
    assert re.search(
        r'scope="row">xs<small>2 seeds, 0.09 M · 0.34 GFLOPs</small></th><td>[\d.]+<small>±', text
    )
    assert re.findall(r'scope="row">(\w+) against (\w+)</th>', text) == [("xs", "noisy")] * 2


def test_audio_is_the_signal_attenuated_by_a_common_gain(audio: ClipAudio) -> None:
    wav, rate_hz = soundfile.read(io.BytesIO(encode_audio(audio, "enhanced")), dtype="float32")
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(wav, audio.signals["enhanced"], atol=2**-15)
    loud = ClipAudio(signals={**audio.signals, "enhanced": audio.signals["enhanced"] * 20})
    peak = float(np.abs(loud.signals["enhanced"]).max())
    enhanced, _ = soundfile.read(io.BytesIO(encode_audio(loud, "enhanced")), dtype="float32")
    clean, _ = soundfile.read(io.BytesIO(encode_audio(loud, "clean")), dtype="float32")
    assert float(np.abs(enhanced).max()) == pytest.approx(0.999, abs=1e-4)
    np.testing.assert_allclose(clean, audio.signals["clean"] * 0.999 / peak, atol=2**-15)


def test_embedded_audio_is_flac(summary: EvaluationSummary, audio: ClipAudio) -> None:
    chosen = sample("worst", summary.corpora[0].clips[0], audio)
    sources = [s for s in ParsedPage(page(summary, [chosen])).sources if s.startswith("data:audio/flac")]
    contents = [base64.b64decode(source.partition(",")[2]) for source in sources]
    assert contents == [encode_audio(audio, name) for name in ("noisy", "enhanced", "clean")]


def test_figures_are_drawn_without_any_score(summary: EvaluationSummary) -> None:
    limits = gain_limits(summary)
    assert limits.si_sdr_db[0] < 0
    assert limits.si_sdr_db[1] > 10
    failed = CorpusScores(name="x", clips=(clip("x", 1, failed=True),), of_clips=1)
    alone = EvaluationSummary(name="x", systems=(model("enhanced"),), corpora=(failed,), seconds=1)
    noisy_alone = EvaluationSummary(name="x", systems=(), corpora=(failed,), seconds=1)
    drawn = [gain_figure(summary.corpora[0], summary, limits).svg]
    for one in (alone, noisy_alone):
        drawn.append(gain_figure(failed, one, gain_limits(one)).svg)
        drawn += [figure.svg for figure in evaluation_figures(one, statistics_of(one)).values()]
    for content in drawn:
        root = ElementTree.fromstring(content)
        assert root.get("width") == "864pt"


def test_figures_of_several_corpora_compare_domains(summary: EvaluationSummary) -> None:
    names = list(evaluation_figures(summary, statistics_of(summary)))
    assert names == ["in-domain-against-out-of-domain", "by-snr", "distributions"]


def test_further_systems_have_their_own_row_of_spectrograms() -> None:
    systems = ("a", "b", "c", "d")
    scores = synthetic_scores("libri", 0, systems).clips[0]
    rows = spectrogram_rows(some_audio(0, systems), scores)
    assert [row.names for row in rows] == [("noisy", "a", "clean"), ("b", "c", "d")]


def test_spectrogram_panels_lie_under_the_players(summary: EvaluationSummary) -> None:
    """The page places its players at the same fractions of the width as the figure its panels."""
    (row,) = spectrogram_rows(some_audio(0), synthetic_scores("libri", 0).clips[0])
    root = ElementTree.fromstring(row.svg)
    width = float(root.get("viewBox", "").split()[2])
    panels = [
        [float(number) for number in re.findall(r"[\d.]+", patch.get("d", ""))]
        for axes in root.iter(f"{SVG}g")
        if axes.get("id", "").startswith("axes_")
        for patch in list(axes.iter(f"{SVG}path"))[:1]
    ]
    edges = [(min(panel[::2]), max(panel[::2])) for panel in panels[:3]]
    text = page(summary, [])
    left = re.search(r"margin: 0 ([\d.]+)% 0 ([\d.]+)%", text)
    gap = re.search(r"column-gap: ([\d.]+)%", text)
    assert left is not None
    assert gap is not None
    right_share, left_share = (float(value) / 100 for value in left.groups())
    assert edges[0][0] == pytest.approx(left_share * width, abs=1)
    assert edges[2][1] == pytest.approx((1 - right_share) * width, abs=1)
    # The gap is a fraction of the players' own width.
    assert edges[1][0] - edges[0][1] == pytest.approx(0.02 * width, abs=1)
