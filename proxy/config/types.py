"""Kinds of values that settings take; what is not of a kind raises `ValueError`, which says what is."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from proxy.http.validation import is_host
from proxy.storage.redis_connection import parse_address

# What a URL may hold (RFC 3986, appendix A), less what none of ours does.
_URL: Final = re.compile(r"(https?)://([^/?#]+)((?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*)", re.ASCII | re.IGNORECASE)
_IPV6_ZONE: Final = re.compile(r"%[A-Za-z0-9._-]+(?=\]$)")  # of a link-local address (RFC 4007 §11)


def _split_list(value: object) -> object:
    return _split_parts(value) if isinstance(value, str) else value


def _parse_named(value: object) -> object:
    if not isinstance(value, str):
        return value
    return {name.strip(): file.strip() for name, _, file in (each.partition("=") for each in _split_parts(value))}


def _split_parts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _check_origin(value: str) -> str:
    scheme, authority, path = _check_url(value)
    if path not in ("", "/"):
        raise ValueError("an origin: scheme, host and port, without path, query or user")
    return f"{scheme}://{authority}"


def _check_base_url(value: str) -> str:
    return "{}://{}{}".format(*_check_url(value)).rstrip("/") if value else ""


def _check_iam_url(value: str) -> str:
    """Return *value* as a base; with the `/v3` that `OS_AUTH_URL` ends with, IAM would know no token."""
    url = _check_base_url(value)
    if url.endswith("/v3"):
        raise ValueError("what stands before /v3, which the proxy adds")
    return url


def _check_url(value: str) -> tuple[str, str, str]:
    """Return scheme, authority and path of *value*; raises `ValueError`, which says what is allowed."""
    found = _URL.fullmatch(value)
    if found is None or not is_host(found[2]) or found[2].endswith(":0"):
        raise ValueError("an http or https URL: scheme, host and port, in ASCII, without query or user")
    return found[1].lower(), found[2], found[3]


def _check_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not port or not is_host(f"{_IPV6_ZONE.sub('', host)}:{port}"):
        raise ValueError("HOST:PORT, an IPv6 host in brackets, 0.0.0.0 or [::] for all that the machine has")
    return value


def is_file_name(value: object) -> bool:
    """Whether *value* can be the name of a file."""
    return isinstance(value, Path) or (isinstance(value, str) and bool(value) and "\0" not in value)


def _check_file(value: object) -> object:
    if not is_file_name(value):
        raise ValueError("the name of a file")
    return value


def _check_field(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable():
        raise ValueError("one line of visible ASCII characters")
    return value


def _check_pattern(value: str) -> str:
    if not value.startswith("/") or not value.isascii() or not value.isprintable() or set(value) & set(" ?#%"):
        raise ValueError("a path that begins with /, without a query, spaces or escapes")
    return value


def _check_store_url(value: str) -> str:
    parse_address(value)
    scheme, colon, rest = value.partition(":")
    return f"{scheme.lower()}{colon}{rest}"


HostPort = Annotated[str, AfterValidator(_check_address)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Seconds = Annotated[float, Field(ge=0, le=10 * 365 * 86400, allow_inf_nan=False)]
FilePath = Annotated[Path, BeforeValidator(_check_file)]
# It stands in a field of a request.
FieldSecret = Annotated[SecretStr, AfterValidator(_check_field)]
MaxWait = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Annotated[tuple[Network, ...], BeforeValidator(_split_list)]
FilesByKey = Annotated[dict[str, FilePath], BeforeValidator(_parse_named)]
PathPattern = Annotated[str, AfterValidator(_check_pattern)]
BaseUrl = Annotated[str, AfterValidator(_check_base_url)]
IamUrl = Annotated[str, AfterValidator(_check_iam_url)]
StoreUrl = Annotated[str, AfterValidator(_check_store_url)]
