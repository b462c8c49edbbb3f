"""What one caller may ask of the proxy, and all of them together."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from proxy.core.call_context import Priority
from proxy.errors import ClientLimitError, OverloadedError
from proxy.ratelimit.sliding_window import CallLog, RateLimit, Wait, take_slot

_MAX_TRACKED_CALLERS: Final = 10_000


class Admission:
    """Admits requests: *rate_limit* bounds each caller's rate, *max_per_caller* and *max_total* those in progress."""

    def __init__(
        self,
        *,
        rate_limit: RateLimit | None = None,
        max_per_caller: int | None = None,
        max_total: int | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._rate_limit = rate_limit
        self._max_per_caller = max_per_caller
        self._max_total = max_total
        self._clock = clock
        self._in_flight_by_caller: Counter[str] = Counter()
        self._in_flight = 0
        self._call_logs: OrderedDict[str, CallLog] = OrderedDict()

    @property
    def has_rate_limit(self) -> bool:
        """Whether each request has to be seen, for callers are limited."""
        return self._rate_limit is not None

    def admit(self, caller: str) -> AbstractContextManager[None]:
        """Count a request of *caller*, and return the context at whose end it is over.

        Raises `OverloadedError` where there are too many in all, `ClientLimitError` where the caller has too many.
        """
        if self._max_total is not None and self._in_flight >= self._max_total:
            raise OverloadedError(f"proxy: {self._max_total} requests under way, no more are taken", retry_after_s=1.0)
        if self._max_per_caller is not None and self._in_flight_by_caller[caller] >= self._max_per_caller:
            raise ClientLimitError(
                f"caller: {self._max_per_caller} requests under way, no more are taken", retry_after_s=1.0
            )
        self._enforce_rate_limit(caller)
        self._in_flight += 1
        if self._max_per_caller is not None:
            self._in_flight_by_caller[caller] += 1
        return _AdmittedRequest(self, caller)

    def release(self, caller: str) -> None:
        """Count a request of *caller* no more."""
        self._in_flight -= 1
        if self._max_per_caller is not None:
            self._in_flight_by_caller[caller] -= 1
            if not self._in_flight_by_caller[caller]:
                del self._in_flight_by_caller[caller]

    def _enforce_rate_limit(self, caller: str) -> None:
        if self._rate_limit is None:
            return
        now = self._clock()
        log = self._call_logs.pop(caller, None) or CallLog()
        verdict, self._call_logs[caller] = take_slot(
            log, self._rate_limit, lease="", priority=Priority.WRITE, hold_s=0.0, now=now
        )
        while len(self._call_logs) > _MAX_TRACKED_CALLERS:
            self._call_logs.popitem(last=False)
        if isinstance(verdict, Wait):
            limit = f"{self._rate_limit.calls} requests in {self._rate_limit.per_s:g}s"
            raise ClientLimitError(f"caller: more than {limit}", retry_after_s=verdict.wait_s)


class _AdmittedRequest(AbstractContextManager[None]):
    """A request that is counted; one for each, so it is no generator, which would take several times as long."""

    __slots__ = ("_admission", "_caller")

    def __init__(self, admission: Admission, caller: str) -> None:
        self._admission = admission
        self._caller = caller

    def __exit__(self, *_: object) -> None:
        self._admission.release(self._caller)
