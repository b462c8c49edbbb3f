"""What a caller likes better, by the weights in its `Accept` fields (RFC 9110 §12.4.2)."""

from __future__ import annotations

import re
from typing import Final

_WEIGHT: Final = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


def weights(value: str) -> dict[str, float]:
    """Return the weight of each member of the list *value*, by its name in lower case; other parameters are dropped.

    A member without a weight has 1, one whose weight is malformed 0. Of a name that is repeated the last one counts.
    """
    found: dict[str, float] = {}
    for member in value.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        if name:
            found[name] = float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    return found
