"""A running proxy's admin port, as commands speak to it."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.config.model import AdminSection

_TIMEOUT_S: Final = 30.0
_MAX_BYTES: Final = 16 * 1024 * 1024


class AdminClientError(Exception):
    """The admin port did not do what it was asked; the message says why."""


class AdminClient:
    """The port at `admin.listen`, its *address*, asked with `admin.token` where there is one."""

    def __init__(self, admin: AdminSection, *, timeout_s: float = _TIMEOUT_S) -> None:
        self.address = admin.listen
        self._timeout_s = timeout_s
        self._headers = {"Authorization": f"Bearer {admin.token.get_secret_value()}"} if admin.token else {}

    def get(self, path: str, expected_types: Mapping[str, type]) -> dict[str, Any]:
        """Return what `GET` *path* answers, which holds what *expected_types* names. Raises `AdminClientError`."""
        return self._check_answer(self._request("GET", path, None, self._headers), expected_types)

    def post(self, path: str, content: object, expected_types: Mapping[str, type]) -> dict[str, Any]:
        """Post *content* as JSON to *path*; otherwise like `get`."""
        headers = self._headers | {"Content-Type": "application/json"}
        return self._check_answer(self._request("POST", path, orjson.dumps(content), headers), expected_types)

    def _check_answer(self, content: Any, expected_types: Mapping[str, type]) -> dict[str, Any]:
        if isinstance(content, dict) and all(
            isinstance(content.get(name), kind) for name, kind in expected_types.items()
        ):
            return content
        raise AdminClientError(f"admin port {self.address}: answers something else, is this an ims-proxy?")

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        connection = http.client.HTTPConnection(self.address, timeout=self._timeout_s)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            told = orjson.loads(answer.read(_MAX_BYTES))
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdminClientError(f"admin port {self.address}: {reason}") from error
        except orjson.JSONDecodeError as error:
            raise AdminClientError(f"admin port {self.address}: no JSON, is this an ims-proxy?") from error
        finally:
            connection.close()
        if answer.status != 200:
            said = told.get("error_msg", answer.status) if isinstance(told, dict) else answer.status
            raise AdminClientError(f"admin port {self.address}: {said}")
        return told
