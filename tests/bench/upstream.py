"""An upstream that costs next to nothing: lists made once, written as they are.

`python -m tests.bench.upstream PORT`. A list with `tag=gzip` in its query comes compressed; `/calls` says how many
lists were given so far, which shows whether hits were hits; `/v2/images/{id}/file` is as long as its id says, in MiB.
"""

import asyncio
import re
import sys
import zlib
from functools import cache
from typing import cast

import orjson
import uvloop

from proxy.demo.seed import GOLD_PROJECT, generate_images

_LIMIT = re.compile(rb"[?&]limit=(\d+)")
_FILE = re.compile(rb"/v2/images/(\d+)/file")
_MIB = bytes(1 << 20)
_MOST = 1000


@cache
def _image_bytes() -> tuple[tuple[str, bytes], ...]:
    return tuple((image.id, image.json_bytes) for image in generate_images(_MOST, owners=(GOLD_PROJECT,)))


@cache
def page(count: int, *, gzipped: bool) -> bytes:
    """Return the whole answer, head and body, with the first *count* images and a link to the next page."""
    shown = _image_bytes()[:count]
    link = f"/v2/images?limit={count}&marker={shown[-1][0]}"
    head = {"schema": "/v2/schemas/images", "first": f"/v2/images?limit={count}", "next": link}
    body = orjson.dumps(head)[:-1] + b',"images":[' + b",".join(rendered for _, rendered in shown) + b"]}"
    if gzipped:
        return _answer(zlib.compress(body, 6, wbits=31), b"Content-Encoding: gzip\r\n")
    return _answer(body)


def _answer(body: bytes, more: bytes = b"") -> bytes:
    lines = b"Content-Type: application/json; charset=UTF-8\r\nVary: Accept-Encoding\r\n" + more
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)


class Connection(asyncio.Protocol):
    """One connection; a request is its first line and the blank line at its end."""

    calls = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from none of asyncio's
        self._head = b""
        self._writable = asyncio.Event()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head:
            head, _, self._head = self._head.partition(b"\r\n\r\n")
            self._request(head.split(b" ", 2)[1])

    def _request(self, target: bytes) -> None:
        if target == b"/calls":
            self._transport.write(_answer(b"%d" % Connection.calls))
        elif file := _FILE.fullmatch(target):
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (int(file[1]) << 20))
            self._task = asyncio.create_task(self._stream(int(file[1])))
        else:
            Connection.calls += 1
            limit = _LIMIT.search(target)
            count = min(int(limit[1]), _MOST) if limit else 25
            self._transport.write(page(count, gzipped=b"tag=gzip" in target))

    async def _stream(self, mib: int) -> None:
        for _ in range(mib):
            await self._writable.wait()
            self._transport.write(_MIB)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()


async def main(port: int) -> None:
    """Listen until the process ends."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
