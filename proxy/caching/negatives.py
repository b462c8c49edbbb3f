"""What the upstream refused a moment ago: it would refuse the same again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from math import floor
from typing import Final

from proxy.caching.bounded import Memo
from proxy.caching.sharing import OF_THE_CALL
from proxy.core.messages import Response

NEGATIVE: Final = frozenset({400, 404})
_REMEMBERED: Final = 2_000
_MOST_BYTES: Final = 8 * 1024


class Negatives:
    """Remembers refusals for *for_s* seconds. *clock* gives epoch seconds."""

    def __init__(self, *, for_s: float, clock: Callable[[], float]) -> None:
        self._for_s = for_s
        self._clock = clock
        self._kept: Memo[tuple[Response, float]] = Memo(_REMEMBERED)

    def given(self, at: Hashable) -> Response | None:
        """Return the refusal that is remembered under *at*, with its age (RFC 9111 §5.1)."""
        now = self._clock()
        kept = self._kept.get(at, now=now)
        if kept is None:
            return None
        response, kept_at = kept
        return replace(response, fields=response.fields.plus(("Age", str(floor(max(0.0, now - kept_at))))))

    def keep(self, at: Hashable, response: Response) -> None:
        """Remember *response* under *at*, unless it is no refusal, is long, or sets a cookie.

        Fields that describe a single call, such as its request id, are left out.
        """
        brief = len(response.body) <= _MOST_BYTES and response.fields.get("set-cookie") is None
        if response.status in NEGATIVE and brief and self._for_s > 0:
            now = self._clock()
            kept = replace(response, fields=response.fields.without(("age", *OF_THE_CALL)))
            self._kept.put(at, (kept, now), until=now + self._for_s)
