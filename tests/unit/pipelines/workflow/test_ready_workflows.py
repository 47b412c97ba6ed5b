"""The workflows in pipelines/workflows: read, resolved and ordered, in full and at smoke scale."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from pipelines.run import status
from pipelines.workflow.prepare import Preparation
from pipelines.workflow.schema import read_workflow
from pipelines.workflow.steps import Step, steps_of
from pipelines.workflow.verbs import VERBS
from rwsa.corpora.cards import read_card

CHECKOUT = Path(__file__).parents[4]
FOLDER = CHECKOUT / "pipelines" / "workflows"
# Steps by name in the file: how many in full, and at smoke scale.
PLANS = {
    "demo": ({"mix": 1, "page": 1, "train": 1, "evaluate": 1, "sweep": 1, "enhance": 1},) * 2,
    "starter": ({"fetch": 1, "mix": 1, "page": 1, "train": 1, "evaluate": 1, "enhance": 1},) * 2,
    "paper": (
        {"import": 1, "verify": 1, "train": 24, "evaluate": 1, "register": 8, "register-best": 1},
        {"import": 1, "verify": 1, "train": 2, "evaluate": 1, "register": 1, "register-best": 1},
    ),
    "ablation": ({"mix": 1, "sweep": 1, "domain-gap": 1, "trade-off": 1},) * 2,
    "generalise": (
        {"mix": 3, "domain-gap": 1, "train": 18, "evaluate": 1},
        {"mix": 2, "domain-gap": 1, "train": 2, "evaluate": 1},
    ),
    "results": tuple(
        {
            **{"choose": 1, "train": 2, "train-larger": 1, "evaluate": 1, "publish": 2, "register": 2},
            **{"ablate": questions, "domain-gap": 1, "page": 1},
        }
        for questions in (4, 1)
    ),
    "at-scale": ({"mix": 1, "check": 1, "page": 1},) * 2,
}


def steps(name: str, *, smoke: bool) -> dict[str, Step]:
    return steps_of(read_workflow(FOLDER / f"{name}.yaml", smoke=smoke))


def test_every_workflow_has_a_plan_and_says_what_it_is_for() -> None:
    files = sorted(FOLDER.glob("*.yaml"))
    assert [path.stem for path in files] == sorted(PLANS)
    for path in files:
        head = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
        assert head is not None, path
        assert re.search(r"minutes|days", head[0]), f"{path}: how long does it take?"
        workflow = read_workflow(path)
        assert (workflow.name, workflow.storage.experiment) == (path.stem, path.stem)
        assert workflow.description
        assert workflow.smoke, f"{path}: has no parameters for a smoke run"


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_plan(name: str, smoke: bool) -> None:
    found = steps(name, smoke=smoke)
    assert Counter(step.base for step in found.values()) == PLANS[name][smoke]
    done = set[str]()
    for step in found.values():
        assert done.issuperset(step.needs)
        done.add(step.name)


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_the_files_that_a_workflow_names_exist(name: str, smoke: bool) -> None:
    params = read_workflow(FOLDER / f"{name}.yaml", smoke=smoke).params
    named = [item for value in params.values() for item in (value if isinstance(value, list) else [value])]
    named += [f"{params['cards']}/{corpus}.yaml" for corpus in params.get("corpora", ())]
    for one in named:
        if str(one).endswith(".yaml"):
            assert (CHECKOUT / one).is_file(), one


def test_training_waits_for_the_noisy_row_and_registration_for_no_test_score() -> None:
    params = read_workflow(FOLDER / "paper.yaml").params
    assert params["corpus"] == params["training-pairs"], "what is verified is what is trained on"
    found = steps("paper", smoke=False)
    assert {"import", "verify"} <= set(found["train-xs-0"].needs)
    for step in found.values():
        if step.base.startswith("register"):
            assert {need.split("-")[0] for need in step.needs} == {"train"}
    assert found["register-m"].needs == ("train-m-0", "train-m-1", "train-m-2")


def test_every_ordered_pair_of_corpora_is_in_the_matrix() -> None:
    found = steps("generalise", smoke=False)
    trained = {step.variables["corpus"] for step in found.values() if step.base == "train"}
    assert set(found["evaluate"].needs) == {
        name for name, step in found.items() if step.base in ("mix", "train")
    }
    assert trained == {step.variables["corpus"] for step in found.values() if step.base == "mix"}
    assert found["train-xs-ears_wham-2"].needs == ("mix-ears_wham",)


def test_the_smoke_corpora_differ_in_their_noise_and_train_on_no_test_file(recordings: Path) -> None:
    cards = [read_card(FOLDER / "smoke" / f"{name}.yaml") for name in ("libri_nature", "libri_city")]
    patterns = [card.noise[0].pattern for card in cards]
    names = [
        path.relative_to(recordings / "esc50").as_posix() for path in (recordings / "esc50").rglob("*.ogg")
    ]
    of_card = [{name for name in names if re.fullmatch(pattern, name)} for pattern in patterns]
    assert of_card[0]
    assert of_card[1]
    assert not of_card[0] & of_card[1]
    assert of_card[0] | of_card[1] == set(names)
    (tests,) = read_card(FOLDER / "smoke" / "vbdmd.yaml").pairs
    assert tests.split == "test"
    (training,) = read_card(FOLDER / "smoke" / "libri_pairs.yaml").pairs
    assert training.noisy == training.clean


def test_the_example_of_the_readme_runs_in_its_order(tmp_path: Path) -> None:
    text = (CHECKOUT / "pipelines" / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(name: .*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "sizes.yaml").write_text(example[1])
    found = steps_of(read_workflow(tmp_path / "sizes.yaml", ["seeds=[0,1,2]"]))
    assert Counter(step.base for step in found.values()) == {
        "mix": 1,
        "train": 6,
        "evaluate": 1,
        "register": 1,
    }
    table = text[text.index("| verb | command |") :].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert set(re.findall(r"`([a-z-]+)`", " ".join(cells))) == set(VERBS)


def test_a_parameter_may_use_the_folder_of_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWSA_DATA", "/recordings")
    assert read_workflow(FOLDER / "demo.yaml").params["noisy"] == "/recordings/pairs/dns2020/noisy"
    monkeypatch.delenv("RWSA_DATA")
    assert read_workflow(FOLDER / "demo.yaml").params["noisy"] == "../shared/data/pairs/dns2020/noisy"


def test_the_results_are_published_and_shown_after_the_evaluation() -> None:
    found = steps("results", smoke=False)
    assert {"evaluate", "train-esc10"} <= set(found["publish-esc10"].needs)
    assert "train-esc50" not in found["publish-esc10"].needs
    assert {"choose", "ablate-sharing", "ablate-mixer", "evaluate"} <= set(found["page"].needs)


def test_a_plan_is_shown_without_the_recordings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VB_DEMANDEX_ROOT", raising=False)
    workflow = read_workflow(FOLDER / "paper.yaml", [f"storage.root={tmp_path}"])
    preparation = Preparation(workflow, steps_of(workflow))
    rows = {name: (state, why) for name, state, why in status(preparation, preparation.steps, ())}
    assert rows["import"][0] == rows["verify"][0] == "invalid"
    assert "export VB_DEMANDEX_ROOT=" in rows["import"][1]
    assert rows["train-m-2"] == ("waiting", "for import, verify")
