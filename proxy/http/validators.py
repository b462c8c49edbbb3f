"""Entity tags and what a caller says of them (RFC 9110 §8.8.3, §13.1.2)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_ENTITY_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def entity_tag(body: bytes) -> str:
    """Return the strong entity tag of the representation *body*, without quotes."""
    return hashlib.sha256(body).hexdigest()[:24]  # processors have instructions for it: half the time of BLAKE2b


def is_entity_tag(text: str | None) -> bool:
    """Whether *text* is one entity tag, weak or strong."""
    return text is not None and _ENTITY_TAG.fullmatch(text) is not None


def none_match(values: list[str], tag: str) -> bool:
    """Whether `If-None-Match` names the quoted *tag* or anything, compared weakly; then the answer is 304."""
    joined = ", ".join(values).strip()
    return joined == "*" or tag in _ENTITY_TAG.findall(joined)
