"""The SDK of Huawei Cloud, as it is released, against a proxy that holds its key's secret."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo.app import ImsLookalike
from tests.integration.security.test_signed_requests import PROJECTS, SECRETS, proxy, signing_upstream
from tests.support.clients.client import Client, Listing
from tests.support.environment import environment
from tests.support.running import Proxy

__all__ = ["proxy", "signing_upstream"]

_REQUIREMENTS = Path(__file__).parents[2] / "support" / "huaweicloud" / "requirements.txt"


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process of the SDK."""
    home = environment("huaweicloud", _REQUIREMENTS, say=print)
    log = tmp_path_factory.mktemp("sdk") / "sdk.log"
    with Client("with_huaweicloudsdk", python=home / "bin" / "python", log=log) as running:
        yield running


async def test_its_signatures_verify_and_its_pages_come_from_the_store(
    sdk: Client, proxy: Proxy, signing_upstream: ImsLookalike
) -> None:
    """A crawl by the SDK sees its project's images, and the same crawl again costs the upstream nothing."""
    credentials = f"AKALPHA:{SECRETS['AKALPHA']}:{PROJECTS['AKALPHA']}"
    listing = Listing({"name": "a,b-00 ü+&=~*"}, {})
    for each in (Listing(), listing):
        first = await asyncio.to_thread(sdk.crawl, proxy.client.url, credentials, each, page_size=10)
        calls = len(signing_upstream.calls)
        again = await asyncio.to_thread(sdk.crawl, proxy.client.url, credentials, each, page_size=10)
        assert first == again
        assert len(signing_upstream.calls) == calls
        assert first or each is listing
    assert {call.status for call in signing_upstream.calls} == {200}
    assert {call.headers["X-Project-Id"] for call in signing_upstream.calls} == {PROJECTS["AKALPHA"]}
