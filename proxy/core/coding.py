"""Content codings by the caller's `Accept-Encoding` (RFC 9110 §12.5.3)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_WEIGHT: Final = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)

# What we make, in our order of preference among equals.
CODINGS: Final = ("gzip",)


@lru_cache(maxsize=1024)
def chosen(accept_encoding: str | None) -> str | None:
    """Return the coding for this caller, None for identity.

    Without the field identity is what old clients can read; a weight that is malformed counts as 0.
    """
    if accept_encoding is None:
        return None
    weights = {}
    for item in accept_encoding.split(","):
        coding, *parameters = (part.strip() for part in item.lower().split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        weights[{"x-gzip": "gzip"}.get(coding, coding)] = float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    anything = weights.get("*", 0.0)
    best = max(CODINGS, key=lambda coding: weights.get(coding, anything))
    weight_of_best = weights.get(best, anything)
    return best if weight_of_best > 0 and weight_of_best >= weights.get("identity", 0.0) else None
