"""Programs as children of the test run: started without a shell, awaited within a time, stopped by their pid."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
_POLL_S = 0.02
_TAIL_BYTES = 4000

Argv = Sequence[str | Path]
Probe = Callable[[], bool]


class ProgramError(Exception):
    """A program that ended, or was not ready, when it should have been; the message ends with its last output."""


def tcp_open(port: int, host: str = LOOPBACK) -> Probe:
    """Return a probe: does something accept connections on *port*?"""

    def probe() -> bool:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return False
        return True

    return probe


def http_ok(port: int, target: str, host: str = LOOPBACK) -> Probe:
    """Return a probe: is *target* answered with a 2xx?"""

    def probe() -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", target)
            return connection.getresponse().status // 100 == 2
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return probe


@dataclass(frozen=True, slots=True)
class Program:
    """A running child, leader of its own process group, whose output goes to *log*."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.child.pid

    def alive(self) -> bool:
        return self.child.poll() is None

    def last_output(self) -> str:
        """Return the end of what the program has printed."""
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def wait_ready(self, probe: Probe, *, within_s: float) -> None:
        """Return once *probe* holds; raise ProgramError when the program ends first or *within_s* passes."""
        deadline = time.monotonic() + within_s
        while not probe():
            if not self.alive():
                raise ProgramError(f"{self.name}: ended with {self.child.returncode}\n{self.last_output()}")
            if time.monotonic() > deadline:
                raise ProgramError(f"{self.name}: not ready within {within_s:g}s\n{self.last_output()}")
            time.sleep(_POLL_S)

    def wait_end(self, *, within_s: float, beat: Callable[[], None] | None = None, beat_s: float = 15) -> None:
        """Return once the program has ended well, calling *beat* every *beat_s*; raise ProgramError otherwise."""
        deadline = time.monotonic() + within_s
        try:
            while self.alive() and (left_s := deadline - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.child.wait(min(beat_s, left_s))
                if beat is not None and self.alive():
                    beat()
            if self.alive():
                raise ProgramError(f"{self.name}: not done within {within_s:g}s\n{self.last_output()}")
        finally:
            self.kill()
        if self.child.returncode != 0:
            raise ProgramError(f"{self.name}: ended with {self.child.returncode}\n{self.last_output()}")

    def stop(self, *, grace_s: float = 10) -> int:
        """Ask the program to end, insist after *grace_s*, and return its exit status; a second call changes nothing."""
        if self.alive():
            self.child.send_signal(signal.SIGTERM)
            self.child.send_signal(signal.SIGCONT)  # a stopped program would never see the first one
            try:
                return self.child.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.child.wait(grace_s)

    def kill(self) -> None:
        """End the program and whatever it left in its group at once, and reap it."""
        if self.alive():
            os.killpg(self.pid, signal.SIGKILL)
        self.child.wait(10)


def start(
    argv: Argv,
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    inherited: tuple[int, ...] = (),
) -> Program:
    """Start *argv*, its output appended to *log*, its environment exactly *env* where one is given.

    Of this process's open files it gets only those whose descriptors are *inherited*.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=inherited,
            start_new_session=True,
        )
    return Program(name=Path(argv[0]).name, child=child, log=log)


@contextlib.contextmanager
def running(
    argv: Argv,
    *,
    log: Path,
    ready: Probe,
    within_s: float = 30,
    grace_s: float = 10,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Program]:
    """Hold *argv* running from the moment *ready* holds until the block ends."""
    program = start(argv, log=log, env=env, cwd=cwd)
    try:
        program.wait_ready(ready, within_s=within_s)
        yield program
    finally:
        program.stop(grace_s=grace_s)
