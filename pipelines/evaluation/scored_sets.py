"""Scores of every system on every clip: what is kept from before, and the rest enhanced and scored on Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.evaluation.clip_scores import NOISY, ClipScores, SignalScores, of_signal, read_output, unscored
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
from pipelines.evaluation.systems import MatchedOutputs, Model, Outputs, System, match_outputs
from rwsa.errors import InputError
from rwsa.file_cache import FileCache
from rwsa.metrics import TABLE1_METRICS
from rwsa.models import Network

if TYPE_CHECKING:
    from pipelines.evaluation.scorers import ScorerPool
    from pipelines.evaluation.scoring_tasks import Work


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What to score and how.

    Attributes:
        systems: the rows but the noisy one.
        networks: of the models, by name.
        sets: the corpora.
        workers: CPUs to use; all of Ray's by default.
        device: `cpu` or `cuda`, which is every GPU that Ray has.
        scores: that are known, and where new ones are kept.
        files: what is known of files.
        report: takes progress lines.
        metrics: to score by.
    """

    systems: Sequence[System]
    networks: Mapping[str, Network]
    sets: Sequence[EvaluationSet]
    workers: int | None
    device: str
    scores: ScoreCache
    files: FileCache
    report: Callable[[str], None]
    metrics: tuple[str, ...] = TABLE1_METRICS


@dataclass(kw_only=True)
class _Clip:
    """A clip with what is known of it so far.

    Attributes:
        keys: system -> what its scores are kept under; none for a signal that is not to be kept.
        outputs: system -> file of its ready-made output.
        signals: system -> its scores in all metrics.
        partly: system -> its scores in some of them.
        error: why it cannot be read.
    """

    clip: EvaluationClip
    keys: dict[str, str]
    outputs: dict[str, Path] = field(default_factory=dict)
    signals: dict[str, SignalScores] = field(default_factory=dict)
    partly: dict[str, SignalScores] = field(default_factory=dict)
    error: str | None = None


