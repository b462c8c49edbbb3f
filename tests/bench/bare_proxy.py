"""`python -m tests.bench.bare_proxy PORT UPSTREAM_URL`: aiohttp's server before aiohttp's client, and nothing else.

It keeps nothing, decides nothing and looks into no body: what is left is what any proxy on aiohttp takes.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import ClientSession, web

from tests.support.processes import LOOPBACK


async def main(port: int, upstream: str) -> None:
    """Forward GETs until told to stop."""
    async with ClientSession(auto_decompress=False) as session:

        async def forwarded(request: web.Request) -> web.Response:
            fields = {"X-Auth-Token": request.headers["X-Auth-Token"]}
            async with session.get(upstream + request.path_qs, headers=fields) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        app = web.Application()
        app.router.add_get("/{path:.*}", forwarded)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
