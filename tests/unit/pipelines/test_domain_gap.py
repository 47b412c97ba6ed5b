"""The domain gap of corpora with a known difference, and the page and files of the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from pipelines.domain_gap import PAGE, RESULTS, TABLE, domain_gap, main
from pipelines.reports.domain_gap_report import remarks
from pipelines.studies.gap_results import NAMES, OVERALL, GapResults, GapSettings, measure_gaps
from pipelines.studies.gap_sources import GapSource, LoadedClip, MeasuredCorpus, measure, read_sources
from rwsa.acoustics import GROUPS, FeatureGroup
from rwsa.audio import round_to_int16
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.shards import Example, write_shard
from rwsa.shards.index import merge_index
from tests.parsed_page import HOSTILE, check_escaped

CLIPS = 24
SAMPLES = 2 * SAMPLE_RATE_HZ
Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Speech-like bursts with random colour and pace, and noise at a random SNR."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(SAMPLES) / SAMPLE_RATE_HZ
    pace = np.maximum(np.sin(2 * np.pi * rng.uniform(2, 5) * seconds), 0.003) ** 2
    speech = scipy.signal.lfilter([1.0], [1.0, -rng.uniform(0.6, 0.9)], rng.normal(size=SAMPLES)) * pace
    noise = scipy.signal.lfilter([1.0], [1.0, -rng.uniform(0.0, 0.5)], rng.normal(size=SAMPLES))
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-rng.uniform(-5, 10) / 20)
    gain = 10 ** (rng.uniform(-35, -20) / 20) / np.sqrt(np.mean((speech + noise) ** 2))
    return gain * speech, gain * noise


def corpus(name: str, seed: int, change: Change = lambda speech, noise: (speech, noise)) -> GapSource:
    def loader(number: int) -> Callable[[], LoadedClip]:
        def load() -> LoadedClip:
            speech, noise = change(*pair(seed + number))
            return LoadedClip(
                clip_id=f"{name}/{number}",
                speaker=f"s{number // 2}",
                noise=f"n{number}",
                noisy=speech + noise,
                clean=speech,
            )

        return load

    return GapSource(
        name=name, about="made up", of_clips=CLIPS, loaders=[loader(number) for number in range(CLIPS)]
    )


def quiet(text: str) -> None:
    """Discard a progress line."""


def telephone(speech: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    band = scipy.signal.butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    return scipy.signal.sosfilt(band, speech), noise


def noisier(speech: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    before = np.sqrt(np.mean((speech + noise) ** 2))
    gain = before / np.sqrt(np.mean((speech + 4 * noise) ** 2))
    return gain * speech, gain * 4 * noise


def louder(speech: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 4 * speech, 4 * noise


def crackling(speech: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    clicks = np.random.default_rng(0).random(SAMPLES) < 2e-4
    power = np.mean(noise**2)
    noise = noise * (0.05 + scipy.signal.lfilter([1.0], [1.0, -0.995], clicks.astype(float)))
    return speech, noise * np.sqrt(power / np.mean(noise**2))


def ringing(speech: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tail = np.random.default_rng(0).normal(size=SAMPLE_RATE_HZ)
    tail *= 10 ** (-3 * np.arange(len(tail)) / len(tail))
    wet = scipy.signal.fftconvolve(speech, tail)[:SAMPLES]
    return wet * np.sqrt(np.mean(speech**2) / np.mean(wet**2)), noise


@pytest.fixture(scope="module")
def plain() -> MeasuredCorpus:
    return measure(corpus("plain", 0), quiet)


def compared(plain: MeasuredCorpus, change: Change | None) -> GapResults:
    source = corpus("other", 1000) if change is None else corpus("other", 1000, change)
    return measure_gaps([plain, measure(source, quiet)], GapSettings(reference="plain", resamples=200))


def test_corpora_of_one_population_are_as_distant_as_halves(plain: MeasuredCorpus) -> None:
    results = compared(plain, None)
    for group in NAMES:
        assert results.of(group, 0, 1).low <= 0, group
        assert not results.differs(group, 0, 1), group
    overall, halves = results.of(OVERALL, 0, 1), results.of(OVERALL, 0, 0)
    assert halves.low < overall.value < halves.high


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (telephone, "speech spectrum"),
        (noisier, "SNR"),
        (louder, "level"),
        (crackling, "noise modulation"),
        (ringing, "speech decay"),
    ],
)
def test_a_changed_copy_differs_by_its_cause(plain: MeasuredCorpus, change: Change, cause: str) -> None:
    results = compared(plain, change)
    assert results.differs(OVERALL, 0, 1)
    assert results.differs(cause, 0, 1)
    values = {group.name: results.of(group.name, 0, 1).value for group in GROUPS}
    # Reverberation shows as slower decay and as weaker modulation, each as it should.
    alike = {"speech decay", "speech modulation"} if cause == "speech decay" else {cause}
    assert max(values, key=lambda name: values[name]) in alike


def drawn(
    rng: np.random.Generator, name: str, *, speakers: int, noises: int, named: bool = True
) -> MeasuredCorpus:
    """A corpus of one population; clips of a speaker or of a noise recording are similar."""
    of_speaker, of_noise = rng.integers(speakers, size=40), rng.integers(noises, size=40)
    of_speaker[:speakers], of_noise[:noises] = np.arange(speakers), np.arange(noises)

    def features(group: FeatureGroup) -> np.ndarray:
        spreads = 3 * group.least_spread
        by_speaker, by_noise = (rng.normal(size=(count, len(group.names))) for count in (speakers, noises))
        shared = np.zeros((40, len(group.names)))
        if not group.name.startswith("noise"):
            shared += by_speaker[of_speaker]
        if not group.name.startswith("speech"):
            shared += by_noise[of_noise]
        return spreads * (shared + 0.3 * rng.normal(size=shared.shape))

    return MeasuredCorpus(
        name=name,
        about="made up",
        of_clips=40,
        features={group.name: features(group) for group in GROUPS},
        speakers=tuple(f"s{number}" if named else None for number in of_speaker),
        noises=tuple(f"n{number}" if named else None for number in of_noise),
        failures=(),
    )


def stars(results: GapResults) -> int:
    return sum(results.differs(group, 0, 1) for group in NAMES)


@pytest.mark.parametrize(("speakers", "noises", "most"), [(4, 4, 0), (8, 6, 4)])
def test_few_speakers_and_noises_of_one_population_do_not_differ(
    speakers: int, noises: int, most: int
) -> None:
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(5):
        pair = [drawn(rng, name, speakers=speakers, noises=noises) for name in ("a", "b")]
        found += stars(measure_gaps(pair, GapSettings(reference="a", resamples=100)))
    assert found <= most, f"{found} of {5 * len(NAMES)}"


def test_unknown_speakers_and_noises_allow_no_verdict() -> None:
    rng = np.random.default_rng(0)
    named, nameless = (drawn(rng, name, speakers=9, noises=9, named=name == "a") for name in ("a", "b"))
    few = drawn(rng, "c", speakers=3, noises=9)
    far = replace(nameless, features={name: 99 + values for name, values in nameless.features.items()})
    results = measure_gaps([named, far, few], GapSettings(reference="a", resamples=100))
    assert stars(results) == 0
    of_named, of_far, of_few = remarks(results)
    assert "9 speakers, 9 noise recordings" in of_named
    assert "verdict" not in of_named
    assert "speakers unknown, noise recordings unknown, which allow no verdict on all features" in of_far
    assert "3 speakers (too few), 9 noise recordings, which allow no verdict on all features, sp" in of_few
    assert "noise spectrum" not in of_few
    known = replace(far, name="d", speakers=named.speakers)
    results = measure_gaps([named, known], GapSettings(reference="a", resamples=100))
    differing = [group for group in NAMES if results.differs(group, 0, 1)]
    assert differing == ["speech spectrum", "speech modulation", "speech decay"]


def test_one_more_corpus_does_not_change_the_others(plain: MeasuredCorpus) -> None:
    two = [plain, measure(corpus("b", 1000), quiet)]
    settings = GapSettings(reference="plain", resamples=100)
    few = measure_gaps(two, settings)
    many = measure_gaps([*two, measure(corpus("c", 2000, louder), quiet)], settings)
    for group in NAMES:
        assert few.distances[group].items() <= many.distances[group].items()


def test_the_page_is_self_contained_and_escapes_names(tmp_path: Path) -> None:
    sources = [corpus(HOSTILE, 0), corpus("語", 1000, louder)]
    domain_gap(sources, tmp_path, resamples=100, report=quiet)
    page = (tmp_path / PAGE).read_text()
    check_escaped(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<img ") == page.count('<img alt="') == 5
    assert page.count('src="data:image/svg+xml;base64,') == 5
    assert "http" not in page
    assert "<script" not in (tmp_path / TABLE).read_text()


def test_files_contain_the_matrix_and_are_reproducible(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        domain_gap([corpus("a", 0), corpus("b", 1000, noisier)], tmp_path / name, resamples=100, report=quiet)
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    figures = json.loads(written[0][RESULTS])
    overall = {tuple(row["corpora"]): row for row in figures["distances"][OVERALL]}
    assert overall["a", "b"]["low"] <= overall["a", "b"]["value"] <= overall["a", "b"]["high"]
    assert overall["a", "a"]["of_halves"]
    for one in figures["corpora"]:
        over = one["interval_over"]
        assert over["speech decay"] == {"units": "speakers", "count": 12, "allow_verdict": True}
        assert over["noise spectrum"] == {"units": "noise recordings", "count": 24, "allow_verdict": True}
        assert over[OVERALL] == over["SNR"] == over["speech decay"]
    assert f"{100 * overall['a', 'b']['value']:.1f} [" in written[0][TABLE].decode()


def test_failed_clips_are_left_out_and_reported() -> None:
    good = corpus("a", 0)

    def broken() -> LoadedClip:
        raise InputError("x.wav: no such file")

    source = GapSource(name="a", about="", of_clips=25, loaders=[broken, *good.loaders])
    measured = measure(source, quiet)
    assert measured.failures == (("clip 1", "x.wav: no such file"),)
    assert len(measured.speakers) == CLIPS
    few = GapSource(name="a", about="", of_clips=4, loaders=[broken, *good.loaders[:3]])
    with pytest.raises(InputError, match=r"a: only 3 clips .* x\.wav: no such file"):
        measure(few, quiet)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A card of pairs, and a folder of shards, of the same clips."""
    card = tmp_path / "pairs.yaml"
    card.write_text(
        f"name: pairs\ndescription: x\nsample_rate_hz: 16000\nlicence: CC0\npairs:\n  - root: {tmp_path}\n"
        "    clean: 'clean/(?P<pair>\\d+)\\.wav'\n    noisy: 'noisy/(?P<pair>\\d+)\\.wav'\n    split: test\n"
    )
    examples = []
    for number in range(8):
        speech, noise = (round_to_int16(wav.astype(np.float32)) for wav in pair(number))
        for kind, wav in (("clean", speech), ("noisy", round_to_int16(speech + noise))):
            (tmp_path / kind).mkdir(exist_ok=True)
            soundfile.write(tmp_path / kind / f"{number}.wav", wav, SAMPLE_RATE_HZ, subtype="PCM_16")
        examples.append(
            Example(
                example_id=f"e-{number}",
                noisy=round_to_int16(speech + noise),
                clean=speech,
                sample_rate_hz=SAMPLE_RATE_HZ,
                meta={"speaker": None},
            )
        )
    for number in range(2):
        write_shard(
            tmp_path / "mixed",
            "train",
            number,
            examples[number::2],
            sample_rate_hz=SAMPLE_RATE_HZ,
            corpus="c",
        )
    merge_index(tmp_path / "mixed")
    return card, tmp_path / "mixed"


