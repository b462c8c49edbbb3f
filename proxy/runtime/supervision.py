"""Processes side by side: started, replaced when they die, stopped together.

The supervisor serves nobody. It has no event loop and no threads, so it can fork at any time, and it takes its signals
one after the other from a queue: none arrives in the middle of something. What it opened before it forks, listening
sockets above all, its children share and inherit: connections that nobody has accepted yet outlive a worker.

It stops all of them, and says so by its exit status, when one can't be kept running: whoever started it then knows.
Should it be killed itself, its end of a pipe closes, and its children stop as if they had been told to.
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

_MIN_RESTART_DELAY_S: Final = 0.1
_MAX_RESTART_DELAY_S: Final = 5.0
MAX_EXITS: Final = 5
EXIT_PERIOD_S: Final = 60.0


@immutable
class Restart:
    """Start it anew at the moment *restart_at*."""

    restart_at: float


@immutable
class GiveUp:
    """It ended *exit_count* times within a minute: starting it anew mends nothing."""

    exit_count: int


@immutable
class ExitHistory:
    """When a process ended lately, seconds of a clock that never steps back."""

    exit_times: tuple[float, ...] = ()

    def record_exit(self, *, now: float) -> tuple[Restart | GiveUp, ExitHistory]:
        """Return what follows from one more end at *now*: a pause that doubles with each, or no further start."""
        exit_times = (*(at for at in self.exit_times if now - at < EXIT_PERIOD_S), now)
        if len(exit_times) > MAX_EXITS:
            return GiveUp(len(exit_times)), ExitHistory(exit_times)
        delay_s = min(_MAX_RESTART_DELAY_S, _MIN_RESTART_DELAY_S * 2 ** (len(exit_times) - 1))
        return Restart(now + delay_s), ExitHistory(exit_times)


_STOP_GRACE_S: Final = 5.0  # beyond the time that a child itself takes to stop

# Runs in the child, given the end of the pipe that reads nothing until the supervisor is gone; returns at its end.
ChildMain = Callable[[int], None]


def stop_signals() -> frozenset[signal.Signals]:
    """Return the signals that end the proxy: SIGHUP too, unless whoever started it (nohup) had that ignored."""
    hangup = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else set()
    return frozenset({signal.SIGTERM, signal.SIGINT} | hangup)


@dataclass(slots=True)
class ChildProcess:
    """One of the processes: *stop_timeout_s* is how long it may take to stop. The *stops_last* are ended after the
    others.

    SIGTERM tells a child to drain and end, SIGINT to do so without a delay; one of the *stops_last* may wait for
    SIGINT.
    """

    name: str
    main: ChildMain
    stop_timeout_s: float
    stops_last: bool = False
    pid: int | None = None
    restart_at: float | None = 0.0
    exit_history: ExitHistory = field(default_factory=ExitHistory)


class Supervisor:
    """Keeps *children* running until SIGTERM, SIGINT or SIGHUP, or until one can't be.

    *on_stopping* is called before they end. SIGINT, or any further signal while they end, is passed on as SIGINT.
    """

    def __init__(self, children: Sequence[ChildProcess], *, on_stopping: Callable[[], None]) -> None:
        self._children = children
        self._on_stopping = on_stopping
        self._life_pipe_reader, self._life_pipe_writer = os.pipe()
        self._original_mask: set[int] = set()
        self._handled_signals = stop_signals() | {signal.SIGCHLD}

    def run(self) -> signal.Signals | None:
        """Return the signal that ended it, None where a child had to be given up."""
        self._original_mask = {int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, self._handled_signals)}
        stop_signal: signal.Signals | None = None
        try:
            stop_signal = self._run_until_signal()
            return stop_signal
        finally:
            self._stop_children(stop_signal)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._original_mask)
            os.close(self._life_pipe_reader)
            os.close(self._life_pipe_writer)

    def _run_until_signal(self) -> signal.Signals | None:
        while True:
            now = time.monotonic()
            for child in self._children:
                if child.restart_at is not None and child.restart_at <= now:
                    self._start_child(child)
            waits = [child.restart_at - now for child in self._children if child.restart_at is not None]
            received = self._wait_for_signal(min(waits, default=None))
            if received and received is not signal.SIGCHLD:
                return received
            for child in self._reap_children():
                if not self._schedule_restart(child):
                    return None

    def _schedule_restart(self, child: ChildProcess) -> bool:
        """Return whether *child*, which has ended, is to be started anew."""
        verdict, child.exit_history = child.exit_history.record_exit(now=time.monotonic())
        if isinstance(verdict, GiveUp):
            log_event("worker_restarts_exhausted", level=logging.ERROR, process=child.name, exits=verdict.exit_count)
            return False
        log_event("worker_exited", level=logging.WARNING, process=child.name)
        child.restart_at = verdict.restart_at
        return True

    def _start_child(self, child: ChildProcess) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child.restart_at = None
        child.pid = os.fork()
        if child.pid == 0:
            self._run_child(child)

    def _run_child(self, child: ChildProcess) -> None:
        """Be *child*, and never return."""
        status = 1
        try:
            os.close(self._life_pipe_writer)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._original_mask)
            child.main(self._life_pipe_reader)
            status = 0
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor's stack is not its to unwind
            reason = error.strerror if isinstance(error, OSError) else None
            log_event(
                "worker_start_failed", level=logging.ERROR, process=child.name, error=reason or type(error).__name__
            )
        finally:
            logging.shutdown()
            os._exit(status)

    def _reap_children(self) -> list[ChildProcess]:
        """Return the children that have ended since they were looked for."""
        exited: list[ChildProcess] = []
        while any(child.pid for child in self._children):
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            for child in self._children:
                if child.pid == pid:
                    child.pid = None
                    exited.append(child)
        return exited

    def _stop_children(self, stop_signal: signal.Signals | None) -> None:
        """Tell all children at once, so that the last can say that the others drain, and end the last after those."""
        self._on_stopping()
        first, last = ([child for child in self._children if child.stops_last is each] for each in (False, True))
        _send_signal(last, signal.SIGTERM)
        _send_signal(first, signal.SIGINT if stop_signal is signal.SIGINT else signal.SIGTERM)
        self._wait_for_exit(first)
        _send_signal(last, signal.SIGINT)
        self._wait_for_exit(last)

    def _wait_for_exit(self, children: Sequence[ChildProcess]) -> None:
        """Return when *children*, which were told to stop, have ended; kill those that take too long."""
        deadline = time.monotonic() + max((child.stop_timeout_s for child in children), default=0.0) + _STOP_GRACE_S
        while any(child.pid for child in children) and (remaining_s := deadline - time.monotonic()) > 0:
            if self._wait_for_signal(remaining_s) not in (None, signal.SIGCHLD):
                _send_signal(children, signal.SIGINT)
            self._reap_children()
        _send_signal(children, signal.SIGKILL)
        for child in children:
            if child.pid:
                os.waitpid(child.pid, 0)
                child.pid = None

    def _wait_for_signal(self, timeout_s: float | None) -> signal.Signals | None:
        """Return the next signal, None where none arrives within *timeout_s*."""
        if timeout_s is None:
            return signal.Signals(signal.sigwaitinfo(self._handled_signals).si_signo)
        received = signal.sigtimedwait(self._handled_signals, max(0.0, timeout_s))
        return signal.Signals(received.si_signo) if received else None


def _send_signal(children: Sequence[ChildProcess], signum: signal.Signals) -> None:
    for child in children:
        if child.pid:
            os.kill(child.pid, signum)
            os.kill(child.pid, signal.SIGCONT)  # a child that was stopped (SIGSTOP) takes no other signal until then
