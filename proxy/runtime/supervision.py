"""Processes side by side: started, replaced when they die, stopped together.

The supervisor serves nobody. It has no event loop and no threads, so it can fork at any time, and it takes its signals
one after the other from a queue: none arrives in the middle of something. What it opened before it forks, listening
sockets above all, its children share and inherit: connections that nobody has accepted yet outlive a worker.

It stops all of them, and says so by its exit status, when one can't be kept running: whoever started it then knows.
Should it be killed itself, its end of a pipe closes, and its children stop as if they had been told to.

When a process that ended is started anew, and when it is given up.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.core.values import immutable
from proxy.observability.logging import log_event

_FIRST_PAUSE_S: Final = 0.1
_MAX_PAUSE_S: Final = 5.0
MAX_ENDS: Final = 5
WINDOW_S: Final = 60.0


@immutable
class Restart:
    """Start it anew at the moment *at*."""

    at: float


@immutable
class GiveUp:
    """It ended *ends* times within a minute: starting it anew mends nothing."""

    ends: int


@immutable
class RecentEnds:
    """When a process ended lately, seconds of a clock that never steps back."""

    lately: tuple[float, ...] = ()

    def record_end(self, *, now: float) -> tuple[Restart | GiveUp, RecentEnds]:
        """Return what follows from one more end at *now*: a pause that doubles with each, or no further start."""
        lately = (*(at for at in self.lately if now - at < WINDOW_S), now)
        if len(lately) > MAX_ENDS:
            return GiveUp(len(lately)), RecentEnds(lately)
        pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** (len(lately) - 1))
        return Restart(now + pause_s), RecentEnds(lately)


_GRACE_S: Final = 5.0  # beyond the time that a child itself takes to stop

# Runs in the child, given the end of the pipe that reads nothing until the supervisor is gone; returns at its end.
Main = Callable[[int], None]


def stop_signals() -> frozenset[signal.Signals]:
    """Return the signals that end the proxy: SIGHUP too, unless whoever started it (nohup) had that ignored."""
    hangup = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else set()
    return frozenset({signal.SIGTERM, signal.SIGINT} | hangup)


@dataclass(slots=True)
class Child:
    """One of the processes: *stop_s* is how long it may take to stop. The *last_restart* are ended after the others.

    SIGTERM tells a child to drain and end, SIGINT to do so without a delay; one of the *last_restart* may wait for
    SIGINT.
    """

    name: str
    main: Main
    stop_s: float
    last_restart: bool = False
    pid: int | None = None
    restart_at: float | None = 0.0
    ends: RecentEnds = field(default_factory=RecentEnds)


class Supervisor:
    """Keeps *children* running until SIGTERM, SIGINT or SIGHUP, or until one can't be.

    *stopping* is called before they end. SIGINT, or any further signal while they end, is passed on as SIGINT.
    """

    def __init__(self, children: Sequence[Child], *, stopping: Callable[[], None]) -> None:
        self._children = children
        self._stopping = stopping
        self._life_pipe, self._held = os.pipe()
        self._mask: set[int] = set()
        self._signals = stop_signals() | {signal.SIGCHLD}

    def run(self) -> signal.Signals | None:
        """Return the signal that ended it, None where a child had to be given up."""
        self._mask = {int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)}
        got: signal.Signals | None = None
        try:
            got = self._watch()
            return got
        finally:
            self._stop(got)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            os.close(self._life_pipe)
            os.close(self._held)

    def _watch(self) -> signal.Signals | None:
        while True:
            now = time.monotonic()
            for child in self._children:
                if child.restart_at is not None and child.restart_at <= now:
                    self._start(child)
            waits = [child.restart_at - now for child in self._children if child.restart_at is not None]
            got = self._wait_for_signal(min(waits, default=None))
            if got and got is not signal.SIGCHLD:
                return got
            for child in self._reap():
                if not self._should_continue(child):
                    return None

    def _should_continue(self, child: Child) -> bool:
        """Return whether *child*, which has ended, is to be started anew."""
        verdict, child.ends = child.ends.record_end(now=time.monotonic())
        if isinstance(verdict, GiveUp):
            log_event("given-up", level=logging.ERROR, process=child.name, ends=verdict.ends)
            return False
        log_event("process-ended", level=logging.WARNING, process=child.name)
        child.restart_at = verdict.at
        return True

    def _start(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child.restart_at = None
        child.pid = os.fork()
        if child.pid == 0:
            self._become(child)

    def _become(self, child: Child) -> None:
        """Be *child*, and never return."""
        status = 1
        try:
            os.close(self._held)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            child.main(self._life_pipe)
            status = 0
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor's stack is not its to unwind
            reason = error.strerror if isinstance(error, OSError) else None
            log_event("process-failed", level=logging.ERROR, process=child.name, error=reason or type(error).__name__)
        finally:
            logging.shutdown()
            os._exit(status)

    def _reap(self) -> list[Child]:
        """Return the children that have ended since they were looked for."""
        gone: list[Child] = []
        while any(child.pid for child in self._children):
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            for child in self._children:
                if child.pid == pid:
                    child.pid = None
                    gone.append(child)
        return gone

    def _stop(self, got: signal.Signals | None) -> None:
        """Tell all children at once, so that the last can say that the others drain, and end the last after those."""
        self._stopping()
        first, last = ([child for child in self._children if child.last_restart is each] for each in (False, True))
        _signal(last, signal.SIGTERM)
        _signal(first, signal.SIGINT if got is signal.SIGINT else signal.SIGTERM)
        self._await_end(first)
        _signal(last, signal.SIGINT)
        self._await_end(last)

    def _await_end(self, children: Sequence[Child]) -> None:
        """Return when *children*, which were told to stop, have ended; kill those that take too long."""
        until = time.monotonic() + max((child.stop_s for child in children), default=0.0) + _GRACE_S
        while any(child.pid for child in children) and (left_s := until - time.monotonic()) > 0:
            if self._wait_for_signal(left_s) not in (None, signal.SIGCHLD):
                _signal(children, signal.SIGINT)
            self._reap()
        _signal(children, signal.SIGKILL)
        for child in children:
            if child.pid:
                os.waitpid(child.pid, 0)
                child.pid = None

    def _wait_for_signal(self, wait_s: float | None) -> signal.Signals | None:
        """Return the next signal, None where none arrives within *wait_s*."""
        if wait_s is None:
            return signal.Signals(signal.sigwaitinfo(self._signals).si_signo)
        got = signal.sigtimedwait(self._signals, max(0.0, wait_s))
        return signal.Signals(got.si_signo) if got else None


def _signal(children: Sequence[Child], number: signal.Signals) -> None:
    for child in children:
        if child.pid:
            os.kill(child.pid, number)
            os.kill(child.pid, signal.SIGCONT)  # a child that was stopped (SIGSTOP) takes no other signal until then
