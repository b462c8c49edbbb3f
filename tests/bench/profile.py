"""`python -m tests.bench.profile URL`: which code a hit spends its time in, with the upstream at URL.

Every request has a field that only the parser deals with, so each goes the whole way. cProfile makes calls dear: the
shares say where to look, not how long it takes.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import sys
from collections import Counter

import uvloop

from proxy.config.loading import load
from proxy.runtime.app import run_proxy
from tests.bench.load import TOKEN
from tests.support.processes import LOOPBACK

_HITS = 1500
_WHERE = ("proxy/web", "proxy/gateway", "proxy/core", "proxy/stores", "proxy/", "aiohttp/", "hashlib", "asyncio")


async def asked(port: int) -> None:
    """Ask for the same list again and again, on one connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    for _ in range(_HITS):
        head = f"GET /v2/images?limit=25 HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {TOKEN}\r\nTE: trailers\r\n\r\n"
        writer.write(head.encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(answer.partition("content-length: ")[2].split("\r\n")[0]))
    writer.close()


async def main(upstream: str) -> None:
    """Print the share of each part, JSON."""
    at = f"{LOOPBACK}:0"
    flags: dict[tuple[str, str], object] = {
        ("upstream", "url"): upstream,
        ("server", "listen"): at,
        ("admin", "listen"): at,
        ("log", "level"): "error",
    }
    async with run_proxy(load(None, {}, flags).settings) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        await asked(port)
        profile = cProfile.Profile()
        profile.enable()
        await asked(port)
        profile.disable()
    seconds: Counter[str] = Counter()
    # `stats` is where pstats keeps what it prints; it has no other door.
    for (file, _, name), (_, _, own_s, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        where = next((each for each in _WHERE if each in file or each in name), "built-in and other")
        seconds[where if "bench" not in file and "streams" not in file else "the client itself"] += own_s
    seconds.pop("the client itself", None)
    total_s = seconds.total()
    print(json.dumps({where: own_s / total_s for where, own_s in seconds.most_common()}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
