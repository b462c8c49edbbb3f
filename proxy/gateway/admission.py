"""What one caller may ask of the proxy, and all of them together."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from proxy.core.call_context import Priority
from proxy.errors import OverloadedError, TooManyRequestsError
from proxy.ratelimit.sliding_window import Allowance, Log, Wait, take

_MOST_CALLERS: Final = 10_000


class Admission:
    """Admits requests: *allowance* is what each caller may ask, *each* and *all* how many may be under way."""

    def __init__(
        self,
        *,
        allowance: Allowance | None = None,
        each: int | None = None,
        all_of_them: int | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._allowance = allowance
        self._each = each
        self._all = all_of_them
        self._clock = clock
        self._under_way: Counter[str] = Counter()
        self._count = 0
        self._logs: OrderedDict[str, Log] = OrderedDict()

    @property
    def counts(self) -> bool:
        """Whether each request has to be seen, for callers are limited."""
        return self._allowance is not None

    def admitted(self, caller: str) -> AbstractContextManager[None]:
        """Count a request of *caller*, and return the context at whose end it is over.

        Raises `OverloadedError` where there are too many in all, `TooManyRequestsError` where the caller has too many.
        """
        if self._all is not None and self._count >= self._all:
            raise OverloadedError(f"proxy: {self._all} requests under way, no more are taken", retry_after_s=1.0)
        if self._each is not None and self._under_way[caller] >= self._each:
            raise TooManyRequestsError(f"caller: {self._each} requests under way, no more are taken", retry_after_s=1.0)
        self._take(caller)
        self._count += 1
        if self._each is not None:
            self._under_way[caller] += 1
        return _UnderWay(self, caller)

    def over(self, caller: str) -> None:
        """Count a request of *caller* no more."""
        self._count -= 1
        if self._each is not None:
            self._under_way[caller] -= 1
            if not self._under_way[caller]:
                del self._under_way[caller]

    def _take(self, caller: str) -> None:
        if self._allowance is None:
            return
        now = self._clock()
        log = self._logs.pop(caller, None) or Log()
        verdict, self._logs[caller] = take(log, self._allowance, lease="", priority=Priority.WRITE, hold_s=0.0, now=now)
        while len(self._logs) > _MOST_CALLERS:
            self._logs.popitem(last=False)
        if isinstance(verdict, Wait):
            limit = f"{self._allowance.calls} requests in {self._allowance.per_s:g}s"
            raise TooManyRequestsError(f"caller: more than {limit}", retry_after_s=verdict.wait_s)


class _UnderWay(AbstractContextManager[None]):
    """A request that is counted; one for each, so it is no generator, which would take several times as long."""

    __slots__ = ("_admission", "_caller")

    def __init__(self, admission: Admission, caller: str) -> None:
        self._admission = admission
        self._caller = caller

    def __exit__(self, *_: object) -> None:
        self._admission.over(self._caller)
