"""Orders to a running proxy, through its admin port."""

from __future__ import annotations

import http.client
from typing import Any, Final

import orjson

from proxy.config import AdminSection

_WAIT_S: Final = 30.0


class AdministrationError(Exception):
    """The admin port did not do what it was asked; the message says why."""


def ordered(path: str, order: object, admin: AdminSection) -> Any:
    """Post *order* as JSON to *path* of the admin port and return what it answers. Raises `AdministrationError`."""
    headers = {"Content-Type": "application/json"}
    if admin.token is not None:
        headers["Authorization"] = f"Bearer {admin.token.get_secret_value()}"
    connection = http.client.HTTPConnection(admin.listen, timeout=_WAIT_S)
    try:
        connection.request("POST", path, orjson.dumps(order), headers)
        answer = connection.getresponse()
        told = orjson.loads(answer.read())
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise AdministrationError(f"admin port {admin.listen}: {reason}") from error
    except orjson.JSONDecodeError as error:
        raise AdministrationError(f"admin port {admin.listen}: no JSON, is this an ims-proxy?") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise AdministrationError(f"admin port {admin.listen}: {told.get('error_msg', answer.status)}")
    return told
