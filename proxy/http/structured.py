"""Dictionaries of structured fields (RFC 9651 §4.2.2), as far as targeted cache control needs them (RFC 9213 §2.1)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_KEY: Final = re.compile(r"[a-z*][a-z0-9_.*-]*", re.ASCII)
_ITEM: Final = re.compile(
    r"""(?P<integer>-?\d{1,15})(?![\d.])
      | (?P<decimal>-?\d{1,12}\.\d{1,3})(?!\d)
      | "(?P<string>(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"
      | (?P<token>[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*)
      | :(?P<bytes>[A-Za-z0-9+/=]*):
      | \?(?P<boolean>[01])""",
    re.ASCII | re.VERBOSE,
)
_PARAMETER: Final = re.compile(r"; *[a-z*][a-z0-9_.*-]*", re.ASCII)
_COMMA: Final = re.compile(r"[ \t]*(?:,[ \t]*|$)")

Member = int | bool | str | float | bytes


def dictionary(text: str) -> dict[str, Member] | None:
    """Return the members of the dictionary *text*, None where it is none; parameters are read and dropped.

    Strings and tokens both come as `str`; inner lists make it no dictionary, for no directive has one.
    """
    members: dict[str, Member] = {}
    text = text.strip(" ")
    at = 0
    while at < len(text):
        key = _KEY.match(text, at)
        if key is None:
            return None
        value, at = _value(text, key.end())
        if value is None:
            return None
        members[key[0]] = value
        comma = _COMMA.match(text, at)
        if comma is None or (comma.end() == len(text) and "," in comma[0]):
            return None
        at = comma.end()
    return members


def _value(text: str, at: int) -> tuple[Member | None, int]:
    """Return what stands behind a key, True where there is nothing, and where it ends; None for what is malformed."""
    value: Member | None = True
    if text[at : at + 1] == "=":
        value, at = _item(text, at + 1)
    while value is not None and text[at : at + 1] == ";":
        parameter = _PARAMETER.match(text, at)
        if parameter is None:
            return None, at
        at = parameter.end()
        if text[at : at + 1] == "=":
            ignored, at = _item(text, at + 1)
            if ignored is None:
                return None, at
    return value, at


def _item(text: str, at: int) -> tuple[Member | None, int]:
    found = _ITEM.match(text, at)
    if found is None or found.lastgroup is None:
        return None, at
    return _READ[found.lastgroup](found[found.lastgroup]), found.end()


def _unescaped(raw: str) -> str:
    return raw.replace('\\"', '"').replace("\\\\", "\\")


_READ: Final[dict[str, Callable[[str], Member]]] = {
    "integer": int,
    "decimal": float,
    "string": _unescaped,
    "token": str,
    "bytes": str.encode,
    "boolean": "1".__eq__,
}
