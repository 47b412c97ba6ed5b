"""The subset of kustomize that infra/kuberay uses.

Resources, components, a namespace, JSON patches, generated config maps and images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

_LISTS = {"resources", "components", "configMapGenerator", "patches", "images"}
_KNOWN = {"apiVersion", "kind", "namespace", *_LISTS}
_WITHOUT_NAMESPACE = {"Namespace", "PriorityClass"}
Resources = list[dict[str, Any]]


def load_all(text: str) -> Resources:
    """The documents of a YAML file, by libyaml where PyYAML has it, which is ten times as fast."""
    return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def build(folder: Path, components: tuple[str, ...] = ()) -> Resources:
    """The resources that `kubectl kustomize` would print for a folder, in the order of its files.

    Args:
        folder: of an overlay.
        components: folders, relative to it, to add to the `components` of its kustomization.
    """
    overlay = _read_yaml(folder)
    resources = [each for name in overlay.get("resources", []) for each in _read(folder / name)]
    for name in [*overlay.get("components", []), *components]:
        resources = _transformed(resources, folder / name)
    return _with_images(_patched(resources, folder, overlay), overlay)


def _read_yaml(folder: Path) -> dict[str, Any]:
    (overlay,) = load_all((folder / "kustomization.yaml").read_text())
    assert overlay.keys() <= _KNOWN, f"{folder}: {overlay.keys() - _KNOWN} are not supported here"
    return overlay


def _transformed(resources: Resources, folder: Path) -> Resources:
    """What a component makes of an overlay's resources."""
    component = _read_yaml(folder)
    assert component["kind"] == "Component", folder
    added = [each for name in component.get("resources", []) for each in _read(folder / name)]
    return _patched([*resources, *added], folder, component)


def _patched(resources: Resources, folder: Path, overlay: dict[str, Any]) -> Resources:
    for wanted in overlay.get("configMapGenerator", []):
        files = {name: (folder / name).read_text() for name in wanted["files"]}
        assert wanted["options"]["disableNameSuffixHash"] is True, folder
        metadata = {"name": wanted["name"], "labels": wanted["options"]["labels"]}
        resources.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files})
    for patch in overlay.get("patches", []):
        for each in resources:
            if _is(each, patch["target"]):
                for step in yaml.safe_load(patch["patch"]):
                    _apply(each, step)
    return resources


def _with_images(resources: Resources, overlay: dict[str, Any]) -> Resources:
    images = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in overlay.get("images", [])}
    for each in resources:
        if "namespace" in overlay and each["kind"] not in _WITHOUT_NAMESPACE:
            each["metadata"]["namespace"] = overlay["namespace"]
        _set_images(each, images)
    return resources


def _read(path: Path) -> Resources:
    if path.is_dir():
        return build(path)
    # The JSON round trip copies what YAML anchors share, so that a patch changes one place only.
    return [json.loads(json.dumps(each)) for each in load_all(path.read_text())]


def _is(resource: dict[str, Any], target: dict[str, str]) -> bool:
    return (resource["kind"], resource["metadata"]["name"]) == (target["kind"], target["name"])


def _apply(resource: dict[str, Any], step: dict[str, Any]) -> None:
    """One step of a JSON patch (RFC 6902)."""
    if step["op"] == "move":
        moved = resource.pop(step["from"].removeprefix("/"))  # from the top, which is all that is used here
        step = {"op": "add", "path": step["path"], "value": moved}
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
    elif step["op"] == "test":
        assert inner[last] == step["value"], step
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
