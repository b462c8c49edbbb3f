"""The image's recipe, its health check, and the compose file; building them takes a container engine, so nothing is."""

import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from proxy import __version__
from proxy.config.model import ServerSection
from tests.e2e.deploy.kustomize import Document, read
from tests.e2e.deploy.settings import accepted

ROOT = Path(__file__).parents[3]
PROBE = ROOT / "deploy" / "probe.py"
UPSTREAM = {"IMS_PROXY_UPSTREAM__URL": "https://ims.example.com"}

Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """Return the Dockerfile's instructions, name and arguments, by stage."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found: list[list[Instruction]] = []
    for name, _, arguments in (line.partition(" ") for line in lines if line.strip()):
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments.strip()))
    return found


def only(name: str, stage: list[Instruction]) -> str:
    """Return the arguments of the one instruction of that name."""
    (arguments,) = [arguments for each, arguments in stage if each == name]
    return arguments


def copied() -> list[str]:
    """Return what the Dockerfile takes from the repository."""
    instructions = [arguments.split() for stage in stages() for name, arguments in stage if name == "COPY"]
    return [source for words in instructions if not words[0].startswith("--from") for source in words[:-1]]


def compose() -> Document:
    """Return the compose file's services."""
    (document,) = read(ROOT / "deploy" / "compose.yaml")
    services: Document = document["services"]
    return services


def test_the_stages_share_one_pinned_python() -> None:
    """What is built in one stage runs in the other: one minor version of a slim image, which the package supports."""
    bases = {only("FROM", stage).partition(" AS ")[0] for stage in stages()}
    (base,) = bases
    pinned = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", base)
    assert pinned is not None
    assert f"Python :: {pinned[1]}" in (ROOT / "pyproject.toml").read_text()


def test_the_final_stage_builds_nothing() -> None:
    """Nothing is run in it, so no compiler and no cache can get into the image."""
    assert len(stages()) == 2
    assert "RUN" not in [name for name, _ in stages()[-1]]


def test_the_image_runs_as_nobody_in_particular() -> None:
    """User and group are numbers, and not root's."""
    user, group = only("USER", stages()[-1]).split(":")
    assert int(user) >= 1000
    assert int(group) >= 1000


def test_the_image_serves_by_default_and_stops_on_sigterm(tmp_path: Path) -> None:
    """Entry point and command make `ims-proxy serve`, which accepts the image's environment once it has an upstream."""
    final = stages()[-1]
    assert json.loads(only("ENTRYPOINT", final)) == ["ims-proxy"]
    assert only("STOPSIGNAL", final) == "SIGTERM"
    environment = dict(each.split("=", 1) for each in only("ENV", final).split() if each.startswith("IMS_PROXY_"))
    effective = accepted(json.loads(only("CMD", final)), environment | UPSTREAM, directory=tmp_path)
    assert '"0.0.0.0:8080"  # environment IMS_PROXY_SERVER__LISTEN' in effective
    assert only("EXPOSE", final) == "8080"


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    """The sources exist, and .dockerignore lets just them through to the build."""
    for source in copied():
        assert (ROOT / source).exists(), source
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*"
    assert {each[1:] for each in patterns if each[0] == "!"} == set(copied())
    assert any(fnmatch("proxy/core/__pycache__", each) for each in patterns[1:] if each[0] != "!")


def test_the_health_check_is_in_the_image_and_may_be_run() -> None:
    """HEALTHCHECK names the program that a COPY puts on the image's PATH."""
    final = stages()[-1]
    command = json.loads(only("HEALTHCHECK", final).partition("CMD ")[2])
    (target,) = [words.split()[1] for name, words in final if name == "COPY" and "deploy/probe.py" in words]
    assert command == [Path(target).name, "/healthz"]
    assert f"PATH={Path(target).parent}:" in only("ENV", final)
    assert PROBE.stat().st_mode & stat.S_IXOTH


@contextmanager
def answering(status: int) -> Iterator[str]:
    """Run a server that gives every request *status*; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def probed(listen: str) -> subprocess.CompletedProcess[str]:
    """Run the health check against *listen*, under an HTTP proxy's variables that lead nowhere."""
    environment = os.environ | {"IMS_PROXY_ADMIN__LISTEN": listen, "http_proxy": "http://127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, str(PROBE), "/readyz"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (404, 1), (503, 1)])
def test_only_200_is_healthy(status: int, code: int) -> None:
    """The health check's exit code says whether the answer was 200."""
    with answering(status) as listen:
        assert probed(listen).returncode == code


def test_no_answer_is_unhealthy() -> None:
    """Where nobody listens, the health check fails in one line."""
    with answering(200) as listen:
        pass
    done = probed(listen)
    assert done.returncode == 1
    assert re.fullmatch(r"/readyz on 127\.0\.0\.1:\d+: .+\n", done.stderr)


def test_compose_starts_a_demo_that_the_proxy_accepts(tmp_path: Path) -> None:
    """The command parses and its settings are valid; the image is the one of this version."""
    service = compose()["proxy"]
    assert (ROOT / "deploy" / service["build"] / "Dockerfile").is_file()
    assert service["image"] == f"ims-cache-proxy:{__version__}"
    accepted(service["command"], service["environment"] | UPSTREAM, directory=tmp_path)


def test_compose_publishes_to_this_machine_alone() -> None:
    """Ports are bound to loopback: the demo's tokens are known to everybody."""
    ports = [port for service in compose().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_waits_for_health_and_locks_down() -> None:
    """Each service has a health check, no capability and no writable root; the proxy waits for a healthy Redis."""
    services = compose()
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert not service["image"].endswith("latest")
    assert services["proxy"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert services["proxy"]["healthcheck"]["test"][1:] == ["ims-proxy-probe", "/readyz"]


def test_compose_lets_the_proxy_drain() -> None:
    """The time before it is killed is longer than `server.drain_s` by default."""
    assert int(compose()["proxy"]["stop_grace_period"].rstrip("s")) >= ServerSection().drain_s + 10