class SetScorer:
    """Scores sets of clips; starts Ray when there is something to do."""

    def __init__(self, scoring: Scoring) -> None:
        """Look up what is known.

        Raises:
            InputError: a folder of outputs does not fit, or the kept scores cannot be read.
        """
        self.cpu_seconds = {"enhancing": 0.0, "scoring": 0.0}
        self.seconds = 0.0
        self._scoring = scoring
        self._cache, self._files = scoring.scores, scoring.files
        self._clip_keys = [clip_keys(one.clips, self._files) for one in scoring.sets]
        self._matched = self._match()
        self._clips = [self._known_clips(at) for at in range(len(scoring.sets))]
        clips = [clip for of_set in self._clips for clip in of_set]
        self.kept = (sum(len(clip.signals) for clip in clips), len(clips) * len(self._names()))

    @property
    def key(self) -> str:
        """Of all that the scores depend on: the same systems on the same clips have the same."""
        clips = [[clip.clip.clip_id, clip.keys] for clips in self._clips for clip in clips]
        outputs = [
            [at, name, sorted(one.faults.items()), one.extra] for (at, name), one in self._matched.items()
        ]
        metrics = [[name, metric_packages(name)] for name in self._scoring.metrics]
        return digest([clips, outputs, metrics])

    def score(self, *, strict: bool = False) -> tuple[CorpusScores, ...]:
        """Score what is not known, keeping each clip's scores as soon as they are there.

        Raises:
            InputError: a process was killed twice; scores cannot be kept; or, when `strict`, anything fails.
        """
        started = time.monotonic()
        missing = [clip for clips in self._clips for clip in clips if self._missing(clip)]
        if missing:
            with self._pool() as pool:
                works = [self._work(clip) for clip in missing]
                for number, scored in pool.score(works):
                    self._take(missing[number], scored.signals, scored.error)
                    if strict:
                        _refuse(self._scores(missing[number]))
        self.seconds += time.monotonic() - started
        corpora = tuple(self._corpus(at) for at in range(len(self._scoring.sets)))
        if strict:
            for scores in (clip for corpus in corpora for clip in corpus.clips):
                _refuse(scores)
        return corpora

    def hear(
        self, chosen: Sequence[tuple[int, int]], systems: Sequence[System]
    ) -> list[dict[str, np.ndarray]]:
        """The systems' signals `[samples]`, by name, of chosen (corpus, clip); without those it has none of.

        Keeping all that was enhanced would not fit in memory, so these are enhanced again, once.

        Raises:
            InputError: see `ScorerPool.hear`.
        """
        clips = [self._clips[at][index] for at, index in chosen]
        found = [self._outputs_of(clip, systems) for clip in clips]
        missing: list[tuple[int, str]] = []
        for number, clip in enumerate(clips):
            for system in (system for system in systems if isinstance(system, Model)):
                wav = self._cache.get_audio(clip.keys[system.name]) if system.name in clip.keys else None
                if wav is None:
                    missing.append((number, system.name))
                else:
                    found[number][system.name] = wav
        if missing:
            with self._pool() as pool:
                for place, wav in pool.hear([(name, clips[number].clip) for number, name in missing]):
                    number, name = missing[place]
                    found[number][name] = wav
                    if key := clips[number].keys.get(name):
                        self._cache.put_audio(key, wav)
        names = [system.name for system in systems]
        return [{name: signals[name] for name in names if name in signals} for signals in found]

    @staticmethod
    def _outputs_of(clip: _Clip, systems: Sequence[System]) -> dict[str, np.ndarray]:
        """Ready-made outputs that could be scored."""
        found: dict[str, np.ndarray] = {}
        for system in systems:
            path = clip.outputs.get(system.name)
            if path is not None and clip.signals[system.name].snr_db is not None:
                _, clean = load_clip(clip.clip)
                found[system.name] = read_output(path, clip.clip, len(clean))
        return found

    @contextmanager
    def _pool(self) -> Iterator[ScorerPool]:
        # Ray takes seconds to import and to start, and is not needed where all is known.
        from pipelines.core.ray_cluster import start_ray
        from pipelines.evaluation.scorers import ScorerPool

        start_ray()
        how = self._scoring
        with ScorerPool(how.networks, how.workers, device=how.device, report=how.report) as pool:
            try:
                yield pool
            finally:
                self.cpu_seconds["enhancing"] += pool.cpu_seconds.enhancing
                self.cpu_seconds["scoring"] += pool.cpu_seconds.scoring

    def _match(self) -> dict[tuple[int, str], MatchedOutputs]:
        several = len(self._scoring.sets) > 1
        return {
            (at, system.name): match_outputs(system, one, several_corpora=several)
            for at, one in enumerate(self._scoring.sets)
            for system in self._scoring.systems
            if isinstance(system, Outputs)
        }

    def _known_clips(self, at: int) -> list[_Clip]:
        """The clips of a corpus, each with its keys and with what was kept under them."""
        clips: list[_Clip] = []
        hashes = file_hashes(
            (str(path) for (of, _), one in self._matched.items() if of == at for path in one.paths.values()),
            self._files,
        )
        for clip, clip_key in zip(self._scoring.sets[at].clips, self._clip_keys[at], strict=True):
            known = _Clip(clip=clip, keys={})
            systems = {NOISY: NOISY}
            for system in self._scoring.systems:
                if isinstance(system, Model):
                    systems[system.name] = model_key(system.sha256, self._scoring.device)
                else:
                    self._add_output(known, at, system, hashes, systems)
            if clip_key is not None:
                known.keys = {name: score_key(key, clip_key) for name, key in systems.items()}
            for name, key in known.keys.items():
                self._look_up(known, name, key)
            clips.append(known)
        return clips

    def _look_up(self, known: _Clip, name: str, key: str) -> None:
        """What is kept of a signal, as all that is asked for or as a part of it."""
        scores = self._cache.get(key)
        if scores is None:
            return
        asked = of_signal(self._scoring.metrics, model=name in self._scoring.networks)
        found = {metric: scores.values[metric] for metric in asked if metric in scores.values}
        into = known.signals if len(found) == len(asked) else known.partly
        into[name] = replace(scores, values=found)

    def _add_output(
        self, known: _Clip, at: int, system: Outputs, hashes: Mapping[str, str], keys: dict[str, str]
    ) -> None:
        """A clip's ready-made output: where it is, or why it has none."""
        matched = self._matched[at, system.name]
        path = matched.paths.get(known.clip.clip_id)
        if path is None:
            known.signals[system.name] = unscored(matched.faults[known.clip.clip_id], self._scoring.metrics)
            return
        known.outputs[system.name] = path
        if str(path) in hashes:
            keys[system.name] = hashes[str(path)]

    def _names(self) -> list[str]:
        return [NOISY, *(system.name for system in self._scoring.systems)]

    def _missing(self, clip: _Clip) -> list[str]:
        return [name for name in self._names() if name not in clip.signals]

    def _work(self, clip: _Clip) -> Work:
        from pipelines.evaluation.scoring_tasks import Work

        missing = self._missing(clip)
        return Work(
            clip=clip.clip,
            noisy=NOISY in missing,
            models=tuple(name for name in missing if name in self._scoring.networks),
            outputs={name: path for name, path in clip.outputs.items() if name in missing},
            metrics=self._scoring.metrics,
            known=clip.partly,
        )

    def _take(self, clip: _Clip, signals: Mapping[str, SignalScores], error: str | None) -> None:
        """Keep what a clip's scoring gave. That it cannot be read is not kept: a repaired file differs."""
        clip.error = error
        for name, scores in signals.items():
            if key := clip.keys.get(name):
                self._cache.put(key, scores)
            clip.signals[name] = scores

    def _corpus(self, at: int) -> CorpusScores:
        one = self._scoring.sets[at]
        keys = self._clip_keys[at]
        extra = {name: matched.extra or () for (of, name), matched in self._matched.items() if of == at}
        return CorpusScores(
            name=one.name,
            clips=tuple(self._scores(clip) for clip in self._clips[at]),
            of_clips=one.of_clips,
            data_sha256=None if None in keys else digest(keys),
            problems=one.problems,
            published=one.noisy_row,
            extra=extra,
            metrics=self._scoring.metrics,
        )

    def _scores(self, clip: _Clip) -> ClipScores:
        networks, metrics = self._scoring.networks, self._scoring.metrics
        signals = {
            name: clip.signals[name]
            if clip.error is None
            else unscored(clip.error, metrics, model=name in networks)
            for name in self._names()
        }
        source = clip.clip
        return ClipScores(
            corpus=source.corpus,
            clip_id=source.clip_id,
            seconds=source.seconds,
            speaker=source.speaker,
            environment=source.environment,
            signals=signals,
            error=clip.error,
        )


def _refuse(scores: ClipScores) -> None:
    if scores.failures:
        raise InputError(f"{scores.clip_id}: {scores.failures[0]} (strict)")
