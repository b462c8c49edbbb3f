"""A real Redis (or Valkey) on loopback, which a test may kill, restart, freeze and thaw."""

import shutil
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, Program, ProgramError, start

_BINARIES = ("redis-server", "valkey-server")
_START_S = 60.0
_STOP_S = 20.0


def redis_binary() -> str:
    """Return the server's path; raise ProgramError naming the package that brings one."""
    for name in _BINARIES:
        if found := shutil.which(name):
            return found
    raise ProgramError("redis-server: not on PATH; install it with `apt-get install redis-server` (or valkey-server)")


class RedisServer:
    """A server that keeps nothing on disk, so every (re)start is an empty one at the same address.

    It listens on a free loopback port and on a Unix socket in *directory*, which it has to itself.
    *options* are further words of its command line, such as `("--requirepass", "secret")`.
    """

    def __init__(self, directory: Path, *, options: tuple[str, ...] = ()) -> None:
        self.port = free_port()
        self.socket_path = directory / "redis.sock"
        self._log = directory / "redis.log"
        self._directory = directory
        self.options = options
        self._program: Program | None = None

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        return self.program.pid

    @property
    def program(self) -> Program:
        assert self._program is not None, "not started"
        return self._program

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return once it answers commands."""
        assert self._program is None or not self._program.alive(), "already running"
        self._program = start(self._command(), log=self._log, cwd=self._directory)
        try:
            self._program.wait_ready(self._answers, within_s=_START_S)
        except BaseException:
            self._program.kill()
            raise

    def stop(self) -> None:
        """End the server in order; clients see their connections closed."""
        if self._program is not None:
            self._program.stop(grace_s=_STOP_S)

    def kill(self) -> None:
        """End the server at once, as a crash would; connections are reset and new ones refused."""
        self.program.kill()

    def restart(self) -> None:
        """Come back, empty, at the same address, whether or not the server still runs."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open and are still accepted by the kernel, but nothing answers."""
        self.program.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Thaw a frozen server, which then answers what it was asked meanwhile."""
        self.program.child.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> None:
        """Send a command and wait for its reply, which must not be an error."""
        text = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words))
        with socket.create_connection((LOOPBACK, self.port), timeout=_START_S) as connection:
            connection.sendall(b"*%d\r\n%s" % (len(words), text))
            reply = connection.recv(4096)
        if not reply.startswith((b"+", b":", b"$", b"*")):
            raise ProgramError(f"redis: {words[0]}: {reply!r}")

    def _command(self) -> list[str | Path]:
        return [
            redis_binary(),
            *("--bind", LOOPBACK, "--port", str(self.port)),
            *("--unixsocket", str(self.socket_path)),
            *("--save", "", "--appendonly", "no", "--dir", str(self._directory)),
            *self.options,
        ]

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False
