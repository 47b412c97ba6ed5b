"""Licences of weights follow from those of their training data; the published tables have all their cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluation.published_tables import PEERS, read_published
from pipelines.publishing.data_facts import data_facts, licence_of_weights, training_licence

CARDS = Path(__file__).parents[3] / "datasets"


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["CC BY 4.0", "CC0 1.0"], "cc-by-4.0"),
        (["CC BY 4.0", "CC BY-NC 3.0"], "cc-by-nc-4.0"),
        (["CC BY-SA 3.0", "CC BY 3.0", "public domain"], "cc-by-sa-4.0"),
        (["CC BY-SA 3.0", "CC BY-NC-SA 4.0"], "cc-by-nc-4.0"),
        (["CC BY-NC 4.0", "as the DNS Challenge states for each of its sources"], "other"),
        ([], "other"),
    ],
)
def test_weights_keep_to_the_most_restrictive_licence(licences: list[str], expected: str) -> None:
    assert licence_of_weights(licences) == expected


def test_only_the_licence_of_training_data_counts() -> None:
    assert training_licence("CC BY 3.0 (training), CC BY-NC 3.0 (validation and test)") == "CC BY 3.0"
    assert training_licence("CC BY-NC 3.0") == "CC BY-NC 3.0"
    assert training_licence("mixed (CC BY 4.0, CC0)") == "mixed (CC BY 4.0, CC0)"


@pytest.mark.parametrize(
    ("card", "licence", "commercial"),
    [("libri_more_esc10", "cc-by-4.0", True), ("libri_more_esc50", "cc-by-nc-4.0", False)],
)
def test_the_cards_for_weights_of_our_own(
    recordings: Path, card: str, licence: str, commercial: bool
) -> None:
    facts = data_facts(CARDS / f"{card}.yaml")
    assert (facts.licence, facts.commercial) == (licence, commercial)
    (speech,) = (source for source in facts.sources if source["kind"] == "speech")
    assert (speech["speakers"], speech["licence"]) == (279, "CC BY 4.0")
    assert 1.4 < speech["hours"] < 1.6


def test_the_peers_are_on_the_published_pairs() -> None:
    table = read_published(PEERS)
    assert table.rows[0].model == "noisereduce"
    gtcrn = next(row for row in table.rows if row.model == "GTCRN")
    assert gtcrn.about == "0.024 M · DNS3"
    assert table.cells(gtcrn, "pairs-dns2020")["si_sdr"].mean == 13.12
    assert table.cells(table.rows[-1], "pairs-vbdmd") == {}
