"""The jobs of infra/kuberay: commands that exist, fit together and fit the cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.kuberay import OVERLAYS, built, environment, one, ray_groups
from tests.kuberay_jobs import options_of, words_of
from tests.kuberay_schema import check

CHECKOUT = Path(__file__).parents[3]
JOBS = ("mix", "train", "sweep", "workflow")


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_match_their_schema_and_run_existing_commands(overlay: str, job: str) -> None:
    resource = one(built(f"jobs/{overlay}"), "RayJob", job)
    check(resource)
    assert resource["metadata"]["labels"] == {"job": job}  # `kubectl create -l job=…` chooses one
    cluster = one(built(overlay), "RayCluster", "rwsa")["metadata"]
    assert resource["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["name"]}
    assert resource["metadata"]["namespace"] == cluster["namespace"]
    # In other modes, another container's shell would fill in the variables.
    assert resource["spec"]["submissionMode"] == "HTTPMode"
    python, dash, module, *words = words_of(overlay, job)
    assert (python, dash) == ("python", "-m")
    assert (CHECKOUT / Path(*module.split("."))).with_suffix(".py").is_file()
    in_image = [word.removeprefix("/app/") for word in words if word.startswith("/app/")]
    ours = [path for path in in_image if not path.startswith("outputs")]
    assert [path for path in ours if not (CHECKOUT / path).is_file()] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_shards_go_from_mix_to_train_to_sweep(overlay: str) -> None:
    mix, train, sweep = (options_of(overlay, job) for job in JOBS[:3])
    assert mix["--out"] == train["data.shards"] == sweep["data.shards"]
    assert mix["--out"] == ("s3://rwsa/shards" if overlay == "many-nodes" else "/app/outputs/shards")
    assert mix["--card"] == sweep["--corpora"] == "/app/outputs/recordings/card.yaml"
    assert train["--storage"] == sweep["--storage"] == mix["--out"].removesuffix("/shards")
    uri = environment(built(overlay))["MLFLOW_TRACKING_URI"]
    assert train["storage.tracking_uri"] == sweep["storage.tracking_uri"] == uri
    assert {"train", "valid"} <= set(words_of(overlay, "mix"))


def test_on_one_node_no_job_waits_for_what_it_lacks() -> None:
    (container,) = ray_groups(built("one-node"))["head"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    train = options_of("one-node", "train")
    needed = int(train["--workers"]) * int(train["--cpus-per-worker"])
    assert needed <= int(container["resources"]["limits"]["cpu"])
    assert "--gpu" not in train
    sweep = options_of("one-node", "sweep")
    assert "--gpu-trials" not in sweep
    smoke = yaml.safe_load((CHECKOUT / "tune" / "scales" / "smoke.yaml").read_text())
    assert "--smoke" in sweep
    assert smoke["cpus_per_worker"] <= int(container["resources"]["limits"]["cpu"])


def test_on_many_nodes_the_jobs_fit_the_largest_cluster() -> None:
    gpu = ray_groups(built("many-nodes"))["gpu"]
    (container,) = gpu["template"]["spec"]["containers"]
    train, sweep = options_of("many-nodes", "train"), options_of("many-nodes", "sweep")
    assert "--gpu" in train
    assert int(train["--workers"]) <= gpu["maxReplicas"]
    assert int(train["--cpus-per-worker"]) <= int(container["resources"]["limits"]["cpu"])
    assert int(sweep["--gpu-trials"]) <= gpu["maxReplicas"]


@pytest.mark.filterwarnings("ignore")  # what it imports
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_training_job_is_a_configuration(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.train import main

    assert main([*words_of(overlay, "train")[3:], "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    settings = environment(built(overlay))
    assert config["storage"]["root"] == settings["RWSA_STORAGE"]
    assert config["storage"]["tracking_uri"] == settings["MLFLOW_TRACKING_URI"]
    assert config["data"]["shards"] == settings["RWSA_SHARDS"]
    assert config["data"]["mix"] is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_sweeps_trials_train_on_the_shards(overlay: str) -> None:
    from tune.search_space import base_values, plan_trials
    from tune.sweep_config import read_sweep

    path, *rest = (word.removeprefix("/app/") for word in words_of(overlay, "sweep")[3:])
    config = read_sweep(CHECKOUT / path, smoke="--smoke" in rest)
    settings = [word for word in rest if "=" in word and not word.startswith("--")]
    trials = plan_trials(config, base_values(config, settings))
    assert {trial.train.data.shards for trial in trials} == {environment(built(overlay))["RWSA_SHARDS"]}
    assert {trial.train.data.mix for trial in trials} == {None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_workflow_is_one_of_the_image_and_uses_the_clusters_storage(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.run import main
    from pipelines.workflow.references import resolve
    from pipelines.workflow.schema import read_workflow
    from pipelines.workflow.steps import steps_of

    monkeypatch.chdir(CHECKOUT)  # /app in the image
    options = main.parser().parse_args(words_of(overlay, "workflow")[3:])
    workflow = read_workflow(options.workflow, options.settings, smoke=options.smoke)
    settings = environment(built(overlay))
    assert options.storage == settings["RWSA_STORAGE"]
    assert workflow.storage.tracking_uri == settings["MLFLOW_TRACKING_URI"]
    if overlay == "one-node":
        assert workflow.params["card"] == settings["RWSA_CARD"]
    else:
        roots = {name for card in (workflow.params["corpus"], *workflow.params["others"])
                 for name in re.findall(r"\$\{(\w+_ROOT)\}", (CHECKOUT / card).read_text())}  # fmt: skip
        assert len(roots) == 3
        assert all(settings[name].startswith("/app/outputs/recordings/") for name in roots)
    group = ray_groups(built(overlay))["head" if overlay == "one-node" else "cpu"]
    (container,) = group["template"]["spec"]["containers"]
    for step in steps_of(workflow).values():
        asked = {name: step.options.get(name) for name in ("workers", "gpu")}
        asked = resolve(asked, workflow.params, lambda *_: [], where=step.name)
        own = step.verb.cpus if step.cpus is None else step.cpus
        assert max(own, asked["workers"] or 1) <= int(container["resources"]["limits"]["cpu"]), step.name
        assert overlay == "many-nodes" or not (step.gpus or asked["gpu"]), step.name


@pytest.mark.filterwarnings("ignore")
def test_the_steps_of_a_stopped_workflow_have_time_to_save() -> None:
    """On Kubernetes, under SLURM and as a submitted job: they are killed before the workflow is."""
    from pipelines.workflow.run_step import _SECONDS_TO_END

    submitted = yaml.safe_load((CHECKOUT / "infra/ray/runtime_env.yaml").read_text())["env_vars"]
    script = (CHECKOUT / "infra/slurm/ray.sbatch").read_text()
    slurm = [*re.findall(r"RWSA_STOP_SECONDS:-(\d+)", script), *re.findall(r"--signal=B:USR1@(\d+)", script)]
    given = [slurm] + [
        [variables["RWSA_STOP_SECONDS"], variables["RAY_JOB_STOP_WAIT_TIME_S"]]
        for variables in (submitted, *(environment(built(overlay)) for overlay in OVERLAYS))
    ]
    for stop, killed in given:
        assert int(stop) + _SECONDS_TO_END < int(killed)
