"""The operators' port."""

from __future__ import annotations

import pytest

from proxy.demo.server import Lookalike
from tests.web.conftest import ALPHA, BETA, Proxy, a_proxy

LIST = "/v2/images?limit=5"


async def test_health_and_readiness_are_told(proxy: Proxy) -> None:
    """Alive, and ready with what each part says."""
    assert (await proxy.admin.ask("/healthz", token=None)).status == 200
    ready = await proxy.admin.ask("/readyz", token=None)
    assert ready.status == 200
    assert ready.json()["ready"] is True
    assert ready.json()["parts"]["store"] == "ok"


async def test_metrics_have_one_prefix(proxy: Proxy) -> None:
    """Prometheus' text, every series under `ims_proxy_`, with help."""
    await proxy.client.ask(LIST)
    answer = await proxy.admin.ask("/metrics", token=None)
    lines = answer.body.decode().splitlines()
    assert answer.fields["Content-Type"].startswith("text/plain")
    assert all(line.startswith(("ims_proxy_", "# HELP ims_proxy_", "# TYPE ims_proxy_")) for line in lines)


async def test_a_token_is_asked_for_on_all_but_the_health_checks(upstream: Lookalike) -> None:
    """Without it, or with another, there is 401 and nothing else."""
    async with a_proxy(upstream.base_url, admin={"listen": "127.0.0.1:0", "token": "s3cr3t-token"}) as proxy:
        for target in ("/healthz", "/readyz"):
            assert (await proxy.admin.ask(target, token=None)).status == 200
        for wrong in (
            [],
            [("Authorization", "Bearer other")],
            [("Authorization", "s3cr3t-token")],
            [("Authorization", "Bearer é")],
        ):
            answer = await proxy.admin.ask("/metrics", token=None, fields=wrong)
            assert (answer.status, answer.fields["WWW-Authenticate"]) == (401, "Bearer")
            assert (await proxy.admin.ask("/purge", method="POST", token=None, fields=wrong, body=b"{}")).status == 401
        allowed = await proxy.admin.ask("/metrics", token=None, fields=[("Authorization", "Bearer s3cr3t-token")])
        assert allowed.status == 200


@pytest.mark.parametrize(
    ("order", "dropped", "left"),
    [
        (b'{"all": true}', 3, []),
        (b'{"listing": "name=x"}', 1, [LIST, BETA]),
        (b'{"listing": "/v2/images?limit=9"}', 2, ["name=x"]),
        (b'{"listing": "/v2/cloudimages"}', 0, [LIST, BETA, "name=x"]),
        (b'{"project": "anything"}', 3, []),
        (b'{"image": "anything"}', 3, []),
    ],
)
async def test_a_purge_drops_what_it_names(
    proxy: Proxy, upstream: Lookalike, order: bytes, dropped: int, left: list[str]
) -> None:
    """It says how many listings went, and those that it does not name are still there."""
    asks = {LIST: (LIST, ALPHA), BETA: (LIST, BETA), "name=x": ("/v2/images?name=x", ALPHA)}
    for target, token in asks.values():
        await proxy.client.ask(target, token=token)
    answer = await proxy.admin.ask("/purge", method="POST", token=None, body=order)
    assert answer.status == 200
    assert answer.json()["dropped"] == dropped
    kept = [name for name, (target, token) in asks.items() if (await proxy.client.ask(target, token=token)).hit]
    assert kept == left


@pytest.mark.parametrize(
    "order",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"all": false}',
        b'{"all": true, "image": "x"}',
        b'{"nothing": 1}',
        b'{"image": 7}',
        b'{"listing": "limit=1;x"}',
        b'{"listing": "/v2/other?x=1"}',
    ],
)
async def test_an_order_that_names_nothing_is_refused(proxy: Proxy, order: bytes) -> None:
    """400, what is allowed, and nothing dropped."""
    await proxy.client.ask(LIST)
    answer = await proxy.admin.ask("/purge", method="POST", token=None, body=order)
    assert answer.status == 400
    assert answer.json()["error_code"] == "PROXY.0400"
    assert (await proxy.client.ask(LIST)).hit


@pytest.mark.parametrize(("method", "target", "status"), [("GET", "/nowhere", 404), ("GET", "/purge", 405)])
async def test_nothing_else_is_there(proxy: Proxy, method: str, target: str, status: int) -> None:
    """Lists are not served here, nor the operators' pages to callers."""
    assert (await proxy.admin.ask(target, method=method, token=None)).status == status
    assert (await proxy.admin.ask(LIST)).status == 404
    assert (await proxy.client.ask("/metrics", token=None)).status != 200
