"""All metrics of the published pairs' noisy files against an independent implementation."""

import os
from pathlib import Path

import pytest

from rwsa.files import read_json
from rwsa.folder_scores import score_folders

CHECKOUT = Path(__file__).parents[2]
PAIRS = CHECKOUT / os.environ.get("RWSA_DATA", "../shared/data") / "pairs"
TOLERANCES = {
    "pesq": 0.005,
    "ssnr": 0.01,
    "estoi": 0.001,
    "si_sdr": 0.01,
    "csig": 0.01,
    "cbak": 0.01,
    "covl": 0.01,
}

pytestmark = pytest.mark.skipif(
    not (PAIRS / "golden_metrics.json").is_file(), reason=f"no published pairs in {PAIRS}; set RWSA_DATA"
)


@pytest.fixture(scope="module")
def golden():
    return read_json(PAIRS / "golden_metrics.json")


@pytest.fixture(scope="module")
def measured(golden):
    corpora = sorted({clip.partition("/")[0] for clip in golden})
    found = {}
    for corpus in corpora:
        scores = score_folders(PAIRS / corpus / "clean", PAIRS / corpus / "noisy", workers=2)
        found |= {f"{corpus}/{file}": row for file, row in scores.as_json()["clips"].items()}
    return found


def test_all_golden_pairs_are_scored(golden, measured):
    assert measured.keys() == golden.keys()
    assert len(golden) == 37


@pytest.mark.parametrize("metric", TOLERANCES)
def test_agreement(golden, measured, metric):
    expected = {clip: row[metric] for clip, row in golden.items()}
    assert {clip: row[metric] for clip, row in measured.items()} == pytest.approx(
        expected, abs=TOLERANCES[metric], rel=0
    )
