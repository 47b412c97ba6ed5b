"""Weights in MLflow's Model Registry: what lies there, what is refused, and the model served over HTTP."""

from __future__ import annotations

import ast
import json
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from safetensors.torch import load_file

import rwsa
from pipelines.core import served_model
from pipelines.core.lineage import TRAINING_KIND, WEIGHTS_TAG
from pipelines.core.model_registry import RegisteredVersion, requirements
from pipelines.core.step_records import StepContext, recorded_model
from pipelines.core.storage import StorageConfig
from pipelines.core.tracking import Tracker
from pipelines.register import main, register
from rwsa.audio import read_mono
from rwsa.audio_folders import find_audio
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.models import build_model, load_model, save_model
from rwsa.models.weights import weights_of
from tests.mlflow_server import model_server


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> StorageConfig:
    folder = tmp_path_factory.mktemp("store")
    return StorageConfig(root=str(folder), tracking_uri=f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def weights(storage: StorageConfig) -> Path:
    path = Path(storage.root) / "trained.safetensors"
    save_model(path, build_model("nano").eval())
    return path


@pytest.fixture(scope="module")
def training_run(storage: StorageConfig, weights: Path) -> str:
    """A made-up run that trained the weights."""
    params = {"index_sha256": "abc", "corpora": "toy", "recipe_hashes": "r", "data": {"shards": "/shards"}}
    with Tracker(storage).run("training", params=params) as run:
        run.tag(**{"rwsa.kind": TRAINING_KIND, WEIGHTS_TAG: sha256_of(weights)})
    return run.run_id


@pytest.fixture(scope="module")
def registered(storage: StorageConfig, weights: Path, training_run: str) -> RegisteredVersion:
    return register(weights, storage=storage)


@pytest.fixture(scope="module")
def model_folder(storage: StorageConfig, registered: RegisteredVersion) -> Path:
    version = Tracker(storage).client.get_model_version_by_alias(registered.name, registered.alias)
    return Path(version.source.removeprefix("file://"))


@pytest.fixture(scope="module")
def address(
    storage: StorageConfig, registered: RegisteredVersion, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with model_server(tmp_path_factory.mktemp("serving"), storage.tracking_uri, registered.uri) as address:
        yield address


def test_nothing_in_the_model_is_pickled(model_folder: Path, weights: Path) -> None:
    files = {path.relative_to(model_folder).as_posix(): path for path in find_files(model_folder)}
    assert {"MLmodel", "served_model.py", "artifacts/trained.safetensors"} <= files.keys()
    assert {"input_example.json", "requirements.txt"} <= files.keys()
    assert [name for name, path in files.items() if is_pickle(path.read_bytes())] == []
    assert [name for name in files if Path(name).suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin")] == []
    stored = load_file(files["artifacts/trained.safetensors"])
    assert stored.keys() == weights_of(load_model(weights)).keys()


def test_a_pickle_would_be_noticed() -> None:
    assert is_pickle(pickle.dumps({"weights": [1.0]}))
    assert not is_pickle(b"flavors:\n  python_function: {}\n")


def find_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def is_pickle(data: bytes) -> bool:
    """Whether bytes are a pickle from the first opcode to the last, or a zip, as torch writes them."""
    if data.startswith(b"PK\x03\x04"):
        return True
    try:
        return bool(list(pickletools.genops(data)))
    except (ValueError, IndexError):
        return False


def test_the_version_records_what_it_was_made_from(
    storage: StorageConfig, registered: RegisteredVersion, weights: Path, model_folder: Path
) -> None:
    client = Tracker(storage).client
    version = client.get_model_version(registered.name, registered.version)
    assert registered.name == "rwsa-nano"
    assert version.tags["weights_sha256"] == sha256_of(weights)
    assert version.tags["commit"]
    run = client.get_run(version.run_id)
    assert (run.info.status, run.data.params["model.channels"]) == ("FINISHED", "8")
    about = yaml.safe_load((model_folder / "MLmodel").read_text(encoding="utf-8"))
    assert [output.model_id for output in run.outputs.model_outputs] == [about["model_id"]]
    assert client.get_logged_model(about["model_id"]).status == "READY"
    columns = [(column["name"], column["type"]) for column in json.loads(about["signature"]["inputs"])]
    assert columns == [("wav", "array"), ("sample_rate_hz", "long")]
    listed = (model_folder / "requirements.txt").read_text(encoding="utf-8").split("\n")
    assert set(requirements()) <= set(listed)


def test_the_version_leads_back_to_the_data(
    storage: StorageConfig, registered: RegisteredVersion, training_run: str, weights: Path,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    version = Tracker(storage).client.get_model_version(registered.name, registered.version)
    assert version.tags["training_run"] == training_run
    assert (version.tags["index_sha256"], version.tags["corpora"]) == ("abc", "toy")
    assert f"runs/{training_run})" in version.description
    # In a workflow, the step records the version, also one that was there before.
    step = StepContext(workflow="toy", step="register", folder=str(tmp_path), run_id="0")
    for name, value in step.environment().items():
        monkeypatch.setenv(name, value)
    assert register(weights, storage=storage) == registered
    model = recorded_model(tmp_path)
    assert model is not None
    assert (model["name"], model["version"]) == (registered.name, registered.version)
    assert model["about"]["training_run"] == training_run


def test_requirements_are_bounded_on_both_sides() -> None:
    found = {requirement.name: requirement.specifier for requirement in map(Requirement, requirements())}
    assert {"rwsa", "torch", "numpy", "mlflow"} <= found.keys()
    assert not {"ray", "pytest", "pesq"} & found.keys()
    # fsspec is versioned by date and promises nothing by it.
    upper = {name for name, bounds in found.items() if {"<", "=="} & {bound.operator for bound in bounds}}
    assert found.keys() - upper == {"fsspec"}


def test_the_logged_file_needs_the_installed_library_alone() -> None:
    tree = ast.parse(Path(served_model.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    roots = {name.partition(".")[0] for name in imported if name is not None}
    assert roots == {"__future__", "typing", "mlflow", "numpy", "pandas", "rwsa"}


@pytest.mark.full
def test_a_served_model_enhances_real_recordings_as_the_library_does(
    address: str, weights: Path, recordings: Path
) -> None:
    files = [find_audio(recordings / "pairs" / corpus / "noisy")[0] for corpus in ("dns2020", "vbdmd")]
    wavs = [read_mono(path, 16_000)[: 32_000 - 7 * number] for number, path in enumerate(files)]
    rates_hz = [16_000, 8_000]
    rows = [{"wav": w.tolist(), "sample_rate_hz": r} for w, r in zip(wavs, rates_hz, strict=True)]
    model = load_model(weights)
    split = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    for payload in ({"dataframe_records": rows}, {"dataframe_split": split}):
        answers = posted(address, payload)["predictions"]
        for wav, rate_hz, answer in zip(wavs, rates_hz, answers, strict=True):
            assert answer["sample_rate_hz"] == rate_hz
            assert len(answer["wav"]) == len(wav)
            np.testing.assert_allclose(answer["wav"], rwsa.enhance(wav, rate_hz, model), atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"wav": [], "sample_rate_hz": 16_000}, "row 0: wav has shape"),
        ({"wav": [0.1] * 2000, "sample_rate_hz": 0}, "row 0: sample_rate_hz (0) must be positive"),
        ({"wav": [0.1] * 2000}, "missing inputs"),
    ],
)
def test_a_served_model_reports_the_fault_of_a_recording(
    address: str, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(HTTPError) as refused:
        posted(address, {"dataframe_records": [row]})
    with refused.value:
        assert refused.value.code == 400
        assert words in json.loads(refused.value.read())["message"]


def posted(address: str, payload: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(payload).encode()
    with urlopen(Request(address, data, {"Content-Type": "application/json"}), timeout=300) as answer:
        return dict(json.loads(answer.read()))


def test_what_cannot_be_registered_is_refused(
    storage: StorageConfig, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="no such file"):
        register(tmp_path / "none.safetensors", storage=storage)
    with pytest.raises(InputError, match="'xs' is a model size, not a weights file"):
        register(Path("xs"), storage=storage)
    with pytest.raises(InputError, match=r"--name 'a/b:c' .* MLflow refuses it"):
        register(weights, storage=storage, name="a/b:c")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    assert main(["--weights", str(tmp_path / "broken.safetensors")]) == 2
    assert "not a readable safetensors file" in capsys.readouterr().err
