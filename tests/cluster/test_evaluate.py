"""Evaluation on a real Ray and MLflow: correct scores, complete logs, counted faults, and cached scores."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mlflow import MlflowClient
from mlflow.entities import Run

from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.evaluate import EvaluationSummary, evaluate, main
from pipelines.evaluation.clips import load_clip, read_sets
from rwsa.enhancement import enhance
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.metrics import Reference, score
from rwsa.models import ModelConfig, build_model, load_model, save_model

CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("ray_address")
RATE_HZ = 16000
TINY = ModelConfig(channels=8, blocks=1, segment_frames=32, d_state=4, expand=2, heads=2, middle_heads=2)
MIXED = """
name: mixed
description: Tones in noise.
sample_rate_hz: 16000
licence: CC0
speech: [{{root: {root}/speech, pattern: '(?P<speaker>\\w+)\\.wav', split: test}}]
noise: [{{root: {root}/noise, pattern: '(?P<recording>\\w+)\\.wav', split: test}}]
evaluation: {{recipe: recipe.yaml, examples: 3, seed: 5}}
"""
PAIRS = """
name: pairs
description: Ready-made pairs, one of them damaged.
sample_rate_hz: 16000
licence: CC0
pairs:
  - root: {root}/pairs
    clean: 'clean/(?P<pair>\\w+)\\.flac'
    noisy: 'noisy/(?P<pair>\\w+)\\.flac'
    split: test
