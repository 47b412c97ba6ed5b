"""Reading cards: all cards in datasets/ are valid, the local ones can be scanned, mistakes are named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from rwsa.corpora import read_card, scan
from rwsa.errors import InputError

CHECKOUT = Path(__file__).parents[3]
CARDS = sorted((CHECKOUT / "datasets").glob("*.yaml"))
ROOTS = ("VB_DEMANDEX", "DNS2020", "EARS_WHAM_V2", "LIBRISPEECH", "ESC50", "WHAM", "VCTK", "DEMAND")
ROOTS += ("EARS", "WHAM_48K", "RIRS_NOISES")
DATA = Path(os.environ.get("RWSA_DATA", CHECKOUT / "../shared/data"))
# Paper, Table 1 (arXiv 2510.01958).
NOISY_ROWS = {
    "vb-demandex": (1.625, -1.068, 0.630, 4.976),
    "dns2020": (1.582, 6.218, 0.810, 9.071),
    "ears-wham-v2": (1.235, -0.803, 0.640, 5.359),
}


def write_card(folder: Path, **keys: Any) -> Path:
    place = {"root": str(folder), "pattern": "(?P<speaker>.)/.+", "split": "test"}
    plain = {"name": "toy", "description": "d", "sample_rate_hz": 16_000, "licence": "CC0", "speech": [place]}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (plain | keys).items() if v is not None}))
    return path


def test_datasets_holds_no_python() -> None:
    assert not list((CHECKOUT / "datasets").rglob("*.py"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_every_card_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ROOTS:
        monkeypatch.setenv(f"{name}_ROOT", "/somewhere")
    card = read_card(path)
    assert card.name == path.stem.replace("_", "-")
    assert card.get
    assert (card.evaluation is None) == bool(card.pairs)
    if card.evaluation is not None:
        assert Path(card.evaluation.recipe).parent == path.parent / "recipes"
        assert Path(card.evaluation.recipe).is_file()
    if card.noisy_row is not None:
        row = card.noisy_row
        assert (row.pesq, row.ssnr, row.estoi, row.si_sdr) == NOISY_ROWS[card.name]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("libri_esc50", {"train": (435, 955, 0), "valid": (40, 142, 0), "test": (84, 168, 0)}),
        ("commands_urban", {"test": (140, 150, 0)}),
        ("voices_ambient", {"test": (160, 16, 0)}),
        ("pairs_vbdmd", {"test": (0, 0, 34)}),
        ("pairs_dns2020", {"test": (0, 0, 3)}),
    ],
)
def test_local_cards_find_all_files(
    name: str, counts: dict[str, tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no recordings at {DATA}; set RWSA_DATA")
    monkeypatch.setenv("RWSA_DATA", str(DATA))
    manifest = scan(read_card(CHECKOUT / "datasets" / f"{name}.yaml"), strict=True)
    found = {
        split: (len(manifest.speech(split)), len(manifest.noise(split)), len(manifest.pairs_of(split)))
        for split in counts
    }
    assert found == counts
    assert len(manifest.clips) + len(manifest.pairs) == sum(map(sum, counts.values()))
    assert manifest.left_out == 0


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VB_DEMANDEX_ROOT", raising=False)
    with pytest.raises(
        InputError, match=r"vb_demandex\.yaml: 'pairs\.0\.root' uses \$\{VB_DEMANDEX_ROOT\}, which is not set"
    ):
        read_card(CHECKOUT / "datasets/vb_demandex.yaml")


def test_a_relative_root_is_relative_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"root": "recordings", "pattern": ".+", "split": "test"}
    card = read_card(write_card(tmp_path, speech=[place]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"no folder {tmp_path}/recordings"):
        scan(card)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"licens": "CC0"}, "unknown key 'licens'; did you mean 'licence'"),
        ({"speech": [{"root": ".", "patern": ".", "split": "test"}]}, "did you mean 'pattern'"),
        ({"evaluation": {"recipee": "x", "examples": 1}}, "did you mean 'recipe'"),
        ({"licence": None}, "missing key 'licence'"),
        ({"sample_rate_hz": "fast"}, "'sample_rate_hz' is 'fast'"),
        ({"sample_rate_hz": 0}, "sample_rate_hz is 0"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"speech": []}, "none of speech, noise and pairs"),
        (
            {"speech": [{"root": ".", "pattern": "(", "split": "test"}]},
            r"speech\[0\]\.pattern: .* not a regular",
        ),
        (
            {"speech": [{"root": ".", "pattern": ".", "split": "test", "exclude": ["["]}]},
            r"speech\[0\]\.exclude",
        ),
        ({"noise": [{"root": ".", "pattern": "(?P<room>.)", "split": "test"}]}, "group 'room'; valid: split"),
        ({"noise": [{"root": ".", "pattern": "."}]}, r"noise\[0\]: gives no split"),
        ({"noise": [{"root": ".", "pattern": "(?P<split>.)", "split": "test"}]}, "gives split twice"),
        ({"noise": [{"root": ".", "pattern": ".", "split": "dev"}]}, "'train', 'valid' or 'test'"),
        (
            {"noise": [{"root": ".", "pattern": "(?P<clip>.)", "splits": {"test": {"speaker": ["a"]}}}]},
            r"noise\[0\]\.splits\.test: the pattern has no group 'speaker'",
        ),
        (
            {"pairs": [{"root": ".", "clean": "(?P<pair>.)", "noisy": ".", "split": "test"}]},
            r"noisy: has no group",
        ),
    ],
)
def test_mistakes_in_cards_are_named(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = write_card(tmp_path, **keys)
    with pytest.raises(InputError, match=message) as raised:
        read_card(path)
    assert str(raised.value).startswith(str(path))


def test_a_missing_card(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml"):
        read_card(tmp_path / "none.yaml")
