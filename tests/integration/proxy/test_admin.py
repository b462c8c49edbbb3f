"""The operators' port."""

from __future__ import annotations

import socket

import orjson
import pytest

from proxy.demo.app import ImsLookalike
from proxy.runtime import app
from tests.support.running import ALPHA, BETA, Proxy, a_proxy, settings_for

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


async def test_nobody_is_told_that_it_is_ready_before_callers_can_come(
    upstream: ImsLookalike, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port of operators opens behind the callers'."""
    listening, opened = app.open_listening_sockets, []

    def noted(address: str) -> list[socket.socket]:
        bound = listening(address)
        opened.append(bound[0].getsockname()[1])
        return bound

    monkeypatch.setattr(app, "open_listening_sockets", noted)
    async with app.run_proxy(settings_for(upstream.base_url)) as proxy:
        assert [f"http://127.0.0.1:{port}" for port in opened] == [proxy.url, proxy.admin_url]


async def test_a_token_is_asked_for_on_all_but_the_health_checks(upstream: ImsLookalike) -> None:
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
            assert (await proxy.purge(b"{}", fields=wrong)).status == 401
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
    proxy: Proxy, upstream: ImsLookalike, order: bytes, dropped: int, left: list[str]
) -> None:
    """It says how many listings went, and those that it does not name are still there."""
    asks = {LIST: (LIST, ALPHA), BETA: (LIST, BETA), "name=x": ("/v2/images?name=x", ALPHA)}
    for target, token in asks.values():
        await proxy.client.ask(target, token=token)
    answer = await proxy.purge(order)
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
        b'{"resource": "v2/schemas/image"}',
        b'{"resource": "/v2/images?limit=9"}',
        b'{"image": 7}',
        b'{"listing": "limit=1;x"}',
        b'{"listing": "/v2/other?x=1"}',
    ],
)
async def test_an_order_that_names_nothing_is_refused(proxy: Proxy, order: bytes) -> None:
    """400, what is allowed, and nothing dropped."""
    await proxy.client.ask(LIST)
    answer = await proxy.purge(order)
    assert answer.status == 400
    assert answer.json()["error_code"] == "PROXY.0400"
    assert (await proxy.client.ask(LIST)).hit


@pytest.mark.parametrize(("method", "target", "status"), [("GET", "/nowhere", 404), ("GET", "/purge", 405)])
async def test_nothing_else_is_there(proxy: Proxy, method: str, target: str, status: int) -> None:
    """Lists are not served here, nor the operators' pages to callers."""
    assert (await proxy.admin.ask(target, method=method, token=None)).status == status
    assert (await proxy.admin.ask(LIST)).status == 404
    assert (await proxy.client.ask("/metrics", token=None)).status != 200


async def test_every_error_is_json_with_a_code(proxy: Proxy) -> None:
    """What is not there, not allowed, or not understood is told in the shape that all errors have."""
    for method, target, status in (
        ("GET", "/nowhere", 404),
        ("PUT", "/metrics", 405),
        ("GET", "/explain", 400),
        ("GET", "/explain?target=https://elsewhere/", 400),
    ):
        answer = await proxy.admin.ask(target, method=method, token=None, Content_Type="application/json")
        told = answer.json()
        assert (answer.status, told["error_code"]) == (status, f"PROXY.{status:04}")
        assert told["request_id"] == answer.fields["X-Request-Id"]
        assert told["error_msg"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param([], 200, id="as a command sends it"),
        pytest.param([("Host", "localhost:9090")], 200, id="by the name of loopback"),
        pytest.param([("Host", "[::1]:9090")], 200, id="by its other address"),
        pytest.param([("Host", "127.0.0.1.evil.example")], 403, id="a name that resolves to loopback"),
        pytest.param([("Host", "evil.example:9090")], 403, id="a name that was made to resolve to loopback"),
        pytest.param([("Origin", "https://evil.example")], 403, id="a page of another origin"),
        pytest.param([("Origin", "null")], 403, id="a page of no origin"),
        pytest.param([("Sec-Fetch-Site", "same-site")], 403, id="a page beside it"),
    ],
)
async def test_only_who_is_on_this_machine_gives_orders_without_a_token(
    proxy: Proxy, fields: list[tuple[str, str]], status: int
) -> None:
    """Web pages reach loopback too: what a browser says of them is asked for."""
    await proxy.client.ask(LIST)
    assert (await proxy.purge(b'{"all": true}', fields=fields)).status == status
    assert (await proxy.client.ask(LIST)).hit == (status != 200)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_an_order_comes_as_json(proxy: Proxy, kind: str | None) -> None:
    """A type that a form or a script may send anywhere unasked is refused, and so is none."""
    fields = [("Content-Type", kind)] if kind else []
    answer = await proxy.admin.ask("/purge", method="POST", token=None, body=b'{"all": true}', fields=fields)
    assert answer.status == 415
    assert "application/json" in answer.json()["error_msg"]


