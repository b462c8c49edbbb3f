"""The manifests fit together, they are locked down, and the proxy accepts what they tell it."""

import re
import tomllib
from pathlib import Path

import pytest

from proxy import __version__
from tests.e2e.deploy.kustomize import KUBERNETES, OVERLAYS, Document, Documents, built, containers, pods
from tests.e2e.deploy.settings import accepted


@pytest.fixture(params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> Documents:
    """Return what each overlay in turn builds."""
    return built(OVERLAYS[request.param])


@pytest.fixture
def in_front() -> Documents:
    """Return what the overlay `in-front` builds."""
    return built(OVERLAYS["in-front"])


@pytest.fixture
def sidecar() -> Documents:
    """Return what the overlay `sidecar` builds."""
    return built(OVERLAYS["sidecar"])


def proxy_in(documents: Documents) -> tuple[Document, Document]:
    """Return the one pod with the proxy, and the proxy's container."""
    found = [(pod, each) for pod in pods(documents) for each in containers(pod) if each["name"] == "ims-proxy"]
    assert len(found) == 1
    return found[0]


def environment(container: Document) -> dict[str, str]:
    """Return the environment that *container* is given."""
    return {each["name"]: each["value"] for each in container.get("env", [])}


def settings(documents: Documents) -> Document:
    """Return the settings' file."""
    return tomllib.loads(documents["ConfigMap", "ims-proxy"]["data"]["ims-proxy.toml"])


def mebibytes(quantity: str) -> int:
    """Return a memory quantity in MiB."""
    written = re.fullmatch(r"(\d+)(mb|Mi)", quantity)
    assert written is not None, quantity
    return int(written[1])


def test_every_container_is_locked_down(documents: Documents) -> None:
    """No container has root, a writable root, a capability or a way to get one; each has a bound on memory."""
    for pod in pods(documents):
        assert pod["automountServiceAccountToken"] is False
        for container in containers(pod):
            context = container["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] > 0
            assert context["runAsGroup"] > 0
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert re.search(r":\d", container["image"]), "a version, and not `latest`"


def test_the_proxy_is_the_same_in_both_shapes(in_front: Documents, sidecar: Documents) -> None:
    """Image, arguments and security are written twice, and alike."""
    shapes = [proxy_in(documents)[1] for documents in (in_front, sidecar)]
    for field in ("image", "args", "securityContext"):
        assert shapes[0][field] == shapes[1][field]
    assert shapes[0]["image"] == f"ims-cache-proxy:{__version__}"


def test_the_proxy_accepts_its_settings(documents: Documents, tmp_path: Path) -> None:
    """`ims-proxy check` takes the file and the environment, and the container's arguments parse."""
    _, container = proxy_in(documents)
    given = environment(container)
    text = documents["ConfigMap", "ims-proxy"]["data"]["ims-proxy.toml"]
    effective = accepted(container["args"], given, file=text, directory=tmp_path)
    for name, value in given.items():
        if not name.endswith("_FILE"):
            shown = value if value.isdecimal() else f'"{value}"'
            assert f"{shown}  # environment {name}" in effective


def test_no_service_adds_to_the_settings(documents: Documents) -> None:
    """Kubernetes' variables for the Service `ims-proxy` would be read as settings, so the proxy's pod gets none."""
    pod, _ = proxy_in(documents)
    assert pod["enableServiceLinks"] is False


def test_the_drain_ends_before_the_pod_is_killed(documents: Documents) -> None:
    """The grace period leaves time after `server.drain_delay_s` and `server.drain_s`."""
    pod, container = proxy_in(documents)
    delay_s = float(environment(container).get("IMS_PROXY_SERVER__DRAIN_DELAY_S", "0"))
    drained_s = delay_s + settings(documents)["server"]["drain_s"]
    assert pod["terminationGracePeriodSeconds"] >= drained_s + 10


def test_memory_holds_what_is_stored(documents: Documents) -> None:
    """Process memory for answers is under half of the container's limit."""
    _, container = proxy_in(documents)
    assert settings(documents)["store"]["max_bytes"] <= mebibytes(container["resources"]["limits"]["memory"]) << 19


def test_files_that_are_mounted_exist(documents: Documents) -> None:
    """The settings' file, and the token's, lie in volumes that the pod has; every ConfigMap it names is generated."""
    pod, container = proxy_in(documents)
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    files = [container["args"][container["args"].index("--config") + 1]]
    files += [value for name, value in environment(container).items() if name.endswith("_FILE")]
    assert {str(Path(file).parent) for file in files} == set(mounts)
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert set(mounts.values()) <= set(volumes)
    for volume in volumes.values():
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in documents


def test_the_deployment_page_creates_every_secret(documents: Documents) -> None:
    """Each Secret that a container reads is made by a command of docs/deployment.md, with the keys that are read."""
    readme = re.sub(r" *\\\n *", " ", (KUBERNETES.parents[1] / "docs" / "deployment.md").read_text())
    for pod in pods(documents):
        secrets = {each["name"]: each["secret"]["secretName"] for each in pod.get("volumes", []) if "secret" in each}
        for container in containers(pod):
            words = [*container["args"], *environment(container).values()]
            for mount in container.get("volumeMounts", []):
                if mount["name"] in secrets:
                    keys = {word.partition(f"{mount['mountPath']}/")[2] for word in words if mount["mountPath"] in word}
                    (command,) = re.findall(rf"create secret generic {secrets[mount['name']]} (.*)", readme)
                    assert set(re.findall(r"--from-literal=([\w-]+)=", command)) == keys


def test_in_front_is_probed_on_the_admin_port(in_front: Documents) -> None:
    """Readiness asks /readyz, the others /healthz, on a port that the kubelet reaches."""
    _, container = proxy_in(in_front)
    asked = {each: container[f"{each}Probe"]["httpGet"] for each in ("startup", "readiness", "liveness")}
    assert {each: get["path"] for each, get in asked.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {get["port"] for get in asked.values()} == {"admin"}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    listen = environment(container)
    assert listen["IMS_PROXY_ADMIN__LISTEN"] == f"0.0.0.0:{ports['admin']}"
    assert listen["IMS_PROXY_SERVER__LISTEN"] == f"0.0.0.0:{ports['http']}"


def test_in_front_survives_the_loss_of_a_node(in_front: Documents) -> None:
    """Two replicas, spread over nodes and zones, never both taken away on purpose."""
    deployment = in_front["Deployment", "ims-proxy"]["spec"]
    assert deployment["replicas"] >= 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert in_front["PodDisruptionBudget", "ims-proxy"]["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy"])
def test_what_selects_pods_meets_some(in_front: Documents, kind: str) -> None:
    """Each selector names labels that some pod has, and each port by name is a port of those pods."""
    workloads = [document["spec"] for (each, _), document in in_front.items() if each == "Deployment"]
    for (each, name), document in in_front.items():
        if each != kind:
            continue
        spec = document["spec"]
        selector = spec["podSelector"] if kind == "NetworkPolicy" else spec["selector"]
        wanted = selector.get("matchLabels", selector)
        met = [one for one in workloads if wanted.items() <= one["template"]["metadata"]["labels"].items()]
        assert met, f"{kind} {name} selects nothing"
        ports = {port["name"] for one in met for port in one["template"]["spec"]["containers"][0]["ports"]}
        entries = spec.get("ports", []) + [port for rule in spec.get("ingress", []) for port in rule["ports"]]
        named = {port.get("targetPort", port["port"]) for port in entries}
        assert named <= ports, f"{kind} {name}"


def test_deployments_select_their_own_pods(in_front: Documents) -> None:
    """A Deployment's selector is among the labels of its template."""
    for (kind, _), document in in_front.items():
        if kind == "Deployment":
            spec = document["spec"]
            assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_the_replicas_share_a_redis_that_forgets_safely(in_front: Documents) -> None:
    """The store's URL names the Redis Service; it evicts only what has a lifetime, before the kernel kills it."""
    _, container = proxy_in(in_front)
    service = in_front["Service", "ims-proxy-redis"]
    url = f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/0"
    assert environment(container)["IMS_PROXY_STORE__URL"] == url
    (redis,) = in_front["Deployment", "ims-proxy-redis"]["spec"]["template"]["spec"]["containers"]
    options = dict(zip(redis["args"][1::2], redis["args"][2::2], strict=True))
    assert options["--maxmemory-policy"].startswith("volatile-")
    assert mebibytes(options["--maxmemory"]) < mebibytes(redis["resources"]["limits"]["memory"])


def test_the_sidecar_starts_first_and_holds_no_job_up(sidecar: Documents) -> None:
    """It is a restartable init container, started once it is ready, and alive as long as it answers."""
    pod, container = proxy_in(sidecar)
    assert container in pod["initContainers"]
    assert container["restartPolicy"] == "Always"
    assert container["startupProbe"]["exec"]["command"] == ["ims-proxy-probe", "/readyz"]
    assert container["livenessProbe"]["exec"]["command"] == ["ims-proxy-probe", "/healthz"]


def test_the_sidecar_is_reached_from_its_pod_alone(sidecar: Documents) -> None:
    """Both of its ports are on loopback, and the tool beside it is sent there."""
    pod, container = proxy_in(sidecar)
    listen = environment(container)
    assert {listen[f"IMS_PROXY_{port}__LISTEN"].partition(":")[0] for port in ("SERVER", "ADMIN")} == {"127.0.0.1"}
    (tool,) = pod["containers"]
    assert any(each.startswith(f"http://{listen['IMS_PROXY_SERVER__LISTEN']}/v2/images") for each in tool["args"])
