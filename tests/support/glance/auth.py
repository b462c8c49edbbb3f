"""The WSGI filter that stands where Keystone's would: a token says by itself who its bearer is.

A token reads `user:project:role`. Any user and any project exist; what they see is up to Glance's own policy.
"""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

Environ = dict[str, Any]
App = Callable[[Environ, Any], Iterable[bytes]]

_TRUSTED_FIELDS = ("HTTP_X_IDENTITY_STATUS", "HTTP_X_USER_ID", "HTTP_X_PROJECT_ID", "HTTP_X_TENANT_ID", "HTTP_X_ROLES")
_ROLES = {"admin": "admin,member,reader", "member": "member,reader", "reader": "reader"}


def token(project: str, *, user: str = "someone", role: str = "member") -> str:
    """Return what *user* of *project* sends as X-Auth-Token."""
    return f"{user}:{project}:{role}"


def bearer(value: str) -> dict[str, str]:
    """Return the fields that Glance believes about the bearer of *value*, which glanceclient percent-encodes."""
    match unquote(value).split(":"):
        case [user, project, role] if user and project and role in _ROLES:
            return {
                "HTTP_X_IDENTITY_STATUS": "Confirmed",
                "HTTP_X_USER_ID": user,
                "HTTP_X_PROJECT_ID": project,
                "HTTP_X_ROLES": _ROLES[role],
            }
        case _:
            return {"HTTP_X_IDENTITY_STATUS": "Invalid"}


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[App], App]:
    """Return the filter, as Paste asks for one."""

    def filtered(app: App) -> App:
        def identified(environ: Environ, start_response: Any) -> Iterable[bytes]:
            for field in _TRUSTED_FIELDS:
                environ.pop(field, None)
            environ.update(bearer(environ.get("HTTP_X_AUTH_TOKEN", "")))
            return app(environ, start_response)

        return identified

    return filtered
