"""The callers of a proxy that has credentials of its own: named keys, and who may write."""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections.abc import Iterable
from dataclasses import field
from typing import Final

from proxy.core.messages import Fields
from proxy.core.values import immutable

MIN_KEY_CHARS: Final = 16
# Fields that say who is asking, to the upstream or to its middleware. Only the proxy's own may reach them.
IDENTITY_FIELDS: Final = (
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "x-auth-token",
    "x-sdk-content-sha256",
    "x-sdk-date",
    "x-security-token",
    "x-service-token",
    "x-storage-token",
    "x-subject-token",
    "x-domain-id",
    "x-domain-name",
    "x-identity-status",
    "x-is-admin-project",
    "x-project-domain-id",
    "x-project-domain-name",
    "x-project-id",
    "x-project-name",
    "x-role",
    "x-roles",
    "x-service-catalog",
    "x-service-roles",
    "x-tenant",
    "x-tenant-id",
    "x-tenant-name",
    "x-user",
    "x-user-domain-id",
    "x-user-domain-name",
    "x-user-id",
    "x-user-name",
)
# Fields that turn a GET into another method for some servers. A caller that may not write must not do so by them.
METHOD_OVERRIDE_FIELDS: Final = ("x-http-method", "x-http-method-override", "x-method-override")


@immutable
class ApiKey:
    """A caller known by the digest of its key; *may_write* says whether it may change images."""

    name: str
    digest: bytes = field(repr=False)
    may_write: bool


class ApiKeysError(ValueError):
    """A callers' file that can't be used; the message says why and quotes no key."""


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """Parse a TOML file of callers: a table for each with its `key` and, if it may write, `allow_writes = true`.

    Raises `ApiKeysError`.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise ApiKeysError("no TOML") from None  # its message may quote a key
    found = tuple(_parse_api_key(name, table) for name, table in tables.items())
    if not found:
        raise ApiKeysError("no caller in it")
    if len({caller.digest for caller in found}) < len(found):
        raise ApiKeysError("two callers with one key")
    return found


def _parse_api_key(name: str, table: object) -> ApiKey:
    if not isinstance(table, dict) or not set(table) <= {"key", "allow_writes"}:
        raise ApiKeysError(f"{name}: a table with key and allow_writes is allowed")
    key, writes = table.get("key"), table.get("allow_writes", False)
    if not isinstance(key, str) or len(key) < MIN_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise ApiKeysError(f"{name}.key: a text of at least {MIN_KEY_CHARS} visible ASCII characters is allowed")
    if not isinstance(writes, bool):
        raise ApiKeysError(f"{name}.allow_writes: true or false is allowed")
    return ApiKey(name, _hash_key(key), writes)


def find_api_key(fields: Fields, api_keys: Iterable[ApiKey]) -> ApiKey | None:
    """Return the caller whose key stands in `Authorization: Bearer` or `X-Api-Key`; every key is compared, always.

    None where no key or more than one is given.
    """
    bearers = [value[7:].strip() for value in fields.get_all("authorization") if value[:7].lower() == "bearer "]
    keys = bearers + fields.get_all("x-api-key")
    if len(keys) != 1 or len(fields.get_all("authorization")) > len(bearers):
        return None
    given = _hash_key(keys[0])
    found = None
    for caller in api_keys:
        if hmac.compare_digest(caller.digest, given):
            found = caller
    return found


def _hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
