"""Who may use the operators' port, and in what shape it says no.

With a token, who has it may. Without one whoever reaches the port may, which is then on loopback only; but so does
every web page that is open in a browser on the same machine. Two things keep those out:

- A page may make its own name resolve to loopback, and then be of one origin with this port (DNS rebinding). Its name
  still stands in `Host`: only names that mean loopback are answered.
- A page of any origin may send a POST, though not read what comes of it. A browser says in `Origin` and
  `Sec-Fetch-Site` whose page it was, and asks first before it sends JSON: both are asked for.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import uuid
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.observability.logging import log_event

# Kubernetes' probes carry no token. The page holds nothing of the proxy's; it asks for the token itself.
_HEALTH_PATHS: Final = frozenset({"/healthz", "/readyz"})
_OPEN_PATHS: Final = _HEALTH_PATHS | {"/"}
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_SECURITY_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "ims-proxy"}


class AdminRequestError(Exception):
    """A request of an operator's that is not carried out; the message is subject, fact, what is allowed."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


def make_guard(token: str | None) -> Middleware:
    """Return the middleware that lets in whoever may use the port, and tells every error as JSON.

    With a *token*, that is whoever sends it.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _check_access(request, token)
            response = await handler(request)
        except AdminRequestError as error:
            return error_response(error.status, error.message, error.headers)
        except web.HTTPException as error:
            return error_response(error.status, f"admin port: {error.reason.lower()}", _allow_header(error))
        except Exception as error:  # noqa: BLE001 - told as JSON like every other error, and logged
            log_event("admin_request_failed", level=logging.ERROR, error=type(error).__name__)
            return error_response(500, "admin port: failed", {})
        response.headers.update(_SECURITY_HEADERS)
        return response

    return guarded


def _check_access(request: web.Request, token: str | None) -> None:
    """Let *request* be carried out; raises `AdminRequestError` if it may not be."""
    if token is not None and request.path not in _OPEN_PATHS and not _has_token(request, token):
        raise AdminRequestError(401, "admin port: no valid bearer token", {"WWW-Authenticate": "Bearer"})
    host = request.headers.get("Host", "")
    if token is None and request.path not in _HEALTH_PATHS and not is_loopback_host(host):
        raise AdminRequestError(403, "admin port: Host is no name of loopback, others need admin.token")
    if request.method in _SAFE_METHODS:
        return
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "none")
    if (origin is not None and urlsplit(origin).netloc != host) or site not in ("none", "same-origin"):
        raise AdminRequestError(403, "admin port: sent by a page of another origin")
    if request.content_type != "application/json":
        raise AdminRequestError(415, "admin port: Content-Type is not application/json, which is all that is allowed")


def _has_token(request: web.Request, token: str) -> bool:
    said = request.headers.get("Authorization", "")
    return hmac.compare_digest(said.encode("utf-8", "surrogateescape"), f"Bearer {token}".encode())


def is_loopback_host(host: str) -> bool:
    """Whether *host*, a `Host` field's value, can only mean this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def error_response(status: int, message: str, headers: Mapping[str, str]) -> web.Response:
    """Return the error *message* in the shape of all of the proxy's own."""
    request_id = uuid.uuid4().hex
    told = {"error_code": f"PROXY.{status:04}", "error_msg": message, "request_id": request_id}
    return web.Response(
        status=status,
        body=orjson.dumps(told),
        content_type="application/json",
        headers={**headers, **_SECURITY_HEADERS, "X-Request-Id": request_id},
    )


def _allow_header(error: web.HTTPException) -> Mapping[str, str]:
    """Return the field that a 405 has to carry (RFC 9110 §15.5.6)."""
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
