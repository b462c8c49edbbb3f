"""The operators' port: health, readiness, metrics, purge."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.core.purging import Purge, PurgeError, purge
from proxy.telemetry import Telemetry

# Kubernetes' probes carry no token.
_OPEN: Final = frozenset({"/healthz", "/readyz"})

Readiness = Callable[[], Awaitable[Mapping[str, str]]]
Purging = Callable[[Purge], Awaitable[int]]


def application(
    telemetry: Telemetry,
    *,
    readiness: Readiness,
    purging: Purging,
    stored_bytes: Callable[[], int],
    token: str | None,
) -> web.Application:
    """Return the admin application.

    *readiness* says how each part is: `ok`, or what is wrong; the proxy is ready when no part says `not ready`.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        parts = await readiness()
        ready = not any(said.startswith("not ready") for said in parts.values())
        body = orjson.dumps({"ready": ready, "parts": dict(parts)})
        return web.Response(status=200 if ready else 503, body=body, content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        telemetry.stored_bytes.set(stored_bytes())
        return web.Response(
            body=telemetry.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def purge_listings(request: web.Request) -> web.Response:
        try:
            order = purge(orjson.loads(await request.read()))
        except (PurgeError, orjson.JSONDecodeError) as error:
            said = str(error) if isinstance(error, PurgeError) else "purge: no JSON"
            refused = orjson.dumps({"error_code": "PROXY.0400", "error_msg": said})
            return web.Response(status=400, body=refused, content_type="application/json")
        told = {"dropped": await purging(order)} | ({"because": order.because} if order.because else {})
        return web.Response(body=orjson.dumps(told), content_type="application/json")

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is not None and request.path not in _OPEN:
            said = request.headers.get("Authorization", "")
            if not hmac.compare_digest(said.encode("utf-8", "surrogateescape"), f"Bearer {token}".encode()):
                refused = orjson.dumps({"error_code": "PROXY.0401", "error_msg": "admin port: no valid bearer token"})
                return web.Response(
                    status=401, body=refused, content_type="application/json", headers={"WWW-Authenticate": "Bearer"}
                )
        return await handler(request)

    app = web.Application(middlewares=[guard])
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.post("/purge", purge_listings),
        ]
    )
    return app
