"""The subset of kustomize that infra/kuberay uses: resources, a namespace, JSON patches and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

_KNOWN = {"apiVersion", "kind", "namespace", "resources", "patches", "images"}
_WITHOUT_NAMESPACE = {"Namespace"}


def build(folder: Path) -> list[dict[str, Any]]:
    """The resources that `kubectl kustomize` would print for a folder, in the order of its files."""
    overlay = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert overlay.keys() <= _KNOWN, f"{folder}: {overlay.keys() - _KNOWN} are not supported here"
    resources = [each for name in overlay["resources"] for each in _read(folder / name)]
    for patch in overlay.get("patches", []):
        targets = [each for each in resources if _is(each, patch["target"])]
        assert len(targets) == 1, f"{folder}: {patch['target']} names {len(targets)} resources"
        for step in yaml.safe_load(patch["patch"]):
            _apply(targets[0], step)
    images = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in overlay.get("images", [])}
    for each in resources:
        if "namespace" in overlay and each["kind"] not in _WITHOUT_NAMESPACE:
            each["metadata"]["namespace"] = overlay["namespace"]
        _set_images(each, images)
    return resources


def _read(path: Path) -> list[dict[str, Any]]:
    if path.is_dir():
        return build(path)
    # The JSON round trip copies what YAML anchors share, so that a patch changes one place only.
    return [json.loads(json.dumps(each)) for each in yaml.safe_load_all(path.read_text())]


def _is(resource: dict[str, Any], target: dict[str, str]) -> bool:
    return (resource["kind"], resource["metadata"]["name"]) == (target["kind"], target["name"])


def _apply(resource: dict[str, Any], step: dict[str, Any]) -> None:
    """One step of a JSON patch (RFC 6902)."""
    *parents, last = step["path"].removeprefix("/").split("/")
    inner: Any = resource
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    if isinstance(inner, list):
        index = len(inner) if last == "-" else int(last)
        if step["op"] != "add":
            del inner[index]
        if step["op"] != "remove":
            inner.insert(index, step["value"])
    elif step["op"] == "remove":
        del inner[last]
    else:
        assert step["op"] == "add" or last in inner, step
        inner[last] = step["value"]


def _set_images(part: Any, images: dict[str, str]) -> None:
    """Replace the image names of all containers below `part`."""
    if isinstance(part, list):
        for each in part:
            _set_images(each, images)
    elif isinstance(part, dict):
        for container in [*part.get("containers", []), *part.get("initContainers", [])]:
            container["image"] = images.get(container["image"], container["image"])
        for each in part.values():
            _set_images(each, images)
