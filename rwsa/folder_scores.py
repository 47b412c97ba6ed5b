"""Score a folder of enhanced clips against a folder of clean clips."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rwsa.audio import read_audio, resample, rms
from rwsa.audio_facts import CLIPPED_SHARE, clipped_share
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.folder_pairs import ClipFailure, FilePair, pair_files
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
from rwsa.names import shown
from rwsa.process import THREAD_VARIABLES

FOLDER_METRICS = (*TABLE1_METRICS, "csig", "cbak", "covl")
_LISTED_FAILURES = 20
# A clip counts as offset if its mean exceeds this share of its RMS; speech stays far below.
_OFFSET_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class FolderScores:
    """Result of `score_folders`.

    Attributes:
        clips: value or failure by file (as named in the clean folder) and metric; sorted by file.
        summaries: for each metric its mean over values, and the counts of values and failures.
        failures: all failures, including files that exist in one folder only.
        resampled: files not at 16 kHz in either folder.
        clipped: files clipped in either folder; see `rwsa.audio_facts.AudioFacts`. They are scored.
        offset: files with a DC offset of more than a tenth of the RMS in either folder. They are scored; an
            offset that both share raises SI-SDR.
        trimmed: files cut to the shorter of the two clips, and by how many samples at 16 kHz.
        floored: files whose CSIG and COVL are 1 due to digital silence; see `rwsa.metrics.composite.llr`.
        version: of the metrics; see `rwsa.metrics.metrics_version`.
    """

    clips: dict[str, dict[str, float | Failure]]
    summaries: dict[str, Summary]
    failures: tuple[ClipFailure, ...]
    resampled: tuple[str, ...]
    clipped: tuple[str, ...]
    offset: tuple[str, ...]
    trimmed: dict[str, int]
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
            "offset": list(self.offset),
            "trimmed": self.trimmed,
            "floored": list(self.floored),
            "metrics_version": self.version,
        }


@dataclass(frozen=True, kw_only=True)
class _ClipScores:
    file: str
    row: dict[str, float | Failure]
    failures: tuple[ClipFailure, ...]
    resampled: bool = False
    clipped: bool = False
    offset: bool = False
    trimmed: int = 0
    floored: bool = False


def score_folders(
    clean: Path,
    enhanced: Path,
    *,
    metrics: Sequence[str] = FOLDER_METRICS,
    workers: int | None = None,
    strict: bool = False,
    trim: bool = False,
) -> FolderScores:
    """Score every clip of `enhanced` against the clip of the same name in `clean`.

    Files are paired by their relative path without extension, in any Unicode normal form. Clips at other
    rates are resampled to 16 kHz; resampled clips whose lengths differ by no more than one sample at the
    lower rate are cut to the shorter one. A clip that cannot be scored is a failure with a reason, and
    scoring continues. Scores are bit-identical for any number of workers.

    Args:
        clean, enhanced: folders, searched recursively.
        metrics: names from `rwsa.metrics.METRICS`.
        workers: processes with one thread each; default: one per core. 1 scores in this process.
        strict: stop at the first failure.
        trim: cut clips whose lengths differ at the end of the longer one; otherwise they are failures.

    Raises:
        InputError: a folder is missing, empty or shares no file with the other; a metric is
            unknown or its package missing; a worker was killed; with `strict`, the first failure.
    """
    names = tuple(metrics)
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise InputError(f"--workers is {workers}; at least 1 process is needed")
    check_metrics(names)
    pairs, extra = pair_files(clean, enhanced)
    if strict:
        _raise_first(
            [
                *extra,
                *(ClipFailure(file=pair.file, reason=pair.fault) for pair in pairs if pair.fault is not None),
            ]
        )
    results = []
    with closing(_scored(pairs, workers, partial(_score_pair, metrics=names, trim=trim))) as scored:
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
        offset=tuple(result.file for result in results if result.offset),
        trimmed={result.file: result.trimmed for result in results if result.trimmed},
        floored=tuple(result.file for result in results if result.floored),
        version=metrics_version(names),
    )


def _raise_first(failures: Sequence[ClipFailure]) -> None:
    if failures:
        raise InputError(f"{failures[0]}; correct or remove the file, or run without --strict")


def _scored(
    pairs: list[FilePair], workers: int, work: Callable[[FilePair], _ClipScores]
) -> Generator[_ClipScores, None, None]:
    """Results in the order of `pairs`."""
    workers = min(workers, len(pairs))
    if workers == 1:
        from threadpoolctl import threadpool_limits  # part of the extra rwsa[metrics]

        # More BLAS threads are slower on short clips, and change the last bits.
        with threadpool_limits(1):
            yield from map(work, pairs)
        return
    # Spawned, not forked: a fork breaks threads of numba and torch in this process.
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from pool.map(work, pairs)
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


def _score_pair(pair: FilePair, *, metrics: tuple[str, ...], trim: bool) -> _ClipScores:
    if pair.fault is not None:
        return _unscored(pair.file, metrics, pair.fault)
    try:
        (clean, clean_hz), (enhanced, enhanced_hz) = _read(pair.clean), _read(pair.enhanced)
    except InputError as error:
        return _unscored(pair.file, metrics, str(error))
    samples = min(len(clean), len(enhanced))
    difference = max(len(clean), len(enhanced)) - samples
    if difference > _rounding_samples(clean_hz, enhanced_hz) and not trim:
        lengths = f"clean has {len(clean)} samples at 16 kHz, enhanced {len(enhanced)}"
        return _unscored(
            pair.file, metrics, f"{lengths}; align them, or cut the end of the longer clip by --trim"
        )
    clean, enhanced = clean[:samples], enhanced[:samples]
    row = score(clean, enhanced, metrics)
    rated = row.keys() & {"csig", "covl"}
    return _ClipScores(
        file=pair.file,
        row=row,
        failures=_failures(pair.file, row),
        resampled=clean_hz != SAMPLE_RATE_HZ or enhanced_hz != SAMPLE_RATE_HZ,
        clipped=any(clipped_share(wav) > CLIPPED_SHARE for wav in (clean, enhanced)),
        offset=any(
            abs(float(wav.mean(dtype=np.float64))) > _OFFSET_SHARE * rms(wav) for wav in (clean, enhanced)
        ),
        trimmed=difference,
        floored=any(row[name] == 1.0 for name in rated) and floored_by_silence(clean, enhanced),
    )


def _rounding_samples(*rates_hz: int) -> int:
    """By how much lengths at 16 kHz differ since a duration is no whole number of samples at another rate."""
    if set(rates_hz) == {SAMPLE_RATE_HZ}:
        return 0
    return math.ceil(SAMPLE_RATE_HZ / min(*rates_hz, SAMPLE_RATE_HZ))


def _read(path: Path) -> tuple[np.ndarray, int]:
    """A mono clip resampled to 16 kHz, `[samples]`, and its own rate."""
    wav, rate_hz = read_audio(path)
    if len(wav) != 1:
        raise InputError(f"{shown(path)}: has {len(wav)} channels where one is expected; mix it down first")
    return resample(wav[0], rate_hz, SAMPLE_RATE_HZ), rate_hz


def _unscored(file: str, metrics: tuple[str, ...], reason: str) -> _ClipScores:
    row: dict[str, float | Failure] = dict.fromkeys(metrics, Failure(reason))
    return _ClipScores(file=file, row=row, failures=(ClipFailure(file=file, reason=reason),))


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
    lines += _listing(
        "with a DC offset in either folder, which changes SI-SDR and SSNR; remove it", scores.offset
    )
    trimmed = [f"{shown(file)}: by {count} samples at 16 kHz" for file, count in scores.trimmed.items()]
    lines += _listing("cut to the length of the shorter clip", trimmed)
    lines += _listing("CSIG and COVL are 1 due to digital silence, as in CMGAN", scores.floored)
    return "\n".join(lines)


def _listing(title: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    omitted = len(entries) - _LISTED_FAILURES
    more = [f"  … and {omitted} more"] if omitted > 0 else []
    return [
        f"{title} ({len(entries)}):",
        *(f"  {shown(entry)}" for entry in entries[:_LISTED_FAILURES]),
        *more,
    ]
