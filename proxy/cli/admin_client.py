"""A running proxy's admin port, as commands speak to it."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.config.model import AdminSection

_WAIT_S: Final = 30.0
_MAX_BYTES: Final = 16 * 1024 * 1024


class AdministrationError(Exception):
    """The admin port did not do what it was asked; the message says why."""


class AdminPort:
    """The port at `admin.listen`, its *address*, asked with `admin.token` where there is one."""

    def __init__(self, admin: AdminSection, *, wait_s: float = _WAIT_S) -> None:
        self.address = admin.listen
        self._wait_s = wait_s
        self._headers = {"Authorization": f"Bearer {admin.token.get_secret_value()}"} if admin.token else {}

    def get(self, path: str, holding: Mapping[str, type]) -> dict[str, Any]:
        """Return what `GET` *path* answers, which holds what *holding* names. Raises `AdministrationError`."""
        return self._check_answer(self._request("GET", path, None, self._headers), holding)

    def post(self, path: str, order: object, holding: Mapping[str, type]) -> dict[str, Any]:
        """Post *order* as JSON to *path*; see `told`."""
        headers = self._headers | {"Content-Type": "application/json"}
        return self._check_answer(self._request("POST", path, orjson.dumps(order), headers), holding)

    def _check_answer(self, told: Any, holding: Mapping[str, type]) -> dict[str, Any]:
        if isinstance(told, dict) and all(isinstance(told.get(name), kind) for name, kind in holding.items()):
            return told
        raise AdministrationError(f"admin port {self.address}: answers something else, is this an ims-proxy?")

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        connection = http.client.HTTPConnection(self.address, timeout=self._wait_s)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            told = orjson.loads(answer.read(_MAX_BYTES))
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdministrationError(f"admin port {self.address}: {reason}") from error
        except orjson.JSONDecodeError as error:
            raise AdministrationError(f"admin port {self.address}: no JSON, is this an ims-proxy?") from error
        finally:
            connection.close()
        if answer.status != 200:
            said = told.get("error_msg", answer.status) if isinstance(told, dict) else answer.status
            raise AdministrationError(f"admin port {self.address}: {said}")
        return told
