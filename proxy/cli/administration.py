"""A running proxy's admin port, as commands speak to it."""

from __future__ import annotations

import http.client
from typing import Any, Final

import orjson

from proxy.config import AdminSection

_WAIT_S: Final = 30.0


class AdministrationError(Exception):
    """The admin port did not do what it was asked; the message says why."""


class AdminPort:
    """The port at `admin.listen`, its *address*, asked with `admin.token` where there is one."""

    def __init__(self, admin: AdminSection, *, wait_s: float = _WAIT_S) -> None:
        self.address = admin.listen
        self._wait_s = wait_s
        self._headers = {"Authorization": f"Bearer {admin.token.get_secret_value()}"} if admin.token else {}

    def told(self, path: str) -> Any:
        """Return what `GET` *path* answers. Raises `AdministrationError`."""
        return self._asked("GET", path, None, self._headers)

    def ordered(self, path: str, order: object) -> Any:
        """Post *order* as JSON to *path* and return what it answers. Raises `AdministrationError`."""
        return self._asked("POST", path, orjson.dumps(order), self._headers | {"Content-Type": "application/json"})

    def _asked(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        connection = http.client.HTTPConnection(self.address, timeout=self._wait_s)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            told = orjson.loads(answer.read())
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
