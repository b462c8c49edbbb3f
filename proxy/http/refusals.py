"""The answers that the proxy makes itself, in the form that their reader can read; never HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from proxy.core.messages import Fields
from proxy.http.negotiation import weights

# It takes any JSON for Glance's, whose members are all objects, and stumbles over a flat one; it says `Accept: */*`.
_READS_NO_FLAT_JSON: Final = "python-glanceclient"


def told(code: str, message: str, *, request_id: str, asked: Fields) -> tuple[str, bytes]:
    """Return the content type and the body that tell an error: as the gateway before IMS does, or in plain text."""
    if in_text(asked):
        return "text/plain; charset=UTF-8", f"{code}: {message} (request {request_id})\n".encode()
    return "application/json", orjson.dumps({"error_code": code, "error_msg": message, "request_id": request_id})


def in_text(asked: Fields) -> bool:
    """Whether plain text is liked better than JSON by who *asked* (RFC 9110 §12.5.1)."""
    ranges = weights(",".join(asked.all("accept")))
    text, json = _liked(ranges, "text", "plain"), _liked(ranges, "application", "json")
    if text != json:
        return text > json
    return (asked.get("user-agent") or "").startswith(_READS_NO_FLAT_JSON) and "application/json" not in ranges


def _liked(ranges: Mapping[str, float], kind: str, subtype: str) -> float:
    """Return the weight that the nearest of *ranges* gives a type; without any, everything is liked."""
    if not ranges:
        return 1.0
    return next((ranges[name] for name in (f"{kind}/{subtype}", f"{kind}/*", "*/*") if name in ranges), 0.0)
