"""As much of kustomize as infra/kuberay needs: resources, a namespace, JSON patches and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

_KNOWN = {"apiVersion", "kind", "namespace", "resources", "patches", "images"}
_WITHOUT_NAMESPACE = {"Namespace"}


def build(folder: Path) -> list[dict[str, Any]]:
    """The resources that `kubectl kustomize` gives for a folder, in the order of its files."""
    about = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert about.keys() <= _KNOWN, f"{folder}: {about.keys() - _KNOWN} are not known here"
    resources = [each for name in about["resources"] for each in _read(folder / name)]
    for patch in about.get("patches", []):
        found = [each for each in resources if _is(each, patch["target"])]
        assert len(found) == 1, f"{folder}: {patch['target']} names {len(found)} resources"
        for step in yaml.safe_load(patch["patch"]):
            _apply(found[0], step)
    images = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in about.get("images", [])}
    for each in resources:
        if "namespace" in about and each["kind"] not in _WITHOUT_NAMESPACE:
            each["metadata"]["namespace"] = about["namespace"]
        _set_images(each, images)
    return resources


def _read(path: Path) -> list[dict[str, Any]]:
    if path.is_dir():
        return build(path)
    # By way of JSON, so that what an anchor shares can be patched in one place alone.
    return [json.loads(json.dumps(each)) for each in yaml.safe_load_all(path.read_text())]


def _is(resource: dict[str, Any], target: dict[str, str]) -> bool:
    return (resource["kind"], resource["metadata"]["name"]) == (target["kind"], target["name"])


def _apply(resource: dict[str, Any], step: dict[str, Any]) -> None:
    """One step of a JSON patch (RFC 6902)."""
    *way, last = step["path"].removeprefix("/").split("/")
    inner: Any = resource
    for key in way:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    if isinstance(inner, list):
        place = len(inner) if last == "-" else int(last)
        if step["op"] != "add":
            del inner[place]
        if step["op"] != "remove":
            inner.insert(place, step["value"])
    elif step["op"] == "remove":
        del inner[last]
    else:
        assert step["op"] == "add" or last in inner, step
        inner[last] = step["value"]


def _set_images(part: Any, images: dict[str, str]) -> None:
    """Name the images of all containers below `part` anew."""
    if isinstance(part, list):
        for each in part:
            _set_images(each, images)
    elif isinstance(part, dict):
        for container in [*part.get("containers", []), *part.get("initContainers", [])]:
            container["image"] = images.get(container["image"], container["image"])
        for each in part.values():
            _set_images(each, images)
