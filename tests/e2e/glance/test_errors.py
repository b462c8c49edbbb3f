"""What Glance refuses, it refuses through the proxy in the same words, every time."""

from pathlib import Path

import pytest

from tests.e2e.glance.conftest import Newcomer
from tests.e2e.glance.paging import get
from tests.support.clients.client import Client, Listing
from tests.support.glance.auth import token
from tests.support.glance.server import Glance
from tests.support.processes import LOOPBACK, ProgramError
from tests.support.proxy import ProxyProcess

_UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    "query",
    [
        "limit=",
        "limit=abc",
        "limit=-1",
        "limit=1.0",
        "marker=",
        f"marker={_UNKNOWN}",
        f"marker={_UNKNOWN}&limit=3&visibility=private",
        "sort_key=min_ram",
        "sort_dir=DESC",
        "sort=name:asc&sort_key=name",
        "visibility=nonsense",
        "member_status=nonsense",
        "protected=perhaps",
        "created_at=LT:2020-09-13T13:00:00Z",
        "name=%FF",
        "anything_min=1",
    ],
)
def test_an_error_is_glances_own(query: str, glance: Glance, proxy: ProxyProcess, newcomer: Newcomer) -> None:
    """Status and body are those of Glance, the first time and the second."""
    who = newcomer("alpha")
    target = f"/v2/images?{query}"
    directly = get(glance.url, target, who)
    assert directly.status >= 400
    for _ in range(2):
        answer = get(proxy.url, target, who)
        assert (answer.status, answer.body) == (directly.status, directly.body)


def test_an_error_of_the_proxy_s_own_is_understood(client: Client, tmp_path: Path) -> None:
    """Each client library says that the service can't be reached, and stumbles over nothing in how it is told."""
    with ProxyProcess(f"http://{LOOPBACK}:1", tmp_path) as before_nothing, pytest.raises(ProgramError) as told:
        client.crawl(before_nothing.url, token("alpha", user="somebody"), Listing(), page_size=5)
    # openstacksdk asks for the versions first, and makes up its own words
    assert "PROXY.0502" in str(told.value) or "the service is unavailable" in str(told.value)
