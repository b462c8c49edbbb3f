"""Ports for programs that have to be told theirs before they start, and that keep it when they are started again."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from tests.support.processes import LOOPBACK

# Below what the system gives to who asks for any port (`ip_local_port_range`, by default from 32,768): between the
# choice of a port and its use, or while a server is dead that comes back, nobody is given it by chance.
_FIRST: Final = 12_000
_BLOCKS: Final = 100
_BLOCK_PORTS: Final = 200
_turns: Final = count()


def free_port() -> int:
    """Return a loopback port that nobody listens on and that no other process of the tests is given meanwhile.

    Each process has a block of its own, and goes around in it.
    """
    for _ in range(_BLOCK_PORTS):
        port = _block() + next(_turns) % _BLOCK_PORTS
        if _is_free(port):
            return port
    raise OSError(f"ports {_block()} to {_block() + _BLOCK_PORTS - 1}: all in use")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


@cache
def _block() -> int:
    """Return the first port of a block that this process has to itself until it ends."""
    directory = Path(tempfile.gettempdir()) / f"ims-cache-proxy-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    for number in range(_BLOCKS):
        lock = os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return _FIRST + number * _BLOCK_PORTS  # the lock goes with the process
    raise OSError(f"{directory}: all {_BLOCKS} blocks of ports are taken")
