"""The manifests build, with kubectl and without, and nothing in them is left over."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.deploy.kustomize import KUBERNETES, OVERLAYS, KustomizationError, built, read, sources

_RENDER_S = 60.0


def unordered(node: Any) -> Any:
    """Return *node*, its lists of named things in the order of the names: kustomize puts what a patch adds first."""
    if isinstance(node, dict):
        return {key: unordered(below) for key, below in node.items()}
    if isinstance(node, list):
        below = [unordered(each) for each in node]
        named = all(isinstance(each, dict) and "name" in each for each in below)
        return sorted(below, key=lambda each: str(each["name"])) if named else below
    return node


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_renders_what_is_checked_here(overlay: str) -> None:
    """`kubectl kustomize` gives the same documents as the builder that the other tests rely on."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip(
            f"kubectl is not installed: {overlay} was built and checked by these tests, not rendered by kubectl"
        )
    rendered = subprocess.run(
        [kubectl, "kustomize", str(OVERLAYS[overlay])],
        capture_output=True,
        text=True,
        timeout=_RENDER_S,
        check=False,
    )
    assert rendered.returncode == 0, rendered.stderr
    text = re.sub(r"\bims-proxy-[a-z0-9]{10}$", "ims-proxy", rendered.stdout, flags=re.MULTILINE)
    theirs = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}
    assert unordered(theirs) == unordered(built(OVERLAYS[overlay]))


def test_every_file_belongs_to_an_overlay() -> None:
    """No manifest lies about unused."""
    used = {file.resolve() for overlay in OVERLAYS.values() for file in sources(overlay)}
    assert {file for file in KUBERNETES.rglob("*") if file.is_file()} == used


def test_a_patch_without_a_target_is_refused(tmp_path: Path) -> None:
    """The builder refuses what kustomize lets pass: a patch whose target is gone."""
    (tmp_path / "patch.yaml").write_text("spec: {replicas: 3}\n")
    (tmp_path / "kustomization.yaml").write_text(
        "patches: [{path: patch.yaml, target: {kind: Deployment, name: gone}}]\n"
    )
    with pytest.raises(KustomizationError, match="nothing to patch"):
        built(tmp_path)


def test_every_yaml_file_parses() -> None:
    """Each YAML file under deploy/ holds documents."""
    for file in KUBERNETES.parent.rglob("*.yaml"):
        assert all(isinstance(document, dict) for document in read(file)), file
