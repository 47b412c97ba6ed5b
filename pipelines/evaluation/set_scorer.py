"""Scores of all systems on all clips: from the cache, and the missing ones on Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.progress import Progress
from pipelines.evaluation.clip_scores import (
    NOISY,
    ClipScores,
    SignalScores,
    metrics_of,
    read_output,
    unscored,
)
from pipelines.evaluation.clips import EvaluationClip, EvaluationSet, load_clip
from pipelines.evaluation.results import CorpusScores
from pipelines.evaluation.score_cache import (
    ScoreCache,
    clip_keys,
    digest,
    file_hashes,
    metric_packages,
    model_key,
    score_key,
)
from pipelines.evaluation.score_task import (
    EnhancedClip,
    ScoredClip,
    ScoreTask,
    enhance_on_gpu,
    enhance_sample,
    score_clip,
)
from pipelines.evaluation.systems import MatchedOutputs, Model, Outputs, System, match_outputs
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.metrics import TABLE1_METRICS
from rwsa.models import Network


@dataclass(kw_only=True)
class _PendingClip:
    """A clip with the scores found so far.

    Attributes:
        keys: system -> cache key; none for a clip or output that cannot be read.
        outputs: system -> file of its ready-made output.
        signals: system -> its scores, if it has them in all metrics.
        partial: system -> its scores, if it has them in some metrics.
        error: why the clip cannot be read.
    """

    clip: EvaluationClip
    keys: dict[str, str]
    outputs: dict[str, Path] = field(default_factory=dict)
    signals: dict[str, SignalScores] = field(default_factory=dict)
    partial: dict[str, SignalScores] = field(default_factory=dict)
    error: str | None = None


class SetScorer:
    """Scores sets of clips; starts Ray if scores are missing.

    Attributes:
        cpu_seconds: kind of work -> CPU time over all processes.
        seconds: that `score` took.
        cached: how many signals had all scores in the cache, and of how many.
    """

    def __init__(
        self,
        systems: Sequence[System],
        networks: Mapping[str, Network],
        sets: Sequence[EvaluationSet],
        *,
        cache: ScoreCache,
        files: FileCache,
        metrics: tuple[str, ...] = TABLE1_METRICS,
        device: str = "cpu",
        workers: int | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        """Look up the cached scores.

        Args:
            systems: the rows of the table but the noisy one.
            networks: model -> its network.
            sets: the corpora.
            cache: of scores.
            files: hashes of files.
            metrics: to score by.
            device: to enhance on: `cpu`, or `cuda`, which is every GPU that Ray has.
            workers: CPUs to use; all of Ray's by default.
            report: accepts progress lines.

        Raises:
            InputError: a folder of outputs does not fit, or the cache cannot be read.
        """
        self.cpu_seconds = {"enhancing": 0.0, "scoring": 0.0}
        self.seconds = 0.0
        self._systems, self._networks, self._sets = systems, networks, sets
        self._cache, self._files, self._metrics = cache, files, metrics
        self._device, self._workers, self._report = device, workers, report
        self._names = [NOISY, *(system.name for system in systems)]
        self._clip_keys = [clip_keys(one.clips, files) for one in sets]
        self._matched = {
            (at, system.name): match_outputs(system, one, several_corpora=len(sets) > 1)
            for at, one in enumerate(sets)
            for system in systems
            if isinstance(system, Outputs)
        }
        self._clips = [self._look_up(at) for at in range(len(sets))]
        clips = [clip for of_set in self._clips for clip in of_set]
        self.cached = (sum(len(clip.signals) for clip in clips), len(clips) * len(self._names))

    @property
    def key(self) -> str:
        """Hash of all that decides the scores: clips, systems and code."""
        clips = [[clip.clip.clip_id, clip.keys] for clips in self._clips for clip in clips]
        outputs = [
            [at, name, sorted(one.faults.items()), one.extra] for (at, name), one in self._matched.items()
        ]
        return digest([clips, outputs, [[name, metric_packages(name)] for name in self._metrics]])

    def score(self, *, strict: bool = False) -> tuple[CorpusScores, ...]:
        """Score the missing signals; each clip's scores are cached as soon as they are computed.

        Raises:
            InputError: a process was killed repeatedly; scores cannot be cached; or, when `strict`,
                anything fails.
        """
        started = time.monotonic()
        missing = [clip for clips in self._clips for clip in clips if self._missing(clip)]
        if missing:
            self._score_missing(missing, strict)
        self.seconds += time.monotonic() - started
        corpora = tuple(self._corpus_scores(at) for at in range(len(self._sets)))
        if strict:
            for scores in (clip for corpus in corpora for clip in corpus.clips):
                _refuse(scores)
        return corpora

    def _score_missing(self, clips: Sequence[_PendingClip], strict: bool) -> None:
        progress = Progress(len(clips), "score", "clips", self._report)
        failures = 0
        with progress, closing(self._run(score_clip, clips, map(self._missing, clips))) as results:
            for number, result in results:
                scored: ScoredClip = result
                for kind, seconds in scored.cpu_seconds.items():
                    self.cpu_seconds[kind] += seconds
                failures += scored.failed
                progress.set_postfix_str(f"failures {failures}", refresh=False)
                progress.update()
                clip = clips[number]
                clip.error = scored.error  # not cached: a repaired file has another key
                clip.signals |= scored.signals
                for name in scored.signals.keys() & clip.keys.keys():
                    self._cache.put(clip.keys[name], scored.signals[name])
                if strict:
                    _refuse(self._clip_scores(clip))

    def enhance_samples(
        self, chosen: Sequence[tuple[int, int]], systems: Sequence[System]
    ) -> list[dict[str, np.ndarray]]:
        """The systems' signals `[samples]`, by name, of chosen (corpus, clip); without missing outputs.

        Signals of all clips would not fit in memory, so these are enhanced again, once.

        Raises:
            InputError: a process was killed repeatedly; a clip cannot be read any more.
        """
        clips = [self._clips[at][index] for at, index in chosen]
        samples = [self._read_outputs(clip, systems) for clip in clips]
        missing: dict[int, list[str]] = {}
        for number, clip in enumerate(clips):
            for name in (system.name for system in systems if isinstance(system, Model)):
                wav = self._cache.get_audio(clip.keys[name]) if name in clip.keys else None
                if wav is None:
                    missing.setdefault(number, []).append(name)
                else:
                    samples[number][name] = wav
        numbers = list(missing)
        run = self._run(enhance_sample, [clips[number] for number in numbers], missing.values())
        with closing(run) as results:
            for place, result in results:
                enhanced: EnhancedClip = result
                self.cpu_seconds["enhancing"] += enhanced.cpu_seconds
                if enhanced.error is not None:
                    raise InputError(enhanced.error)
                number = numbers[place]
                samples[number] |= enhanced.signals
                for name in enhanced.signals.keys() & clips[number].keys.keys():
                    self._cache.put_audio(clips[number].keys[name], enhanced.signals[name])
        names = [system.name for system in systems]
        return [{name: signals[name] for name in names if name in signals} for signals in samples]

    def _run(
        self, work: Callable[..., Any], clips: Sequence[_PendingClip], missing: Iterable[Sequence[str]]
    ) -> Generator[tuple[int, Any]]:
        """Results of a function of `score_task` for the missing systems of clips, the longest clips first."""
        if not clips:
            return
        # Imported late: Ray takes seconds to import and start, and is not needed where all scores are cached.
        import ray

        from pipelines.core.pool import map_unordered
        from pipelines.core.ray_cluster import start_ray

        start_ray()
        networks = {name: ray.put(network) for name, network in self._networks.items()}
        tasks = [
            ScoreTask(
                clip=clip.clip,
                noisy=NOISY in names,
                models={name: networks[name] for name in names if name in networks},
                outputs={name: path for name, path in clip.outputs.items() if name in names},
                metrics=self._metrics,
                cached=clip.partial,
            )
            for clip, names in zip(clips, missing, strict=True)
        ]
        order = sorted(range(len(tasks)), key=lambda number: -tasks[number].clip.seconds)
        on_gpu = self._device == "cuda" and bool(networks)
        results = map_unordered(
            work,
            [tasks[number] for number in order],
            workers=self._workers,
            gpu_work=enhance_on_gpu if on_gpu else None,
            report=self._report,
        )
        with closing(results):
            for place, result in results:
                yield order[place], result

    @staticmethod
    def _read_outputs(clip: _PendingClip, systems: Sequence[System]) -> dict[str, np.ndarray]:
        """Ready-made outputs that could be scored."""
        signals: dict[str, np.ndarray] = {}
        for system in systems:
            path = clip.outputs.get(system.name)
            if path is not None and clip.signals[system.name].snr_db is not None:
                _, clean = load_clip(clip.clip)
                signals[system.name] = read_output(path, clip.clip, len(clean))
        return signals

    def _look_up(self, at: int) -> list[_PendingClip]:
        """The clips of a corpus, with their keys and cached scores."""
        matched = {name: one for (of, name), one in self._matched.items() if of == at}
        hashes = file_hashes(
            (str(path) for one in matched.values() for path in one.paths.values()), self._files
        )
        clips = []
        for clip, clip_key in zip(self._sets[at].clips, self._clip_keys[at], strict=True):
            pending, systems = _PendingClip(clip=clip, keys={}), {NOISY: NOISY}
            for system in self._systems:
                if isinstance(system, Model):
                    systems[system.name] = model_key(system.sha256, self._device)
                else:
                    systems |= self._match_output(pending, system.name, matched[system.name], hashes)
            if clip_key is not None:
                pending.keys = {name: score_key(key, clip_key) for name, key in systems.items()}
            for name, key in pending.keys.items():
                self._add_cached(pending, name, key)
            clips.append(pending)
        return clips

    def _match_output(
        self, pending: _PendingClip, name: str, matched: MatchedOutputs, hashes: Mapping[str, str]
    ) -> dict[str, str]:
        """Record a clip's output file, or why it has none; returns system -> hash of a readable file."""
        path = matched.paths.get(pending.clip.clip_id)
        if path is None:
            pending.signals[name] = unscored(matched.faults[pending.clip.clip_id], self._metrics)
            return {}
        pending.outputs[name] = path
        return {name: hashes[str(path)]} if str(path) in hashes else {}

    def _add_cached(self, pending: _PendingClip, name: str, key: str) -> None:
        scores = self._cache.get(key)
        if scores is None:
            return
        wanted = metrics_of(self._metrics, model=name in self._networks)
        values = {metric: scores.values[metric] for metric in wanted if metric in scores.values}
        into = pending.signals if len(values) == len(wanted) else pending.partial
        into[name] = replace(scores, values=values)

    def _missing(self, clip: _PendingClip) -> list[str]:
        return [name for name in self._names if name not in clip.signals]

    def _corpus_scores(self, at: int) -> CorpusScores:
        one, keys = self._sets[at], self._clip_keys[at]
        return CorpusScores(
            name=one.name,
            clips=tuple(self._clip_scores(clip) for clip in self._clips[at]),
            of_clips=one.of_clips,
            data_sha256=None if None in keys else digest(keys),
            problems=one.problems,
            published=one.noisy_row,
            extra={name: matched.extra or () for (of, name), matched in self._matched.items() if of == at},
            metrics=self._metrics,
            card=one.card,
        )

    def _clip_scores(self, pending: _PendingClip) -> ClipScores:
        clip = pending.clip
        return ClipScores(
            corpus=clip.corpus,
            clip_id=clip.clip_id,
            seconds=clip.seconds,
            speaker=clip.speaker,
            environment=clip.environment,
            signals={
                name: pending.signals[name]
                if pending.error is None
                else unscored(pending.error, self._metrics, model=name in self._networks)
                for name in self._names
            },
            error=pending.error,
        )


def _refuse(scores: ClipScores) -> None:
    if scores.failures:
        raise InputError(f"{scores.clip_id}: {scores.failures[0]} (strict)")
