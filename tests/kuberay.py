"""The manifests of infra/kuberay, built."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.kustomize import build

KUBERAY = Path(__file__).parents[1] / "infra" / "kuberay"
OVERLAYS = ("one-node", "many-nodes")
Resource = dict[str, Any]


@cache
def built(overlay: str, *components: str) -> list[Resource]:
    """An overlay with components added. Shared by tests, which must not change it."""
    return build(KUBERAY / overlay, tuple(f"../components/{name}" for name in components))


def one(resources: list[Resource], kind: str, name: str) -> Resource:
    """The resource of a kind and name."""
    (found,) = [r for r in resources if (r["kind"], r["metadata"]["name"]) == (kind, name)]
    return found


def cluster_of(resources: list[Resource]) -> Resource:
    """The `RayCluster`, or the `RayJob` that brings one."""
    (found,) = [r for r in resources if r["kind"] in ("RayCluster", "RayJob")]
    return found


def ray_groups(resources: list[Resource]) -> dict[str, Resource]:
    """The head's and the workers' groups, by name."""
    spec = cluster_of(resources)["spec"]
    spec = spec.get("rayClusterSpec", spec)
    workers = {group["groupName"]: group for group in spec.get("workerGroupSpecs", [])}
    return {"head": spec["headGroupSpec"], **workers}


def pods(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """The specification of every pod, by name."""
    for name, group in ray_groups(resources).items():
        yield name, group["template"]["spec"]
    for resource in resources:
        if resource["kind"] in ("Deployment", "StatefulSet"):
            yield resource["metadata"]["name"], resource["spec"]["template"]["spec"]


def environment(resources: list[Resource]) -> dict[str, str]:
    """What the config map of settings gives to every Ray container."""
    data: dict[str, str] = one(resources, "ConfigMap", "rwsa")["data"]
    return data


def gibibytes(quantity: str) -> float:
    """A quantity of Kubernetes in Gi, Mi or Ti."""
    return float(quantity[:-2]) * {"Mi": 2**-10, "Gi": 1, "Ti": 2**10}[quantity[-2:]]
