"""One Glance with its 2,000 images, one proxy before it and one process of each client, for the whole test run.

A test that wants a cold cache asks as somebody new: a token nobody has used is a partition nothing is stored for.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.support.clients.client import Client
from tests.support.environment import Say
from tests.support.glance.auth import token
from tests.support.glance.images import Image, images
from tests.support.glance.seed import seed
from tests.support.glance.server import Glance
from tests.support.glance.server import glance as glance_server
from tests.support.proxy import ProxyProcess

Newcomer = Callable[[str], str]


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Say:
    """Speak to whoever watches the run, past pytest's capture: the first start takes minutes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None

    def aloud(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", flush=True)

    return aloud


@pytest.fixture(scope="session")
def catalogue() -> list[Image]:
    """All images that the Glance of this run holds."""
    return images()


@pytest.fixture(scope="session")
def glance(tmp_path_factory: pytest.TempPathFactory, catalogue: list[Image], say: Say) -> Iterator[Glance]:
    with glance_server(tmp_path_factory.mktemp("glance"), say=say) as running:
        seed(running.database, catalogue)
        yield running


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory, glance: Glance) -> Iterator[ProxyProcess]:
    """A proxy whose spans outlive the run: these tests count calls, and time has no part in that."""
    settings = {"CACHE__TTL_S": "900", "CACHE__TRANSIENT_TTL_S": "900"}
    with ProxyProcess(glance.url, tmp_path_factory.mktemp("proxy"), settings=settings) as running:
        yield running


@pytest.fixture(scope="session", params=["with_glanceclient", "with_openstacksdk"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, glance: Glance
) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("client") / f"{request.param}.log"
    with Client(request.param, python=glance.python, log=log) as running:
        yield running


@pytest.fixture(scope="session")
def newcomer() -> Newcomer:
    """Return the token of a member of the given project who has not asked for anything yet."""
    number = itertools.count(1)
    return lambda project: token(project, user=f"newcomer-{next(number)}")
