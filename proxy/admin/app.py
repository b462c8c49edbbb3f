"""The operators' port: health, readiness, metrics, figures, explanations, purge, and a page that shows them.

What can't be parsed gets the same JSON errors as everything else, not a page that quotes the request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from proxy.admin.auth import AdminRequestError, error_response, make_guard
from proxy.admin.dashboard import StatusPage
from proxy.core.purge import PurgeError, PurgeOrder, PurgeResult, parse_purge
from proxy.http.validation import MalformedRequest, to_origin_form
from proxy.observability.logging import Telemetry, log_event

ReadinessCheck = Callable[[], Awaitable[Mapping[str, str]]]
PurgeExecutor = Callable[[PurgeOrder], Awaitable[PurgeResult]]
Explanation = Iterable[tuple[str, str]]

DRAINING_STATUS: Final = "not ready, draining"  # what `/readyz` says of the listener of a process that was told to stop
_TARGET_PARAMETER: Final = "target="
_REPEATABLE_LABEL: Final = "normalised"  # the one label that may stand more than once


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminHandlers:
    """What operators may ask for.

    *check_readiness* says how each part is: `ok`, or what is wrong; the proxy is ready when no part says `not ready`.
    *explain* tells what a GET of a target turns into.
    """

    telemetry: Telemetry
    check_readiness: ReadinessCheck
    execute_purge: PurgeExecutor
    count_stored_bytes: Callable[[], int]
    collect_stats: Callable[[], Mapping[str, Any]]
    explain: Callable[[str], Explanation]

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer 200 while every part can do its work, 503 else, with what each says."""
        parts = await self.check_readiness()
        ready = not any(said.startswith("not ready") for said in parts.values())
        return _json_response({"ready": ready, "parts": dict(parts)}, status=200 if ready else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer with what Prometheus reads."""
        self.telemetry.stored_bytes.set(self.count_stored_bytes())
        return web.Response(
            body=self.telemetry.render_metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def stats(self, _: web.Request) -> web.Response:
        """Answer with the figures of the status page."""
        return _json_response(self.collect_stats())

    async def explain_target(self, request: web.Request) -> web.Response:
        """Answer with what a request turns into, as JSON or as the lines of `ims-proxy explain`."""
        told = list(self.explain(parse_explain_target(request.raw_path.partition("?")[2])))
        if "text/plain" in request.headers.get("Accept", ""):
            return web.Response(text="".join(f"{label:<12} {text}\n" for label, text in told))
        return _json_response(_explanation_to_dict(told))

    async def purge(self, request: web.Request) -> web.Response:
        """Drop what the body names, and answer with how many listings that were."""
        try:
            order = parse_purge(orjson.loads(await request.read()))
        except PurgeError as error:
            raise AdminRequestError(400, str(error)) from error
        except orjson.JSONDecodeError as error:
            raise AdminRequestError(400, "purge: no JSON") from error
        told = await self.execute_purge(order)
        return _json_response({"dropped": told.dropped} | ({"because": told.reason} if told.reason else {}))


def make_admin_app(handlers: AdminHandlers, *, token: str | None) -> web.Application:
    """Return the admin application; with a *token* it is for who sends that."""
    page = StatusPage()

    async def status_page(_: web.Request) -> web.Response:
        return web.Response(body=page.body, content_type="text/html", charset="utf-8", headers=page.headers)

    app = web.Application(middlewares=[make_guard(token)])
    app.add_routes(
        [
            web.get("/", status_page),
            web.get("/healthz", healthz),
            web.get("/readyz", handlers.readyz),
            web.get("/metrics", handlers.metrics),
            web.get("/stats", handlers.stats),
            web.get("/explain", handlers.explain_target),
            web.post("/purge", handlers.purge),
        ]
    )
    return app


async def healthz(_: web.Request) -> web.Response:
    """Answer that the process is alive."""
    return web.Response(text="alive\n")


def parse_explain_target(query: str) -> str:
    """Return the target that the raw *query* asks about: all that follows `target=`, so that its `&` stay its own.

    One that was percent-encoded as a whole, as forms and scripts do, is decoded once. Raises `ImsError`.
    """
    if not query.startswith(_TARGET_PARAMETER):
        raise AdminRequestError(400, "explain: no target, ?target=/v2/images?… is allowed")
    raw = query.removeprefix(_TARGET_PARAMETER)
    target = raw if raw.startswith("/") else unquote(raw)
    if not target.startswith("/") or isinstance(to_origin_form("GET", target, None), MalformedRequest):
        raise AdminRequestError(400, "explain: target: a path with a query, in visible ASCII characters, is allowed")
    return target


def _explanation_to_dict(explanation: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    tree: dict[str, str | list[str]] = {}
    notes: list[str] = []
    for label, text in explanation:
        if label == _REPEATABLE_LABEL:
            notes.append(text)
            tree[label] = notes
        else:
            tree[label.replace(" ", "_")] = text
    return tree


def _json_response(content: Mapping[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")


_SILENT_LOGGER: Final = logging.getLogger("ims-proxy.unheard")  # aiohttp logs bytes of what it can't read
_SILENT_LOGGER.addHandler(logging.NullHandler())
_SILENT_LOGGER.propagate = False


class AdminRunner(web.AppRunner):
    """Runs the operators' application."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        settings: dict[str, Any] = {"access_log": None, "logger": _SILENT_LOGGER}
        return _AdminServer(made.request_handler, request_factory=made.request_factory, **settings)


class _AdminServer(web.Server):
    def __call__(self) -> RequestHandler:
        return _AdminConnection(self, loop=self._loop, **self._kwargs)


class _AdminConnection(RequestHandler):
    def handle_error(
        self,
        request: BaseRequest,  # noqa: ARG002 - could not be read
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - may quote header bytes
    ) -> web.StreamResponse:
        """Return the answer to what could not be read, or not be answered."""
        if status == 500:
            log_event("admin_request_failed", level=logging.ERROR, error=type(exc).__name__)
        told = error_response(
            status, "admin port: failed" if status == 500 else "admin port: not understood as HTTP/1.1", {}
        )
        told.force_close()
        return told
