"""Score a folder of enhanced clips against a folder of clean clips."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rwsa.audio import find_audio, read_audio, resample
from rwsa.audio_facts import CLIPPED_SHARE, clipped_share
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.metrics import (
    METRICS,
    TABLE1_METRICS,
    Failure,
    Summary,
    check_metrics,
    floored_by_silence,
    metrics_version,
    score,
    summarise,
)
from rwsa.process import THREAD_VARIABLES

FOLDER_METRICS = (*TABLE1_METRICS, "csig", "cbak", "covl")
_LISTED_FAILURES = 20


@dataclass(frozen=True, kw_only=True)
class ClipFailure:
    """A clip or one of its metrics that could not be scored; `metric` is None for all metrics."""

    file: str
    reason: str
    metric: str | None = None

    def __str__(self) -> str:
        return f"{self.file}: {'' if self.metric is None else self.metric + ': '}{self.reason}"


@dataclass(frozen=True, kw_only=True)
class FolderScores:
    """Result of `score_folders`.

    Attributes:
        clips: value or failure by file (as named in the clean folder) and metric; sorted by file.
        summaries: for each metric its mean over values, and the counts of values and failures.
        failures: all failures, including files that exist in one folder only.
        resampled: files not at 16 kHz in either folder.
        clipped: files clipped in either folder; see `rwsa.audio_facts.AudioFacts`. They are scored.
        floored: files whose CSIG and COVL are 1 due to digital silence; see `rwsa.metrics.composite.llr`.
        version: of the metrics; see `rwsa.metrics.metrics_version`.
    """

    clips: dict[str, dict[str, float | Failure]]
    summaries: dict[str, Summary]
    failures: tuple[ClipFailure, ...]
    resampled: tuple[str, ...]
    clipped: tuple[str, ...]
    floored: tuple[str, ...]
    version: str

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON; failed metrics are null in `clips` and listed in `failures`."""
        return {
            "clips": {
                file: {name: None if isinstance(value, Failure) else value for name, value in row.items()}
                for file, row in self.clips.items()
            },
            "mean": {name: summary.mean for name, summary in self.summaries.items()},
            "counts": {name: summary.count for name, summary in self.summaries.items()},
            "failures": [asdict(failure) for failure in self.failures],
            "resampled": list(self.resampled),
            "clipped": list(self.clipped),
            "floored": list(self.floored),
            "metrics_version": self.version,
        }


@dataclass(frozen=True, kw_only=True)
class _FilePair:
    """A clip to score; `fault` is the reason why it cannot be scored, if any."""

    file: str
    clean: Path
    enhanced: Path
    metrics: tuple[str, ...]
    fault: str | None


@dataclass(frozen=True, kw_only=True)
class _ClipScores:
    file: str
    row: dict[str, float | Failure]
    failures: tuple[ClipFailure, ...]
    resampled: bool = False
    clipped: bool = False
    floored: bool = False


def score_folders(
    clean: Path,
    enhanced: Path,
    *,
    metrics: Sequence[str] = FOLDER_METRICS,
    workers: int | None = None,
    strict: bool = False,
) -> FolderScores:
    """Score every clip of `enhanced` against the clip of the same name in `clean`.

    Files are paired by their relative path without extension. Clips at other rates are resampled to
    16 kHz. A clip that cannot be scored is a failure with a reason, and scoring continues. Scores are
    bit-identical for any number of workers.

    Args:
        clean, enhanced: folders, searched recursively.
        metrics: names from `rwsa.metrics.METRICS`.
        workers: processes with one thread each; default: one per core. 1 scores in this process.
        strict: stop at the first failure.

    Raises:
        InputError: a folder is missing, empty or shares no file with the other; a metric is
            unknown or its package missing; a worker was killed; with `strict`, the first failure.
    """
    names = tuple(metrics)
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise InputError(f"--workers is {workers}; at least 1 process is needed")
    check_metrics(names)
    pairs, extra = _pair(clean, enhanced, names)
    if strict:
        _raise_first(
            [
                *extra,
                *(ClipFailure(file=pair.file, reason=pair.fault) for pair in pairs if pair.fault is not None),
            ]
        )
    results = []
    with closing(_scored(pairs, workers)) as scored:
        for result in tqdm(scored, total=len(pairs), desc="score", unit="clip", disable=None):
            if strict:
                _raise_first(result.failures)
            results.append(result)
    failures = [*(failure for result in results for failure in result.failures), *extra]
    return FolderScores(
        clips={result.file: result.row for result in results},
        summaries=summarise(result.row for result in results),
        failures=tuple(sorted(failures, key=lambda failure: failure.file)),
        resampled=tuple(result.file for result in results if result.resampled),
        clipped=tuple(result.file for result in results if result.clipped),
        floored=tuple(result.file for result in results if result.floored),
        version=metrics_version(names),
    )


def _raise_first(failures: Sequence[ClipFailure]) -> None:
    if failures:
        raise InputError(f"{failures[0]}; correct or remove the file, or run without --strict")


