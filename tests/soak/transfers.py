"""Images of any size through a proxy: an origin that takes and gives them, a caller, and a digest at both ends."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlsplit

_BLOCK_BYTES = 256 * 1024
_PATTERN = hashlib.shake_256(b"an image").digest(_BLOCK_BYTES)
_WAIT_S = 60.0


def content(size: int) -> Iterator[bytes]:
    """Yield *size* bytes in blocks, no two of them alike."""
    number = 0
    while size > 0:
        block = (number.to_bytes(8, "big") + _PATTERN[8:])[:size]
        yield block
        size -= len(block)
        number += 1


@dataclass(frozen=True, slots=True)
class Transfer:
    """One image on its way: the digests *sent* and *received*, how many bytes in how many seconds."""

    sent: str
    received: str
    size: int
    elapsed_s: float

    @property
    def megabytes_per_s(self) -> float:
        return self.size / self.elapsed_s / 1e6


class _Origin:
    """Takes what is put, tells its digest, and gives images of the size that the query names."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(_WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_WAIT_S)
        with connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                fields = dict(_fields(stream))
                method, target, _ = line.split()
                if method == b"PUT":
                    digest = _digest(_chunks(stream) if b"transfer-encoding" in fields else _plain(stream, fields))
                    connection.sendall(b"HTTP/1.1 204 No Content\r\nX-Digest: " + digest.encode() + b"\r\n\r\n")
                else:
                    size = int(target.rpartition(b"=")[2])
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                    for block in content(size):
                        connection.sendall(block)


def _fields(stream: BufferedReader) -> Iterator[tuple[bytes, bytes]]:
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        yield name.lower(), value.strip()


def _plain(stream: BufferedReader, fields: dict[bytes, bytes]) -> Iterator[bytes]:
    left = int(fields[b"content-length"])
    while left:
        block = stream.read(min(left, _BLOCK_BYTES))
        assert block, "the body ends before its length"
        yield block
        left -= len(block)


def _chunks(stream: BufferedReader) -> Iterator[bytes]:
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        assert stream.readline() == b"\r\n"
    assert stream.readline() == b"\r\n"


def _digest(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def origin() -> Iterator[str]:
    """Give the URL of an origin for as long as the context lasts."""
    serving = _Origin()
    try:
        yield serving.url
    finally:
        serving.close()


def uploaded(url: str, size: int, *, chunked: bool = False) -> Transfer:
    """Put an image of *size* bytes to *url*, by its length or in chunks."""
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    digest = hashlib.sha256()
    began = time.perf_counter()
    with _connected(url) as connection:
        connection.sendall(b"PUT /v2/images/x/file HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
        for block in content(size):
            digest.update(block)
            connection.sendall(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        with connection.makefile("rb") as stream:
            assert b" 204 " in stream.readline()
            received = dict(_fields(stream))[b"x-digest"].decode()
    return Transfer(digest.hexdigest(), received, size, time.perf_counter() - began)


def downloaded(url: str, size: int) -> Transfer:
    """Get an image of *size* bytes from *url*."""
    began = time.perf_counter()
    with _connected(url) as connection, connection.makefile("rb") as stream:
        connection.sendall(b"GET /v2/images/x/file?size=%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
        assert b" 200 " in stream.readline()
        received = _digest(_plain(stream, dict(_fields(stream))))
    elapsed_s = time.perf_counter() - began
    return Transfer(_digest(content(size)), received, size, elapsed_s)


@contextmanager
def _connected(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with socket.create_connection((parts.hostname, parts.port), timeout=_WAIT_S) as connection:
        yield connection


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has held so far, resident, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