async def test_a_foreign_name_reads_nothing(proxy: Proxy) -> None:
    """Figures, explanations and the page are for who calls the port by a name of loopback; health is for all."""
    for target in ("/", "/stats", "/metrics", "/explain?target=/"):
        assert (await proxy.admin.ask(target, token=None, Host="evil.example")).status == 403
    assert (await proxy.admin.ask("/healthz", token=None, Host="evil.example")).status == 200


async def test_the_page_is_sent_without_a_token_and_the_figures_are_not(upstream: ImsLookalike) -> None:
    """The page holds nothing of the proxy's; what it asks for then needs the token. Any name will do with one."""
    async with a_proxy(upstream.base_url, admin={"listen": "127.0.0.1:0", "token": "s3cr3t-token"}) as proxy:
        page = await proxy.admin.ask("/", token=None, Host="proxy.example")
        assert page.status == 200
        assert page.fields["Content-Security-Policy"].startswith("default-src 'none'")
        for target in ("/stats", "/explain?target=/"):
            assert (await proxy.admin.ask(target, token=None)).status == 401
            fields = [("Authorization", "Bearer s3cr3t-token"), ("Host", "proxy.example")]
            assert (await proxy.admin.ask(target, token=None, fields=fields)).status == 200


async def test_a_list_is_explained(proxy: Proxy) -> None:
    """JSON, or the text of `ims-proxy explain`; the target as it is, its `&` its own, or percent-encoded as a whole."""
    plain, coded = LIST + "&sort_dir=desc&name=a+b", "%2Fv2%2Fimages%3Flimit%3D5%26sort_dir%3Ddesc%26name%3Da%2Bb"
    told = (await proxy.admin.ask(f"/explain?target={plain}", token=None)).json()
    assert told["listing"] == "/v2/images?name=a%20b"
    assert told["cacheable"] == "yes"
    assert len(told["normalised"]) == 2
    assert (await proxy.admin.ask(f"/explain?target={coded}", token=None)).json() == told
    text = await proxy.admin.ask(f"/explain?target={plain}", token=None, Accept="text/plain")
    assert text.fields["Content-Type"].startswith("text/plain")
    assert "listing      /v2/images?name=a%20b\n" in text.body.decode()


async def test_the_port_names_no_software(proxy: Proxy) -> None:
    """What it runs on is nobody's business."""
    for target in ("/stats", "/nowhere", "/"):
        assert (await proxy.admin.ask(target, token=None)).fields["Server"] == "ims-proxy"


@pytest.mark.parametrize("line", [b"Bad Name: s3cr3t", b"X: \x01s3cr3t", b"X: " + b"s3cr3t" * 2_000, b"Authorization"])
async def test_what_cannot_be_read_is_told_as_json_and_not_quoted(
    proxy: Proxy, capfd: pytest.CaptureFixture[str], line: bytes
) -> None:
    """The answer has the shape of all others, and neither it nor the log holds a byte of the request."""
    head, _, body = (
        await proxy.admin.raw(b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\n" + line + b"\r\n\r\n")
    ).partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert orjson.loads(body)["error_code"] == "PROXY.0400"
    said = "".join(capfd.readouterr())
    assert "s3cr3t" not in said + body.decode()
    assert "Traceback" not in said