def _pair(clean: Path, enhanced: Path, metrics: tuple[str, ...]) -> tuple[list[_FilePair], list[ClipFailure]]:
    """One pair per clean file, and a failure per enhanced file without a clean one."""
    references, estimates = _by_stem(clean), _by_stem(enhanced)
    if not references.keys() & estimates.keys():
        raise InputError(
            f"{enhanced}: shares no file name with {clean}; names must match, apart from the extension "
            f"(for example {next(iter(estimates))} and {next(iter(references))})"
        )
    pairs = []
    for stem, files in references.items():
        partners = estimates.get(stem, [])
        fault = _pairing_fault(files, clean, partners, enhanced)
        pairs += [
            _FilePair(
                file=path.relative_to(clean).as_posix(),
                clean=path,
                enhanced=partners[0] if partners else enhanced,
                metrics=metrics,
                fault=fault,
            )
            for path in files
        ]
    extra = [
        ClipFailure(file=path.relative_to(enhanced).as_posix(), reason=f"not in {clean}")
        for stem in estimates.keys() - references.keys()
        for path in estimates[stem]
    ]
    return sorted(pairs, key=lambda pair: pair.file), sorted(extra, key=lambda failure: failure.file)


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in find_audio(folder):
        files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return files


def _pairing_fault(files: list[Path], clean: Path, partners: list[Path], enhanced: Path) -> str | None:
    if not partners:
        return f"not in {enhanced}"
    for folder, same in ((clean, files), (enhanced, partners)):
        if len(same) > 1:
            return f"{folder} holds {' and '.join(path.name for path in same)}; keep one"
    return None


def _scored(pairs: list[_FilePair], workers: int) -> Generator[_ClipScores, None, None]:
    """Results in the order of `pairs`."""
    workers = min(workers, len(pairs))
    if workers == 1:
        from threadpoolctl import threadpool_limits  # part of the extra rwsa[metrics]

        # More BLAS threads are slower on short clips, and change the last bits.
        with threadpool_limits(1):
            yield from map(_score_pair, pairs)
        return
    # Spawned, not forked: a fork breaks threads of numba and torch in this process.
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from pool.map(_score_pair, pairs)
        except BrokenProcessPool as error:
            raise InputError(
                "a scoring process was killed, most likely for memory; use fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Limit processes started in the block to one thread.

    BLAS and OpenMP read the environment when they load, so setting it in the child is too late.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _score_pair(pair: _FilePair) -> _ClipScores:
    if pair.fault is not None:
        return _unscored(pair, pair.fault)
    try:
        (clean, clean_resampled), (enhanced, enhanced_resampled) = _read(pair.clean), _read(pair.enhanced)
    except InputError as error:
        return _unscored(pair, str(error))
    if len(clean) != len(enhanced):
        return _unscored(pair, f"clean has {len(clean)} samples at 16 kHz, enhanced {len(enhanced)}")
    row = score(clean, enhanced, pair.metrics)
    rated = row.keys() & {"csig", "covl"}
    return _ClipScores(
        file=pair.file,
        row=row,
        failures=_failures(pair.file, row),
        resampled=clean_resampled or enhanced_resampled,
        clipped=any(clipped_share(wav) > CLIPPED_SHARE for wav in (clean, enhanced)),
        floored=any(row[name] == 1.0 for name in rated) and floored_by_silence(clean, enhanced),
    )


def _read(path: Path) -> tuple[np.ndarray, bool]:
    """A mono clip at 16 kHz, `[samples]`, and whether it was resampled."""
    wav, rate_hz = read_audio(path)
    if len(wav) != 1:
        raise InputError(f"{path}: has {len(wav)} channels where one is expected; mix it down first")
    return resample(wav[0], rate_hz, SAMPLE_RATE_HZ), rate_hz != SAMPLE_RATE_HZ


def _unscored(pair: _FilePair, reason: str) -> _ClipScores:
    row: dict[str, float | Failure] = dict.fromkeys(pair.metrics, Failure(reason))
    return _ClipScores(file=pair.file, row=row, failures=(ClipFailure(file=pair.file, reason=reason),))


def _failures(file: str, row: dict[str, float | Failure]) -> tuple[ClipFailure, ...]:
    """One failure per metric, or one for the clip if all metrics failed for the same reason."""
    failed = {name: value.reason for name, value in row.items() if isinstance(value, Failure)}
    reasons = set(failed.values())
    if len(failed) == len(row) and len(reasons) == 1:
        return (ClipFailure(file=file, reason=reasons.pop()),)
    return tuple(ClipFailure(file=file, metric=name, reason=reason) for name, reason in failed.items())


def format_table(scores: FolderScores) -> str:
    """Means and counts as text, followed by the failures with their reasons."""
    width = max(map(len, ("metric", *scores.summaries)))
    lines = [f"{'metric':<{width}}{'mean':>10}  {'unit':<8}{'clips':>6}{'failed':>8}"]
    for name, summary in scores.summaries.items():
        mean = "–" if summary.mean is None else f"{summary.mean:.3f}"
        unit = METRICS[name].unit
        lines.append(f"{name:<{width}}{mean:>10}  {unit:<8}{summary.count:>6}{summary.failures:>8}")
    lines += _listing("failures", [str(failure) for failure in scores.failures])
    lines += _listing("resampled to 16 kHz before scoring", scores.resampled)
    lines += _listing("clipped in either folder, scored anyway", scores.clipped)
    lines += _listing("CSIG and COVL are 1 due to digital silence, as in CMGAN", scores.floored)
    return "\n".join(lines)


def _listing(title: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    omitted = len(entries) - _LISTED_FAILURES
    more = [f"  … and {omitted} more"] if omitted > 0 else []
    return [f"{title} ({len(entries)}):", *(f"  {entry}" for entry in entries[:_LISTED_FAILURES]), *more]
