"""What a caller's `Cache-Control` asks for (RFC 9111 §5.2.1)."""

from __future__ import annotations

import re
from typing import Final

from proxy.core.messages import Fields
from proxy.core.values import immutable

# What stands between commas that are in no quoted string; possessive, for a caller may send 64 KiB that match nothing.
_MEMBER: Final = re.compile(r'(?:[^",]++|"[^"]*+"|")++')
_SAID_IN: Final = frozenset({"cache-control", "pragma"})
_SECONDS: Final = re.compile(r"[0-9]{1,10}", re.ASCII)


@immutable
class Directives:
    """The directives of a request, seconds: an answer is at most *max_age_s* old and stays fresh for *min_fresh_s*.

    `no-cache` is `max-age=0`. A bound that is malformed is 0, the careful reading of an age.
    """

    max_age_s: float | None = None
    min_fresh_s: float = 0.0
    no_store: bool = False
    only_if_cached: bool = False

    def exclude(self, *, age_s: float, left_s: float) -> bool:
        """Whether the caller won't take an answer of this age that stays fresh for *left_s* more seconds.

        `max-age=0` excludes every stored answer, one that was stored this very moment included.
        """
        too_old = self.max_age_s is not None and (age_s > self.max_age_s or self.max_age_s == 0)
        return too_old or 0 < self.min_fresh_s > left_s


NONE: Final = Directives()


def directives(fields: Fields) -> Directives:
    """Return what *fields* ask for; `Pragma: no-cache` counts where there is no `Cache-Control` (RFC 9111 §5.4)."""
    if not fields.any(_SAID_IN):
        return NONE
    lines = fields.all("cache-control")
    if not lines:
        no_cache = any("no-cache" in line.lower() for line in fields.all("pragma"))
        return Directives(max_age_s=0.0) if no_cache else NONE
    said: dict[str, str] = {}
    for member in _MEMBER.findall(", ".join(lines)):
        name, _, value = member.partition("=")
        said.setdefault(name.strip().lower(), _unquoted(value.strip()))
    max_age_s = _seconds(said["max-age"]) if "max-age" in said else None
    return Directives(
        max_age_s=0.0 if "no-cache" in said else max_age_s,
        min_fresh_s=_seconds(said.get("min-fresh", "0")),
        no_store="no-store" in said,
        only_if_cached="only-if-cached" in said,
    )


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _seconds(text: str) -> float:
    return float(text) if _SECONDS.fullmatch(text) else 0.0
