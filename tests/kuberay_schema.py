"""Strict schemas of every kind in infra/kuberay: unknown fields are errors.

Those of KubeRay, Kueue and the Prometheus operator are written by hand: KubeRay's from its field reference
(1.7; `tests.kuberay_rules` knows which fields 1.6 lacks), the others with the fields that are used here. Pods
and all other kinds use Kubernetes's strict schemas.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
from referencing import Registry, Resource

KUBERNETES = "1.32"  # the oldest still supported when this was written
_CORE = "_definitions.json#/$defs/io.k8s.api.core.v1."
_TEXT, _YES_NO = {"type": "string"}, {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}


def _core(kind: str) -> dict[str, Any]:
    return {"$ref": f"{_CORE}{kind}"}


def _list(kind: str) -> dict[str, Any]:
    return _array(_core(kind))


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _fields(required: tuple[str, ...] = (), **known: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": known,
        "required": list(required),
        "additionalProperties": False,
    }


_AUTH = _fields(mode={"enum": ["disabled", "token"]}, secretName=_TEXT, enableK8sTokenAuth=_YES_NO)
_AUTOSCALER = _fields(
    resources=_core("ResourceRequirements"),
    image=_TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    securityContext=_core("SecurityContext"),
    idleTimeoutSeconds=_COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    env=_list("EnvVar"),
    envFrom=_list("EnvFromSource"),
    volumeMounts=_list("VolumeMount"),
    version={"enum": ["v1", "v2"]},
    command=_array(_TEXT),
    args=_array(_TEXT),
)
_GROUP = {
    "template": _core("PodTemplateSpec"),
    "rayStartParams": _TEXTS,
    "resources": _TEXTS,
    "labels": _TEXTS,
}
_HEAD = _fields(
    ("template",),
    **_GROUP,
    headService=_core("Service"),
    enableIngress=_YES_NO,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)
_WORKERS = _fields(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    **_GROUP,
    groupName=_TEXT,
    suspend=_YES_NO,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    idleTimeoutSeconds=_COUNT,
    priority={"type": "integer"},
    numOfHosts=_COUNT,
    scaleStrategy=_fields(workersToDelete=_array(_TEXT)),
)
_REDIS = _fields(value=_TEXT, valueFrom=_core("EnvVarSource"))
_CLUSTER = _fields(
    ("headGroupSpec",),
    suspend=_YES_NO,
    managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
    authOptions=_AUTH,
    autoscalerOptions=_AUTOSCALER,
    headServiceAnnotations=_TEXTS,
    enableInTreeAutoscaling=_YES_NO,
    upgradeStrategy=_fields(type={"enum": ["Recreate", "None"]}),
    gcsFaultToleranceOptions=_fields(
        redisAddress=_TEXT,
        redisUsername=_REDIS,
        redisPassword=_REDIS,
        externalStorageNamespace=_TEXT,
    ),
    headGroupSpec=_HEAD,
    rayVersion=_TEXT,
    workerGroupSpecs=_array(_WORKERS),
)
_JOB = _fields(
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=_COUNT,
    rayClusterSpec=_CLUSTER,
    submitterPodTemplate=_core("PodTemplateSpec"),
    metadata=_TEXTS,
    clusterSelector=_TEXTS,
    submitterConfig=_fields(backoffLimit=_COUNT),
    managedBy=_CLUSTER["properties"]["managedBy"],
    entrypoint=_TEXT,
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointResources=_TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=_COUNT,
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=_YES_NO,
    suspend=_YES_NO,
)
_RESOURCE_QUOTA = _fields(("name", "nominalQuota"), name=_TEXT, nominalQuota=_TEXT)
_FLAVOR_QUOTAS = _fields(("name", "resources"), name=_TEXT, resources=_array(_RESOURCE_QUOTA))
_SELECTOR = {"$ref": "_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"}
_RELABELING = _fields(("sourceLabels", "targetLabel"), sourceLabels=_array(_TEXT), targetLabel=_TEXT)
_ENDPOINT = _fields(("port",), port=_TEXT, interval=_TEXT, relabelings=_array(_RELABELING))
# The kinds that are not Kubernetes's own, with the versions of their APIs.
_SPECS = {
    "RayCluster": ("ray.io/v1", _CLUSTER),
    "RayJob": ("ray.io/v1", _JOB),
    "PodMonitor": (
        "monitoring.coreos.com/v1",
        _fields(
            ("selector", "podMetricsEndpoints"),
            selector=_SELECTOR,
            podMetricsEndpoints={"type": "array", "minItems": 1, "items": _ENDPOINT},
        ),
    ),
    "ResourceFlavor": ("kueue.x-k8s.io/v1beta1", _fields(nodeLabels=_TEXTS)),
    "LocalQueue": ("kueue.x-k8s.io/v1beta1", _fields(("clusterQueue",), clusterQueue=_TEXT)),
    "ClusterQueue": (
        "kueue.x-k8s.io/v1beta1",
        _fields(
            ("namespaceSelector", "resourceGroups"),
            namespaceSelector=_SELECTOR,
            resourceGroups={
                "type": "array",
                "items": _fields(
                    ("coveredResources", "flavors"),
                    coveredResources=_array(_TEXT),
                    flavors=_array(_FLAVOR_QUOTAS),
                ),
            },
        ),
    ),
}


def check(resource: dict[str, Any]) -> None:
    """Validate a resource; one of Kubernetes's own by its oldest supported and its newest version.

    Raises:
        jsonschema.ValidationError: it has a field that its kind does not define, or lacks a required one.
    """
    if resource["kind"] in _SPECS:
        _validator(resource["kind"], KUBERNETES).validate(resource)
        return
    group, _, version = resource["apiVersion"].rpartition("/")
    name = "-".join(part for part in (resource["kind"], group.split(".")[0], version) if part).lower()
    for kubernetes in (KUBERNETES, kubernetes_validate.latest_version()):
        _validator(name, kubernetes.removesuffix(".0")).validate(resource)


@cache
def _validator(kind: str, kubernetes: str) -> jsonschema.Draft202012Validator:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{kubernetes}.0-local-strict"
    if kind in _SPECS:
        version, spec = _SPECS[kind]
        schema = _fields(
            ("apiVersion", "kind", "metadata", *(["spec"] if spec["required"] else [])),
            apiVersion={"const": version},
            kind={"const": kind},
            metadata={"$ref": "_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
            spec=spec,
        )
    else:
        schema = json.loads((folder / f"{kind}.json").read_text())
    known = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    registry = Registry().with_resource("_definitions.json", known).crawl()
    return jsonschema.Draft202012Validator(schema, registry=registry)
