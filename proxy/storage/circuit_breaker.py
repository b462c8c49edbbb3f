"""Calls to the shared store: bounded waits, and a circuit breaker that opens on evidence alone.

Three things that look alike are kept apart:

- This process is late. Waits are measured by `LoopClock.responsive_s`, so its own delay counts against nobody.
- A request has waited long enough. It goes on without the store. Its command goes on too, and a late reply is evidence
  that the store is alive.
- The store is away. A connection that is refused or reset says so at once; silence says so only after several waits in
  a row during which no reply of any kind arrived.

While the breaker is open nobody waits. A probe of its own, not a caller's, finds out when the store is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from proxy.errors import StoreRefusedError, StoreTimeoutError, StoreUnavailableError
from proxy.observability.event_loop import LoopClock, cancel_and_wait
from proxy.observability.logging import log_event

Result = TypeVar("Result")

MAX_SILENT_WAITS: Final = 3  # waits in a row without any reply, after which the breaker opens
PROBE_S: Final = 1.0  # the longest wait for a probe's reply
_FIRST_PAUSE_S: Final = 0.05
_MIN_WAIT_S: Final = 0.001  # what is left of a time limit that was used up, for want of precision
MAX_PAUSE_S: Final = 0.5


@dataclass(slots=True)
class _WaitBudget:
    """How long one request has waited for the store, seconds."""

    spent_s: float = 0.0


_wait_budget: ContextVar[_WaitBudget | None] = ContextVar("store_patience", default=None)


def begin_request() -> None:
    """Let all store calls of the current task, and of tasks that it starts, share one time limit from here on."""
    _wait_budget.set(_WaitBudget())


class CircuitBreaker:
    """Calls a store; see the module's description.

    *timeout_s* is how long one request may wait in all, and also one call outside of requests. *probe* asks the store
    for anything; *reset* drops connections that may be dead. *on_failure* is told the operation of each call that
    failed.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        loop_clock: LoopClock,
        probe: Callable[[], Coroutine[Any, Any, object]],
        reset: Callable[[], Awaitable[None]],
        on_failure: Callable[[str], None],
    ) -> None:
        self._timeout_s = timeout_s
        self._loop_clock = loop_clock
        self._probe = probe
        self._reset = reset
        self._on_failure = on_failure
        self._commands: set[asyncio.Task[Any]] = set()
        self._silent_waits = 0
        self._silent_since_s = 0.0  # by heard time: when the first of those waits began
        self._replied_at_s = 0.0  # by heard time
        self._probing: asyncio.Task[None] | None = None
        self._closing = False
        self.open_reason = ""

    @property
    def is_open(self) -> bool:
        """Whether calls fail at once, for the store is away."""
        return bool(self.open_reason)

    async def call(
        self,
        operation: str,
        command: Callable[[], Coroutine[Any, Any, Result]],
        *,
        timeout_s: float | None = None,
        on_late_result: Callable[[Result], Coroutine[Any, Any, object]] | None = None,
        must_run: bool = False,
    ) -> Result:
        """Return what *command* returns.

        It is waited for within the current request's time limit, or for *timeout_s* where that is given. A command
        that *must_run* is begun even where its request has no time left to wait. *on_late_result* is called with its
        result where nobody waits any more when that comes.

        Raises `StoreUnavailableError` where it fails, takes too long, or is not begun; whatever *command* raises, for
        what can't make sense of a reply is no reason to fail a request.
        """
        if self.open_reason or self._closing:
            raise StoreUnavailableError(f"store: circuit breaker open: {self.open_reason or 'closing'}")
        patience = _wait_budget.get() if timeout_s is None else None
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        left_s = limit_s - patience.spent_s if patience else limit_s
        if left_s < _MIN_WAIT_S and not must_run:
            raise StoreUnavailableError("store: this request has waited for it long enough")
        task = asyncio.create_task(self._run(operation, command))
        self._commands.add(task)
        task.add_done_callback(self._forget_ended)
        began_s = self._loop_clock.responsive_s
        heard = False
        try:
            heard = await self._loop_clock.wait(task, left_s)
        finally:
            if patience:
                patience.spent_s += self._loop_clock.responsive_s - began_s
            if not heard and on_late_result is not None:
                task.add_done_callback(lambda done: self._handle_late_result(done, on_late_result))
        if heard:
            if task.cancelled():
                raise StoreUnavailableError(f"store: {operation} was given up")
            return task.result()
        if left_s >= _MIN_WAIT_S:
            self._on_failure(operation)
            self._note_silent_wait(began_s)
        raise StoreUnavailableError(f"store: no reply to {operation} in time")

    @contextmanager
    def limit_wait(self) -> Iterator[float]:
        """Give how long the current request may still wait for the store, seconds; what it waits within counts."""
        patience = _wait_budget.get()
        began_s = self._loop_clock.responsive_s
        try:
            yield max(0.0, self._timeout_s - patience.spent_s) if patience else self._timeout_s
        finally:
            if patience:
                patience.spent_s += self._loop_clock.responsive_s - began_s

    async def close(self) -> None:
        """End the probe and the commands that nobody waits for."""
        self._closing = True
        await cancel_and_wait([*([self._probing] if self._probing else []), *self._commands])

    async def _run(self, operation: str, command: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        try:
            result = await command()
        except StoreRefusedError:
            self._note_reply()
            self._on_failure(operation)
            raise
        except StoreTimeoutError:
            self._on_failure(operation)
            self._note_silent_wait(self._loop_clock.responsive_s - self._timeout_s)
            raise
        except StoreUnavailableError as error:
            self._on_failure(operation)
            self._open(str(error))
            raise
        except Exception as error:
            self._note_reply()
            self._on_failure(operation)
            log_event(
                "store_reply_not_understood", level=logging.ERROR, operation=operation, error=type(error).__name__
            )
            raise StoreRefusedError(f"store: a reply to {operation} that makes no sense") from error
        self._note_reply()
        return result

    def _forget_ended(self, task: asyncio.Task[Any]) -> None:
        self._commands.discard(task)
        if not task.cancelled():
            task.exception()  # who waited may have gone; then nobody else would look at it

    def _handle_late_result(
        self, task: asyncio.Task[Result], late: Callable[[Result], Coroutine[Any, Any, object]]
    ) -> None:
        if task.cancelled() or task.exception() is not None or self._closing:
            return
        following = asyncio.create_task(late(task.result()))
        self._commands.add(following)
        following.add_done_callback(self._forget_ended)

    def _note_reply(self) -> None:
        self._replied_at_s = self._loop_clock.responsive_s
        self._silent_waits = 0

    def _note_silent_wait(self, began_s: float) -> None:
        """Count a wait that began at *began_s* of heard time and ended without a reply."""
        if self._replied_at_s >= began_s:
            return
        if not self._silent_waits:
            self._silent_since_s = began_s
        self._silent_waits += 1
        silent_s = self._loop_clock.responsive_s - self._silent_since_s
        if self._silent_waits >= MAX_SILENT_WAITS and silent_s >= self._timeout_s:
            self._open(f"no reply of any kind for {silent_s:.1f}s", cut_off=True)

    def _open(self, reason: str, *, cut_off: bool = False) -> None:
        if self.open_reason or self._closing:
            return
        self.open_reason = reason
        log_event("circuit_open", level=logging.WARNING, dependency="store", reason=reason)
        self._probing = asyncio.create_task(self._probe_until_back(list(self._commands) if cut_off else []))

    async def _probe_until_back(self, hanging: list[asyncio.Task[Any]]) -> None:
        """Ask the store until it replies, and close the breaker. What is *hanging* is given up first."""
        opened_s = self._loop_clock.responsive_s
        if hanging:
            await cancel_and_wait(hanging)
            await self._drop_connections()
        pause_s = 0.0
        while not await self._does_reply():
            await self._drop_connections()
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), MAX_PAUSE_S)
            await asyncio.sleep(pause_s)
        self.open_reason = ""
        self._note_reply()
        log_event("circuit_closed", dependency="store", open_s=round(self._loop_clock.responsive_s - opened_s, 3))

    async def _drop_connections(self) -> None:
        """Drop connections that may be dead. Where that fails, the store is asked all the same."""
        try:
            await self._reset()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody else would find out that the store is back
            log_event("store_disconnect_failed", level=logging.ERROR, error=type(error).__name__)

    async def _does_reply(self) -> bool:
        probe = asyncio.create_task(self._probe())
        try:
            heard = await self._loop_clock.wait(probe, PROBE_S)
        finally:
            await cancel_and_wait([probe])
        if not heard or probe.cancelled():
            return False
        error = probe.exception()
        return error is None or isinstance(error, StoreRefusedError)
