"""As much of kustomize as the manifests here use, so that they can be checked where there is no kubectl.

Stricter in one thing: a patch that changes nothing is an error. `test_rendering.py` holds it against kubectl.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes"
OVERLAYS = {name: KUBERNETES / "overlays" / name for name in ("in-front", "sidecar")}

Document = dict[str, Any]
Documents = dict[tuple[str, str], Document]

_KNOWN = frozenset({"apiVersion", "kind", "resources", "components", "configMapGenerator", "patches", "images"})


class KustomizationError(Exception):
    """A kustomization that can't be built, or that this module doesn't know how to build."""


def built(directory: Path) -> Documents:
    """Return the documents of the kustomization in *directory* by kind and name, generated names without their hash."""
    documents: Documents = {}
    _add(directory, documents)
    return documents


def sources(directory: Path) -> set[Path]:
    """Return every file that the kustomization in *directory* is built from."""
    kustomization = directory / "kustomization.yaml"
    content = _only_document(kustomization)
    found = {kustomization}
    for named in [*content.get("resources", []), *content.get("components", [])]:
        path = (directory / named).resolve()
        found |= sources(path) if path.is_dir() else {path}
    found |= {directory / patch["path"] for patch in content.get("patches", [])}
    return found | {directory / file for each in content.get("configMapGenerator", []) for file in each["files"]}


def read(file: Path) -> list[Document]:
    """Return the documents of a YAML file; raise KustomizationError where it is missing or no YAML."""
    try:
        return list(yaml.safe_load_all(file.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise KustomizationError(f"{file}: {error}") from error


def pods(node: object) -> Iterator[Document]:
    """Yield the pod specifications anywhere inside *node*."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for below in node.values():
            yield from pods(below)


def containers(pod: Document) -> list[Document]:
    """Return the containers of a pod, those that start first included."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def _add(directory: Path, documents: Documents) -> None:
    """Add to *documents* what the kustomization in *directory* has, and do to all of them what it says."""
    content = _only_document(directory / "kustomization.yaml")
    if unknown := content.keys() - _KNOWN:
        raise KustomizationError(f"{directory}: {', '.join(sorted(unknown))}: not known here")
    for resource in content.get("resources", []):
        path = (directory / resource).resolve()
        if path.is_dir():
            _add(path, documents)
        else:
            for document in read(path):
                _put(documents, document)
    for component in content.get("components", []):
        _add((directory / component).resolve(), documents)
    for generator in content.get("configMapGenerator", []):
        texts = {file: (directory / file).read_text() for file in generator["files"]}
        _put(
            documents,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": texts},
        )
    for patch in content.get("patches", []):
        _patch(documents, _only_document(directory / patch["path"]), patch["target"])
    for image in content.get("images", []):
        _retag(documents, image)


def _only_document(file: Path) -> Document:
    documents = read(file)
    if len(documents) != 1:
        raise KustomizationError(f"{file}: one document is wanted, not {len(documents)}")
    return documents[0]


def _put(documents: Documents, document: Document) -> None:
    identity = document["kind"], document["metadata"]["name"]
    if identity in documents:
        raise KustomizationError(f"{identity}: there twice")
    documents[identity] = document


def _patch(documents: Documents, patch: Document, target: dict[str, str]) -> None:
    met = [
        identity
        for identity in documents
        if identity[0] == target["kind"] and target.get("name", identity[1]) == identity[1]
    ]
    if not met:
        raise KustomizationError(f"{target}: nothing to patch")
    change = {field: value for field, value in patch.items() if field not in ("apiVersion", "kind", "metadata")}
    for identity in met:
        merged = _merged(documents[identity], change)
        if merged == documents[identity]:
            raise KustomizationError(f"{target}: the patch changes nothing")
        documents[identity] = merged


def _merged(value: Any, change: Any) -> Any:
    """Return *value* with *change* laid over it; lists of named things are merged by name, others replaced."""
    if isinstance(value, dict) and isinstance(change, dict):
        return value | {field: _merged(value.get(field), below) for field, below in change.items()}
    if isinstance(value, list) and isinstance(change, list) and _all_named(change):
        by_name = {each["name"]: each for each in value}
        return list((by_name | {each["name"]: _merged(by_name.get(each["name"]), each) for each in change}).values())
    return copy.deepcopy(change)


def _all_named(values: list[Any]) -> bool:
    return all(isinstance(each, dict) and "name" in each for each in values)


def _retag(documents: Documents, image: dict[str, str]) -> None:
    used = [
        container
        for pod in pods(documents)
        for container in containers(pod)
        if container["image"].partition(":")[0] == image["name"]
    ]
    if not used:
        raise KustomizationError(f"{image['name']}: no container uses this image")
    for container in used:
        container["image"] = f"{image['name']}:{image['newTag']}"
