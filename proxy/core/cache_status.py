"""Decisions as values, and how they are told to the caller: `Cache-Status` (RFC 9211)."""

from __future__ import annotations

from enum import Enum
from typing import Final

from proxy.core.values import immutable

CACHE_NAME: Final = "ims-proxy"


class FwdReason(Enum):
    """Why a request went forward (RFC 9211 §2.2)."""

    BYPASS = "bypass"
    METHOD = "method"
    URI_MISS = "uri-miss"
    MISS = "miss"
    REQUEST = "request"
    STALE = "stale"
    PARTIAL = "partial"


@immutable
class CacheStatus:
    """What happened to one request, in the parameters of RFC 9211 §2; *ttl_s* is what is left and may be negative."""

    fwd: FwdReason | None = None
    fwd_status: int | None = None
    ttl_s: float | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None

    @property
    def label(self) -> str:
        """The one word that stands in metrics and logs."""
        return "hit" if self.fwd is None else self.fwd.value

    def __str__(self) -> str:
        """Return the field value; *detail* is one of our own tokens, never a caller's text."""
        parts = [CACHE_NAME, "hit" if self.fwd is None else f"fwd={self.fwd.value}"]
        if self.fwd_status is not None:
            parts.append(f"fwd-status={self.fwd_status}")
        if self.ttl_s is not None:
            parts.append(f"ttl={int(self.ttl_s // 1)}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.detail is not None:
            parts.append(f"detail={self.detail}")
        return "; ".join(parts)