def test_cards_and_shards_compare_from_the_command_line(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card, shards = folders
    command = ["--card", str(card), "--shards", str(shards), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--reference is required with both --card and --shards" in capsys.readouterr().err
    assert main([*command, "--resamples", "100", "--reference", "mixed-train"]) == 0
    output = capsys.readouterr().out
    assert "pairs" in output
    assert "mixed-train" in output
    figures = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert figures["reference"] == "mixed-train"
    of_card, of_shards = figures["corpora"]
    assert of_shards["about"] == "split 'train' of shards of c"
    # The same clips, whichever way they are read.
    np.testing.assert_allclose(np.sort(of_card["mean"]["SNR"]), np.sort(of_shards["mean"]["SNR"]), atol=0.01)
    assert main([*command, "--reference", "unknown"]) == 2
    assert "--reference unknown" in capsys.readouterr().err


def test_invalid_arguments_are_errors(folders: tuple[Path, Path]) -> None:
    card, shards = folders
    with pytest.raises(InputError, match="needs two corpora"):
        read_sources([card], [], split="train", examples=None)
    with pytest.raises(InputError, match="--examples 3"):
        read_sources([card], [shards], split="train", examples=3)
    with pytest.raises(InputError, match="named 'mixed-train'"):
        read_sources([], [shards, shards], split="train", examples=None)
    with pytest.raises(InputError, match="no split 'test'"):
        read_sources([card], [shards], split="test", examples=None)
