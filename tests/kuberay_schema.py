"""Strict JSON Schema of KubeRay's RayCluster and RayJob: unknown fields are errors.

Written by hand from the field reference of KubeRay 1.6; pods and their parts use Kubernetes's strict schemas.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
from referencing import Registry, Resource

KUBERNETES = "1.32"  # the oldest still supported when this was written
_CORE = "_definitions.json#/$defs/io.k8s.api.core.v1."
_TEXT, _YES_NO = {"type": "string"}, {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}


def _core(kind: str) -> dict[str, Any]:
    return {"$ref": f"{_CORE}{kind}"}


def _list(kind: str) -> dict[str, Any]:
    return {"type": "array", "items": _core(kind)}


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
    numOfHosts=_COUNT,
    scaleStrategy=_fields(workersToDelete={"type": "array", "items": _TEXT}),
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
    gcsFaultToleranceOptions=_fields(
        ("redisAddress",),
        redisAddress=_TEXT,
        redisUsername=_REDIS,
        redisPassword=_REDIS,
        externalStorageNamespace=_TEXT,
    ),
    headGroupSpec=_HEAD,
    rayVersion=_TEXT,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
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
    shutdownAfterJobFinishes=_YES_NO,
    suspend=_YES_NO,
)
_SPECS = {"RayCluster": _CLUSTER, "RayJob": _JOB}


def check(resource: dict[str, Any]) -> None:
    """Validate a RayCluster or RayJob.

    Raises:
        jsonschema.ValidationError: it has a field that KubeRay or Kubernetes does not define, or lacks a
            required one.
    """
    schema = _fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"enum": list(_SPECS)},
        metadata={"$ref": "_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
        spec=_SPECS[resource["kind"]],
    )
    jsonschema.Draft202012Validator(schema, registry=_definitions()).validate(resource)


def _definitions() -> Registry[Any]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    known = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    return Registry().with_resource("_definitions.json", known)
