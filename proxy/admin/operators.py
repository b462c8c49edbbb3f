"""The connections of operators: what can't be read is told like every other error, not by a page that quotes it."""

from __future__ import annotations

import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from proxy.admin.auth import refusal
from proxy.observability.logging import event

_UNHEARD: Final = logging.getLogger("ims-proxy.unheard")  # aiohttp logs bytes of what it can't read
_UNHEARD.addHandler(logging.NullHandler())
_UNHEARD.propagate = False


class Runner(web.AppRunner):
    """Runs the operators' application."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        settings: dict[str, Any] = {"access_log": None, "logger": _UNHEARD}
        return _Server(made.request_handler, request_factory=made.request_factory, **settings)


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    def handle_error(
        self,
        request: BaseRequest,  # noqa: ARG002 - could not be read
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - may quote header bytes
    ) -> web.StreamResponse:
        """Return the answer to what could not be read, or not be answered."""
        if status == 500:
            event("admin-failed", level=logging.ERROR, error=type(exc).__name__)
        told = refusal(status, "admin port: failed" if status == 500 else "admin port: not understood as HTTP/1.1", {})
        told.force_close()
        return told
