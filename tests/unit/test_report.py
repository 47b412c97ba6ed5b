"""The report page: whole in itself, every corpus and clip on it, readable as HTML; the pictures in it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
import soundfile

from pipelines.clip_scores import NOISY_PHASE, ClipAudio, ClipScores
from pipelines.pictures import gain_picture, picture_limits, spectrograms
from pipelines.report import ReportClip, encode_audio, render_report
from pipelines.results import CorpusScores, EvaluationSummary
from rwsa.cards import Scores
from rwsa.metrics import Failure

RATE_HZ = 16000
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects what the page refers to, and checks that its elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def clip(corpus: str, number: int, *, failed: bool = False) -> ClipScores:
    noisy = {"pesq": 1.5, "ssnr": 1.0, "estoi": 0.6, "si_sdr": float(number)}
    return ClipScores(
        corpus=corpus,
        clip_id=f"{corpus}/<clip {number}>",
        seconds=1.0,
        speaker="anna",
        environment=None,
        input_snr_db=float(number),
        noisy=noisy,
        enhanced={**noisy, "si_sdr": Failure("NaN") if failed else number + 2.0, NOISY_PHASE: 1.0},
    )


@pytest.fixture
def audio() -> ClipAudio:
    rng = np.random.default_rng(0)
    clean, noise = rng.normal(scale=0.1, size=(2, RATE_HZ)).astype(np.float32)
    return ClipAudio(noisy=clean + noise, enhanced=clean + noise / 2, clean=clean)


@pytest.fixture
def summary() -> EvaluationSummary:
    corpora = tuple(
        CorpusScores(name=name, clips=tuple(clip(name, n, failed=n == 9) for n in range(10)), of_clips=10)
        for name in ("libri", "commands", "voices", "dns")
    )
    return EvaluationSummary(
        name="a <b>", weights="w.safetensors", weights_sha256="abc", corpora=corpora, seconds=1
    )


def page(summary: EvaluationSummary, clips: list[ReportClip]) -> str:
    pictures = {corpus.name: b"picture" for corpus in summary.corpora}
    return render_report(summary, about={"commit": "1234"}, pictures=pictures, clips=clips)


def test_page_holds_everything_itself_and_runs_nothing(summary: EvaluationSummary, audio: ClipAudio) -> None:
    clips = [
        ReportClip(label="worst", scores=corpus.clips[0], audio=audio, spectrograms=b"png")
        for corpus in summary.corpora
    ]
    text = page(summary, clips)
    parsed = Page(text)
    assert all(source.startswith("data:") for source in parsed.sources)
    assert parsed.tags.count("audio") == 3 * 4
    assert parsed.tags.count("img") == 4 + 4
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_names_are_escaped(summary: EvaluationSummary, audio: ClipAudio) -> None:
    scores = summary.corpora[0].clips[1]
    text = page(summary, [ReportClip(label="best", scores=scores, audio=audio, spectrograms=b"")])
    assert "<h1>a &lt;b&gt;</h1>" in text
    assert "libri/&lt;clip 1&gt;" in text


def test_matrix_shows_means_and_counts_with_at_most_three_corpora_abreast(summary: EvaluationSummary) -> None:
    matrices = re.findall(r'<div class="matrix">.*?</div>', page(summary, []), flags=re.S)
    assert [matrix.count("<table>") for matrix in matrices] == [3, 1]
    names = re.findall(r'scope="row">(.*?)</th>', matrices[1])
    assert names == ["noisy", "a &lt;b&gt;", "gain", "with the noisy phase"]
    # 0…9 noisy; 2…10 enhanced, one of them failed.
    assert "<td>4.50</td>" in matrices[1]
    assert "<td>6.00 (1 failed)</td>" in matrices[1]
    assert "<td>+2.00</td>" in matrices[1]


def test_published_row_is_compared_where_there_is_one() -> None:
    published = Scores(pesq=1.4, ssnr=1.0, estoi=0.6, si_sdr=1.0)
    corpora = tuple(
        CorpusScores(name=name, clips=(clip(name, 1),), of_clips=1, published=row)
        for name, row in (("dns", published), ("libri", None))
    )
    text = page(EvaluationSummary(name="x", weights="w", weights_sha256="0", corpora=corpora, seconds=1), [])
    assert text.count("noisy − published") == 2
    assert text.count("<td>+0.100</td>") == 1
    assert "dns: not the published corpus: PESQ 1.500 where 1.400 is published (+0.100)" in text


def test_audio_is_the_signal_and_turned_down_together(audio: ClipAudio) -> None:
    wav, rate_hz = soundfile.read(io.BytesIO(encode_audio(audio, "enhanced")), dtype="float32")
    assert rate_hz == RATE_HZ
    np.testing.assert_allclose(wav, audio.enhanced, atol=2**-15)
    loud = ClipAudio(noisy=audio.noisy, enhanced=audio.enhanced * 20, clean=audio.clean)
    peak = float(np.abs(loud.enhanced).max())
    enhanced, _ = soundfile.read(io.BytesIO(encode_audio(loud, "enhanced")), dtype="float32")
    clean, _ = soundfile.read(io.BytesIO(encode_audio(loud, "clean")), dtype="float32")
    assert float(np.abs(enhanced).max()) == pytest.approx(0.999, abs=1e-4)
    np.testing.assert_allclose(clean, audio.clean * 0.999 / peak, atol=2**-15)


def test_embedded_audio_is_flac(summary: EvaluationSummary, audio: ClipAudio) -> None:
    chosen = ReportClip(label="worst", scores=summary.corpora[0].clips[0], audio=audio, spectrograms=b"")
    sources = [s for s in Page(page(summary, [chosen])).sources if s.startswith("data:audio/flac")]
    contents = [base64.b64decode(source.partition(",")[2]) for source in sources]
    assert contents == [encode_audio(audio, name) for name in ("noisy", "enhanced", "clean")]


def test_pictures_are_drawn_even_of_nothing(summary: EvaluationSummary, audio: ClipAudio) -> None:
    limits = picture_limits(summary.corpora)
    assert limits.si_sdr_db[0] < 0
    assert limits.si_sdr_db[1] > 10
    failed = CorpusScores(name="x", clips=(clip("x", 1, failed=True),), of_clips=1)
    drawn = [
        gain_picture(summary.corpora[0], limits),
        gain_picture(failed, picture_limits([failed])),
        spectrograms(audio, summary.corpora[0].clips[9]),
    ]
    for content in drawn:
        height, width, _ = matplotlib.image.imread(io.BytesIO(content)).shape
        assert width == 1200
        assert 250 < height < 450


def test_spectrogram_panels_lie_under_the_players(audio: ClipAudio, summary: EvaluationSummary) -> None:
    """The page places its players by the same shares of the width as the picture its panels."""
    picture = matplotlib.image.imread(io.BytesIO(spectrograms(audio, summary.corpora[0].clips[0])))
    text = page(summary, [])
    left = re.search(r"margin: 0 ([\d.]+)% 0 ([\d.]+)%", text)
    gap = re.search(r"column-gap: ([\d.]+)%", text)
    assert left is not None
    assert gap is not None
    right_share, left_share = (float(value) / 100 for value in left.groups())
    # A row of the panels without a tick of an axis: there, only what lies between panels is white.
    row = picture[int(0.58 * picture.shape[0]), :, :3]
    inside = np.flatnonzero((row < 0.9).any(axis=1))
    panels = inside[(inside > 0.04 * 1200) & (inside < (1 - right_share) * 1200 + 2)]
    assert panels[0] == pytest.approx(left_share * 1200, abs=3)
    assert panels[-1] == pytest.approx((1 - right_share) * 1200, abs=3)