noisy_row: {{pesq: 1.2, ssnr: 0.0, estoi: 0.6, si_sdr: 4.0}}
"""
RECIPE = "{name: toy, seconds: 1.5, min_snr_db: 0, max_snr_db: 10, examples: {}}"


def voice(seed: int) -> np.ndarray:
    """Two seconds of harmonics with a syllable rhythm, in which PESQ and STOI find utterances."""
    time = np.arange(2 * RATE_HZ) / RATE_HZ
    phase = 2 * np.pi * (100 + 15 * seed) * time + 3 * np.sin(2 * np.pi * 0.7 * time)
    wave = sum(np.sin(k * phase) / k for k in range(1, 25))
    return np.asarray(0.1 * wave * np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1))


def write(path: Path, wav: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, RATE_HZ)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A folder with two corpora, weights and a store."""

    root: Path
    weights: Path
    cards: tuple[Path, Path]
    storage: StorageConfig

    def arguments(self) -> list[str]:
        return [
            *("--weights", str(self.weights), "--corpora", *map(str, self.cards)),
            *("--set", f"storage.tracking_uri={self.storage.tracking_uri}"),
            *("--set", f"storage.root={self.storage.root}"),
        ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root, rng = tmp_path_factory.mktemp("bench"), np.random.default_rng(0)
    for number in range(2):
        write(root / f"speech/s{number}.wav", voice(number))
        write(root / f"noise/n{number}.wav", rng.normal(scale=0.1, size=3 * RATE_HZ))
    for number in range(4):
        clean = voice(number)
        noise = rng.normal(scale=0.01 * (number + 1), size=len(clean))
        write(root / f"pairs/clean/p{number}.flac", clean)
        write(root / f"pairs/noisy/p{number}.flac", clean + noise)
    # Scanning reads the header and the end, which stay intact.
    damaged = root / "pairs/noisy/p2.flac"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:20_000] + bytes(len(data) - 30_000) + data[-10_000:])
    for name, text in (("mixed", MIXED), ("pairs", PAIRS)):
        (root / f"{name}.yaml").write_text(text.format(root=root))
    (root / "recipe.yaml").write_text(RECIPE)
    save_model(root / "tiny.safetensors", build_model(TINY))
    return Bench(
        root=root,
        weights=root / "tiny.safetensors",
        cards=(root / "pairs.yaml", root / "mixed.yaml"),
        storage=StorageConfig(root=str(root / "out"), tracking_uri=f"sqlite:///{root}/mlflow.db"),
    )


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished evaluation."""

    summary: EvaluationSummary
    run: Run
    children: dict[str, Run]
    artifacts: Path
    lines: list[str]
    parent: str


def children_of(client: MlflowClient, run_id: str) -> dict[str, Run]:
    experiment = client.get_run(run_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.data.params["corpus"]: run for run in runs}


@pytest.fixture(scope="module")
def done(bench: Bench, ray_address: str) -> Done:
    lines: list[str] = []
    with Tracker(bench.storage).run("parent") as parent:
        summary = evaluate(
            [bench.weights],
            bench.cards,
            storage=bench.storage,
            parent=parent.run_id,
            json_path=bench.root / "out/means.json",
            report=lines.append,
        )
    assert summary.run_id is not None
    client = MlflowClient(bench.storage.tracking_uri)
    return Done(
        summary=summary,
        run=client.get_run(summary.run_id),
        children=children_of(client, summary.run_id),
        artifacts=Path(client.download_artifacts(summary.run_id, "", str(bench.root))),
        lines=lines,
        parent=parent.run_id,
    )


def test_scores_equal_those_of_the_library(bench: Bench, done: Done) -> None:
    model = load_model(bench.weights)
    compared = 0
    for one, scored in zip(read_sets(bench.cards), done.summary.corpora, strict=True):
        for clip, scores in zip(one.clips, scored.clips, strict=True):
            assert clip.clip_id == scores.clip_id
            if scores.error is None:
                noisy, clean = load_clip(clip)
                assert scores.signals["noisy"].values == pytest.approx(score(clean, noisy))
                direct = score(clean, np.asarray(enhance(noisy, RATE_HZ, model)))
                values = scores.signals["enhanced"].values
                found = {name: value for name, value in values.items() if name in direct}
                assert found == pytest.approx(direct, abs=2e-3)
                compared += 1
    assert compared == 6


def test_json_has_the_means_in_the_order_given(bench: Bench, done: Done) -> None:
    values = json.loads((bench.root / "out/means.json").read_text())
    assert values.items() >= done.summary.as_json().items()
    assert values.keys() - done.summary.as_json().keys() == {"intervals", "units", "weights"}
    assert values["weights"] == {model.name: model.sha256 for model in done.summary.models}
    assert list(values["corpora"]) == ["pairs", "mixed"]
    mixed = values["corpora"]["mixed"]
    assert mixed["clips"] == 3
    clips = done.summary.corpora[1].clips
    assert mixed["noisy"]["pesq"] == pytest.approx(np.mean([clip.value("noisy", "pesq") for clip in clips]))


def test_a_damaged_clip_is_counted_and_left_out_of_the_means(done: Done) -> None:
    pairs = done.summary.corpora[0]
    assert [clip.error is not None for clip in pairs.clips] == [False, False, True, False]
    for summary in (*pairs.summaries("noisy").values(), *pairs.summaries("enhanced").values()):
        assert (summary.count, summary.failures) == (3, 1)
    assert "p2.flac" in pairs.failures()[0]
    assert pairs.verdict() == "not compared with the published row: 3 of 4 clips scored"
    assert done.lines[-1].startswith("score: 7/7 clips")
    assert "failures 1" in done.lines[-1]


def test_the_run_describes_the_evaluation(done: Done) -> None:
    params, tags = done.run.data.params, done.run.data.tags
    assert params["systems"] == "enhanced"
    assert params["in_domain"] == "pairs"
    assert params["clips.mixed"] == "3"
    assert tags["mlflow.parentRunId"] == done.parent
    assert tags["noisy_row.pairs"].startswith("not compared")
    assert tags["noisy_row.mixed"] == "nothing published"
    assert tags["data_sha256.pairs"] != tags["data_sha256.mixed"]
    assert "| mixed |" in tags["mlflow.note.content"]
    assert done.run.info.status == "FINISHED"


def test_each_system_has_a_run_on_each_corpus(bench: Bench, done: Done) -> None:
    assert sorted(done.children) == ["mixed", "pairs"]
    for corpus, run in done.children.items():
        assert run.data.params["weights_sha256"] == sha256_of(bench.weights)
        assert run.data.params["model.channels"] == "8"
        tags = run.data.tags
        assert tags["weights_sha256"] == sha256_of(bench.weights)
        assert tags[f"data_sha256.{corpus}"] == done.run.data.tags[f"data_sha256.{corpus}"]
        assert tags["mlflow.source.git.commit"] == done.run.data.tags["mlflow.source.git.commit"]
        assert tags["rwsa.domain"] == ("in" if corpus == "pairs" else "out")
        assert run.info.status == "FINISHED"


def test_runs_have_flat_metrics_and_counts_of_failures(done: Done) -> None:
    corpora = done.summary.as_json()["corpora"]
    for corpus, run in done.children.items():
        for name, mean in corpora[corpus]["enhanced"].items():
            assert run.data.metrics[name] == pytest.approx(mean)
            assert done.run.data.metrics[f"{corpus}.enhanced.{name}"] == pytest.approx(mean)
        noisy = corpora[corpus]["noisy"]["pesq"]
        assert run.data.metrics["noisy.pesq"] == pytest.approx(noisy)
        assert run.data.metrics["gain.pesq"] == pytest.approx(corpora[corpus]["enhanced"]["pesq"] - noisy)
    pairs, mixed = (done.children[name].data.metrics for name in ("pairs", "mixed"))
    assert pairs["pesq.failed"] == 1
    assert "pesq.failed" not in mixed
    assert (pairs["clips"], pairs["clips_failed"]) == (4, 1)
    # Three clips allow no interval.
    assert "pesq.low" not in mixed
    cost = done.run.data.metrics
    assert 0 < cost["seconds.scoring_cpu"] < 60
    assert 0 < cost["seconds.enhancing_cpu"] < 60


def test_the_tables_have_one_row_per_clip_and_per_mean(bench: Bench, done: Done) -> None:
    client = MlflowClient(bench.storage.tracking_uri)
    rows = {}
    for corpus, run in done.children.items():
        path = client.download_artifacts(run.info.run_id, "clips.json", str(bench.root))
        table = json.loads(Path(path).read_text())
        # A name with a dot in it would be an empty column in MLflow's table.
        assert not [name for name in table["columns"] if "." in name]
        rows[corpus] = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["clip"] for row in rows["pairs"]] == [f"noisy/p{number}" for number in range(4)]
    assert rows["pairs"][2]["pesq"] is None
    assert "p2.flac" in rows["pairs"][2]["failures"]
    clip = done.summary.corpora[1].clips[0]
    phase = clip.value("enhanced", "si_sdr_noisy_phase")
    assert rows["mixed"][0]["si_sdr_noisy_phase"] == pytest.approx(phase, abs=1e-4)
    assert rows["mixed"][0]["noisy_pesq"] == pytest.approx(clip.value("noisy", "pesq"), abs=1e-4)
    assert rows["mixed"][0]["speaker"] == clip.speaker
    # The recipe draws it.
    assert 0 <= rows["mixed"][0]["input_snr_db"] <= 10
    means = json.loads((done.artifacts / "scores.json").read_text())
    assert len(means["data"]) == 2 * (4 + 5)


def test_selected_clips_have_audio_samples_and_spectrograms(done: Done) -> None:
    for corpus, seconds in (("pairs", 2.0), ("mixed", 1.5)):
        for label in ("worst", "median", "best"):
            stem = f"{corpus}/{label}"
            assert "<svg" in (done.artifacts / f"spectrograms/{stem}.svg").read_text()
            for name in ("noisy", "enhanced", "clean"):
                info = soundfile.info(done.artifacts / f"audio/{stem}.{name}.flac")
                assert (info.duration, info.samplerate, info.channels) == (seconds, RATE_HZ, 1)
        assert (done.artifacts / f"figures/{corpus}.svg").exists()
    assert (done.artifacts / "figures/in-domain-against-out-of-domain.svg").exists()
    page = (done.artifacts / "report.html").read_text()
    assert page.count("<audio") == 2 * 3 * 3


def test_the_same_evaluation_again_computes_and_logs_nothing(bench: Bench, done: Done) -> None:
    assert done.summary.cached == (0, 14)
    again = evaluate([bench.weights], bench.cards, storage=bench.storage, parent=done.parent)
    assert again.run_id == done.summary.run_id
    # The damaged clip is tried again.
    assert again.cached == (12, 14)
    assert again.as_json() == done.summary.as_json()
    # Under another parent it is another run, of the same scores.
    other = evaluate([bench.weights], bench.cards, storage=bench.storage)
    assert other.run_id != done.summary.run_id
    assert other.as_json() == done.summary.as_json()
    assert sum(other.cpu_seconds.values()) < 0.1


def test_only_another_model_or_corpus_is_scored(bench: Bench, done: Done) -> None:
    assert done.summary.cached == (0, 14)
    alone = evaluate([bench.weights], bench.cards[1:], storage=bench.storage, audio_clips=0)
    assert alone.cached == (6, 6)
    save_model(bench.root / "second.safetensors", build_model(TINY, seed=1))
    both = [bench.weights, bench.root / "second.safetensors"]
    of_both = evaluate(both, bench.cards[1:], storage=bench.storage, audio_clips=1)
    assert of_both.cached == (6, 9)
    assert of_both.corpora[0].systems == ("noisy", "tiny", "second")
    first = [clip.signals["enhanced"].values for clip in alone.corpora[0].clips]
    assert [clip.signals["tiny"].values for clip in of_both.corpora[0].clips] == first


def test_further_metrics_are_added_to_cached_ones(bench: Bench, done: Done) -> None:
    assert done.summary.cached == (0, 14)
    how = {"storage": bench.storage, "audio_clips": 1}
    more = evaluate([bench.weights], bench.cards, metrics=["stoi", "pesq", "cbak"], **how)
    # Table 1's metrics come first, unchanged; the damaged clip fails in all metrics.
    assert more.metrics == ("pesq", "ssnr", "estoi", "si_sdr", "stoi", "cbak")
    for corpus, before in zip(more.corpora, done.summary.corpora, strict=True):
        for clip, other in zip(corpus.clips, before.clips, strict=True):
            for system, scores in clip.signals.items():
                old = other.signals[system].values
                assert {name: scores.values[name] for name in old} == old
        assert [(one.count, one.failures) for one in corpus.summaries("enhanced").values()] == [
            (3, int(corpus.name == "pairs"))
        ] * 7
    model, one = load_model(bench.weights), read_sets(bench.cards)[1].clips[0]
    noisy, clean = load_clip(one)
    first = more.corpora[1].clips[0]
    assert first.value("noisy", "cbak") == score(clean, noisy, ("cbak",))["cbak"]
    direct = score(clean, np.asarray(enhance(noisy, RATE_HZ, model)), ("stoi",))["stoi"]
    assert first.value("enhanced", "stoi") == pytest.approx(direct, abs=2e-3)
    assert more.run_id not in (None, done.summary.run_id)
    client = MlflowClient(bench.storage.tracking_uri)
    child = children_of(client, str(more.run_id))["mixed"].data.metrics
    assert child["gain.cbak"] == pytest.approx(child["cbak"] - child["noisy.cbak"])
    assert client.get_run(str(more.run_id)).data.params["metrics"] == ", ".join(more.metrics)
    again = evaluate([bench.weights], bench.cards, metrics=["stoi", "cbak"], **how)
    assert (again.cached, again.run_id) == ((12, 14), more.run_id)
    fewer = evaluate([bench.weights], bench.cards, **how)
    assert fewer.cached == (12, 14)
    assert fewer.as_json() == done.summary.as_json()


def test_a_cached_score_is_not_computed_again_for_another_metric(bench: Bench) -> None:
    storage = dataclasses.replace(bench.storage, root=str(bench.root / "marked"))
    evaluate([], bench.cards[1:], storage=storage)
    # An implausible score shows that it is read from the cache, for CBAK too.
    for path in (bench.root / "marked/cache/scores").rglob("*.json"):
        cached = json.loads(path.read_text())
        cached["values"]["pesq"]["value"] = 4.5
        path.write_text(json.dumps(cached))
    more = evaluate([], bench.cards[1:], metrics=["cbak"], storage=storage)
    noisy, clean = load_clip(read_sets(bench.cards)[1].clips[0])
    (scored, *_) = more.corpora[0].clips
    assert scored.value("noisy", "pesq") == 4.5
    known = Reference(clean).score(noisy, ("cbak",), known={"pesq": 4.5})
    assert scored.value("noisy", "cbak") == known["cbak"] != score(clean, noisy, ("cbak",))["cbak"]


def test_a_metric_without_its_package_is_one_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)
    assert main([*bench.arguments(), "--metrics", "dnsmos_ovrl"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the metrics need the package speechmos")
    assert "pip install 'rwsa[dnsmos]'" in error


def test_outputs_of_other_systems_are_rows_and_their_faults_counted(
    bench: Bench, done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    assert done.summary.run_id is not None
    folder, wavs = bench.root / "outputs", {}
    for clip in read_sets(bench.cards)[1].clips:
        _, wavs[clip.clip_id.partition("/")[2]] = load_clip(clip)
    first, second, _ = wavs
    write(folder / f"{first}.wav", wavs[first] * 0.5)
    write(folder / f"{second}.wav", wavs[second][:-1])
    write(folder / "unmatched.wav", wavs[first])
    arguments = [*bench.arguments()[2:3], str(bench.cards[1]), *bench.arguments()[5:]]
    assert main([*arguments, "--system", f"other={folder}", "--audio-clips", "1"]) == 0
    shown = capsys.readouterr().out
    assert "other" in shown
    assert "(2 failed)" in shown
    assert f"mixed: failures (2):\n  mixed/{second}: other: {folder}/{second}.wav: has 23999 samples" in shown
    assert f"other: has no file in {folder}" in shown
    assert f"mixed: extra files of other that match no clip (1):\n  {folder}/unmatched.wav" in shown


def test_without_systems_only_noisy_is_scored(bench: Bench, done: Done) -> None:
    alone = evaluate([], bench.cards, storage=bench.storage)
    assert alone.cached == (6, 7)
    assert alone.corpora[0].systems == ("noisy",)
    assert alone.corpora[0].means("noisy") == done.summary.corpora[0].means("noisy")
    assert alone.run_id is not None


@pytest.mark.full
def test_a_kill_loses_only_the_clips_in_flight(bench: Bench, ray_address: str) -> None:
    """After SIGKILL, scores are in the cache, and the resumed run equals an uninterrupted one."""
    root = bench.root
    text = (root / "mixed.yaml").read_text()
    (root / "more.yaml").write_text(
        text.replace("examples: 3", "examples: 24").replace("name: mixed", "name: more")
    )
    command = [
        *(sys.executable, "-m", "pipelines.evaluate", "--weights", str(bench.weights)),
        *("--corpora", str(root / "more.yaml"), "--audio-clips", "0"),
    ]

    def settings(name: str) -> list[str]:
        return ["--set", f"storage.root={root}/{name}", f"storage.tracking_uri=sqlite:///{root}/{name}.db"]

    environment = os.environ | {"RAY_ADDRESS": ray_address, "RWSA_SHARED_CHECKOUT": "1"}
    killed = subprocess.Popen([*command, *settings("killed")], env=environment, cwd=CHECKOUT)
    scores = root / "killed/cache/scores"
    deadline = time.monotonic() + 180
    while len(list(scores.rglob("[0-9a-f]*.json"))) < 10:
        assert killed.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    cached = len(list(scores.rglob("[0-9a-f]*.json")))
    resumed, uninterrupted = (
        evaluate(
            [bench.weights],
            [root / "more.yaml"],
            storage=StorageConfig(root=str(root / name), tracking_uri=f"sqlite:///{root}/{name}.db"),
            audio_clips=0,
        )
        for name in ("killed", "uninterrupted")
    )
    assert resumed.cached == (cached, 48)
    assert 10 <= cached < 48
    assert uninterrupted.cached == (0, 48)
    assert resumed.as_json() == uninterrupted.as_json()
    assert [clip.signals for clip in resumed.corpora[0].clips] == [
        clip.signals for clip in uninterrupted.corpora[0].clips
    ]


def test_strict_stops_at_the_damaged_clip(
    bench: Bench, done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    assert done.summary.run_id is not None
    json_path = bench.root / "strict.json"
    assert main([*bench.arguments(), "--strict", "--workers", "1", "--json", str(json_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert "p2.flac" in error
    assert not json_path.exists()


def test_command_line_prints_an_aligned_table(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--examples", "2", "--audio-clips", "0", "--workers", "1"]
    assert main([*bench.arguments(), *few]) == 0
    shown = capsys.readouterr().out.splitlines()
    head = next(number for number, line in enumerate(shown) if line.startswith("corpus"))
    assert shown[head + 1].split()[:3] == ["pairs", "2", "noisy"]
    assert len({len(line) for line in shown[head : head + 7]}) == 1
    assert "4 clips in" in shown[-1]


def test_fewer_pairs_are_spread_over_the_set_and_fewer_mixtures_are_the_first(bench: Bench) -> None:
    every, some = read_sets(bench.cards), read_sets(bench.cards, examples=2)
    assert [clip.clip_id for clip in some[0].clips] == ["pairs/noisy/p0", "pairs/noisy/p2"]
    assert some[1].clips == every[1].clips[:2]
    assert (some[0].of_clips, some[1].of_clips) == (4, 3)


def test_invalid_arguments_are_one_error_line(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    text = (bench.root / "mixed.yaml").read_text()
    (bench.root / "nothing.yaml").write_text(text.partition("evaluation")[0])
    cases = [
        (["--weights", f"{bench.root}/none.safetensors"], "none.safetensors: no such file"),
        (["--weights", f"{bench.root}/recipe.yaml"], "recipe.yaml: neither"),
        (["--weights", f"noisy={bench.weights}"], "'noisy' cannot name a system"),
        (["--system", "other"], "--system other: give NAME=FOLDER"),
        (["--system", f"other={bench.root}/pairs"], "has no folder 'pairs'"),
        (["--metrics", "csik"], "unknown metric 'csik'; did you mean 'csig'?"),
        (["--device", "tpu"], "--device tpu: use auto, cpu or cuda"),
        (["--device", "cuda"], "this Ray cluster has no GPU"),
        (["--corpora", f"{bench.root}/none.yaml"], "none.yaml"),
        (["--corpora", f"{bench.root}/nothing.yaml"], "has neither pairs nor an `evaluation`"),
        (["--corpora", *[f"{bench.root}/mixed.yaml"] * 2], "another card given is named 'mixed' too"),
        (["--examples", "0"], "--examples 0: must be at least 1"),
        (["--workers", "0"], "--workers 0: must be at least 1"),
        (["--audio-clips", "-1"], "--audio-clips -1: must be at least 0"),
        (["--json", str(bench.root)], "is a folder; name a file"),
        (["--json", "/proc/none/means.json"], "cannot be written"),
        (["--set", "storage.rot=x"], "did you mean 'root'?"),
        (["--set", "storage.tracking_uri=http://127.0.0.1:9"], "does not answer"),
    ]
    for change, message in cases:
        assert main([*bench.arguments(), *change]) == 2, message
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1


def test_no_corpus_is_an_error(bench: Bench) -> None:
    with pytest.raises(InputError, match="no corpus card given"):
        evaluate([bench.weights], [], storage=bench.storage)
