"""Arithmetic and packages move a fingerprint; docstrings, comments and unrelated modules do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluate import LOGGING
from pipelines.evaluation.score_cache import ENHANCING, MIXING, SCORING, TABLE1_SCORING
from rwsa import fingerprint
from rwsa.fingerprint import SAME_NUMBERS, current_fingerprint, installed_version, modules_reached

CHECKOUT = Path(__file__).parents[2]
RATIOS = '''
"""Ratios."""

class Ratio:
    """A ratio."""

    floor: float = 0.0
    """The least."""

def ratio(a, b):
    """Divide."""
    # By b.
    return a / b
'''


def of_text(
    text: str, monkeypatch: pytest.MonkeyPatch, folder: Path, packages: tuple[str, ...] = ("numpy",)
) -> str:
    """The fingerprint of `rwsa.metrics.snr`, if this were its text."""
    (folder / "snr.py").write_text(text)
    path = fingerprint._path
    monkeypatch.setattr(
        fingerprint,
        "_path",
        lambda name: folder / "snr.py" if name == "rwsa.metrics.snr" else path(name),
    )
    return current_fingerprint(("rwsa.metrics.snr",), packages)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Ratios.", "Ratios of energies."),
        ("A ratio.", "Energy over energy."),
        ("The least.", "In dB."),
        ("Divide.", "Return the quotient."),
        ("# By b.", "# Zero raises."),
        ("a / b", "(a / b)"),
        ('    """Divide."""\n', ""),
    ],
)
def test_words_and_layout_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    assert before in RATIOS
    first = of_text(RATIOS, monkeypatch, tmp_path)
    assert of_text(RATIOS.replace(before, after), monkeypatch, tmp_path) == first


@pytest.mark.parametrize(("before", "after"), [("a / b", "b / a"), ("= 0.0", "= 1e-9"), ("a, b", "a, b=1")])
def test_arithmetic_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str) -> None:
    first = of_text(RATIOS, monkeypatch, tmp_path)
    assert of_text(RATIOS.replace(before, after), monkeypatch, tmp_path) != first


def test_versions_of_packages_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        of_text(RATIOS, monkeypatch, tmp_path, packages)
        for packages in ((), ("numpy",), ("no-such-package",), ("numpy", "scipy"))
    }
    assert len(found) == 4
    first = of_text(RATIOS, monkeypatch, tmp_path)
    monkeypatch.setattr(fingerprint, "installed_version", lambda package: "0.0.1")
    assert of_text(RATIOS, monkeypatch, tmp_path) != first


def test_a_docstring_of_a_real_metric_does_not_count_and_its_arithmetic_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (CHECKOUT / "rwsa/metrics/snr.py").read_text()
    first = of_text(text, monkeypatch, tmp_path)
    assert first == current_fingerprint(("rwsa.metrics.snr",), ("numpy",))
    assert text.count("    Source: ") >= 2
    assert text.count("10 * ") >= 1
    assert of_text(text.replace("    Source: ", "    See: "), monkeypatch, tmp_path) == first
    assert of_text(text.replace("10 * ", "20 * ", 1), monkeypatch, tmp_path) != first


@pytest.mark.parametrize(
    ("covered", "most", "includes"),
    [
        (SCORING, 17, {"rwsa.metrics", "rwsa.metrics.snr", "rwsa.metrics.composite"}),
        (
            ENHANCING,
            51,
            {
                "rwsa.models.unet",
                "rwsa.kernels.scan_loops",
                "rwsa.enhancement.overlap_add",
                "rwsa.stft",
            },
        ),
        (MIXING, 17, {"rwsa.mixing.reverberation", "rwsa.mixing.levels", "rwsa.audio"}),
    ],
)
def test_keys_of_scores_cover_few_modules(
    covered: tuple[tuple[str, ...], ...], most: int, includes: set[str]
) -> None:
    found = modules_reached(covered[0])
    assert includes <= found
    assert len(found) <= most, sorted(found)
    unrelated = (
        "rwsa.training",
        "rwsa.corpora",
        "rwsa.shards",
        "rwsa.cli",
        "rwsa.errors",
        "rwsa.files",
        "pipelines",
    )
    assert not [name for name in found if name.startswith(unrelated)]
    assert covered is SCORING or not [name for name in found if name.startswith("rwsa.metrics")]


def test_the_key_of_an_evaluation_covers_what_is_made_of_its_scores() -> None:
    found = modules_reached(LOGGING[0], LOGGING[2])
    assert {"pipelines.reports.evaluation_log", "pipelines.evaluation.results", "rwsa.statistics"} <= found
    assert len(found) <= 32, sorted(found)
    assert not [name for name in found if name.startswith(("pipelines.core", "rwsa.models"))]


def pinned(packages: tuple[str, ...]) -> bool:
    lines = (CHECKOUT / "infra/constraints.txt").read_text().splitlines()
    versions = {package: str(installed_version(package)) for package in packages}
    if versions.get("torch", "+cpu").partition("+")[2] != "cpu":
        return False  # the table is of torch's CPU build
    return all(f"{name}=={version.partition('+')[0]}" in lines for name, version in versions.items())


@pytest.mark.parametrize(
    ("covered", "stored"),
    [
        (SCORING, "4c10975764b0918ecae2a7fb63550d48ba1d58c723095478122301ad5758de24"),
        (TABLE1_SCORING, "2d03f76421609ee075a8a98e651e8ebff28fc18f67cf91aa86645e55c15e8f03"),
        (MIXING, "5bf499aae371f9526bfa161834401141e0a9e0608284323682a8c4115f280fd2"),
    ],
)
def test_scores_stored_by_an_earlier_commit_are_valid(
    covered: tuple[tuple[str, ...], tuple[str, ...]], stored: str
) -> None:
    if not pinned(covered[1]):
        pytest.skip("packages differ from infra/constraints.txt")
    found = current_fingerprint(*covered)
    assert SAME_NUMBERS.get(found) == stored, (
        f"the code of {covered[0]} changed. If no number did (tests/golden and its own tests pass), replace"
        f" the left side of {stored} in rwsa.fingerprint.SAME_NUMBERS by {found};"
        " if one did, remove that row and this case"
    )
