"""One admin port over several workers: asks each of them, and adds up what they say.

| path | answer |
|---|---|
| `/healthz` | this process's own |
| `/readyz` | 200 when every worker is ready; what each says, part by part; 503 at once when all are told to stop |
| `/metrics` | sums over the workers; of what can't be added, the least or the most |
| `/stats` | the same for its figures |
| any other | that of a worker that lives: what it is told of the store, all of them hear |

A worker guards its own port too, which is on loopback: it is asked with the same credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import aiohttp
import orjson
from aiohttp import web

from proxy.admin.app import DRAINING, healthz
from proxy.admin.auth import RefusedError, guard
from proxy.admin.kept import Families, Kept
from proxy.admin.merged import merged
from proxy.admin.samples import Samples
from proxy.admin.sums import exposition, parsed, summed
from proxy.core.values import immutable

_WAIT_S: Final = 3.0
_PURGE_WAIT_S: Final = 60.0
_LOOK_S: Final = 0.05
_SENT: Final = ("Authorization", "Accept", "Content-Type")
_OURS: Final = frozenset({"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"})


@immutable
class Said:
    """What a worker answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Workers:
    """The workers' admin ports, at *urls*."""

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession) -> None:
        self._urls = urls
        self._session = session

    @property
    def numbers(self) -> range:
        """What operators know the workers by."""
        return range(1, len(self._urls) + 1)

    async def all(self, path: str, request: web.Request | None = None) -> list[Said | None]:
        """Return what each worker answers to a GET of *path*, None for one that does not answer."""
        return list(await asyncio.gather(*(self._asked(url, "GET", path, request, b"") for url in self._urls)))

    async def any(self, request: web.Request) -> Said | None:
        """Return what a worker answers to *request*, one that says that it lives: one that hangs would hold it up."""
        body = await request.read()
        looks = [asyncio.create_task(self._living(url)) for url in self._urls]
        try:
            for look in asyncio.as_completed(looks):
                url = await look
                said = url and await self._asked(
                    url, request.method, request.raw_path, request, body, wait_s=_PURGE_WAIT_S
                )
                if said:
                    return said
            return None
        finally:
            for each in looks:
                each.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _living(self, url: str) -> str | None:
        """Return *url* if the worker there answers."""
        return url if await self._asked(url, "GET", "/healthz", None, b"") else None

    async def _asked(
        self, url: str, method: str, path: str, request: web.Request | None, body: bytes, *, wait_s: float = _WAIT_S
    ) -> Said | None:
        sent = {} if request is None else {name: request.headers[name] for name in _SENT if name in request.headers}
        limit = aiohttp.ClientTimeout(total=wait_s)
        try:
            async with self._session.request(method, url + path, data=body, headers=sent, timeout=limit) as answer:
                told = {name: value for name, value in answer.headers.items() if name.lower() not in _OURS}
                return Said(answer.status, told, await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            return None


def application(workers: Workers, *, token: str | None, is_stopping: Callable[[], bool]) -> web.Application:
    """Return the admin application over *workers*; with a *token* it is for whoever sends that.

    From when *is_stopping* on, `/readyz` asks no worker: one that hangs would delay the answer.
    """
    asked = _Asked(workers, is_stopping)
    app = web.Application(middlewares=[guard(token)])
    own = {"/healthz": healthz, "/readyz": asked.readyz, "/metrics": asked.metrics, "/stats": asked.stats}
    app.add_routes([web.get(path, handler) for path, handler in own.items()])
    app.router.add_route("*", "/{path:.*}", asked.other)
    return app


class _Asked:
    """What operators ask of all *workers* together."""

    def __init__(self, workers: Workers, is_stopping: Callable[[], bool]) -> None:
        self._workers = workers
        self._is_stopping = is_stopping
        self._kept = Kept(summed)
        self._turn = asyncio.Lock()

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer 200 while every worker is ready, 503 else, with what each says of its parts."""
        if self._is_stopping():
            ready, parts = False, {f"worker {number}: listener": DRAINING for number in self._workers.numbers}
        else:
            ready, parts = readiness(await self._workers.all("/readyz"))
        body = orjson.dumps({"ready": ready, "parts": parts})
        return web.Response(status=200 if ready else 503, body=body, content_type="application/json")

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with the sums of the workers' metrics."""
        one, families = await self._measured(request)
        if one is None or one.status != 200:
            return _passed(one)
        return web.Response(body=exposition(families), headers=one.headers)

    async def stats(self, request: web.Request) -> web.Response:
        """Answer with the figures of the status page, those of all workers as of one proxy."""
        (one, families), told = await asyncio.gather(self._measured(request), self._workers.all("/stats", request))
        refused = next((each for each in (one, *told) if each is not None and each.status != 200), None)
        figures = [orjson.loads(each.body) for each in told if each is not None]
        if refused is not None or not figures:
            return _passed(refused)
        samples = Samples(summed(families))
        return web.Response(body=orjson.dumps(merged(samples, figures)), content_type="application/json")

    async def other(self, request: web.Request) -> web.Response:
        """Answer as one of the workers does."""
        return _passed(await self._workers.any(request))

    async def _measured(self, request: web.Request) -> tuple[Said | None, list[Families]]:
        """Return the answer of a worker and the metrics of all, to be added up.

        The answer is a refusal if any worker refused, and then there are no metrics; None if no worker answered.
        """
        async with self._turn:  # so that what was said later is taken later
            said = await self._workers.all("/metrics", request)
            refused = next((each for each in said if each is not None and each.status != 200), None)
            if refused is not None:
                return refused, []
            families = self._kept.taken([parsed(each.body.decode()) if each else None for each in said])
            return next(filter(None, said), None), families


def readiness(said: Sequence[Said | None]) -> tuple[bool, dict[str, str]]:
    """Return whether every worker is ready, and what each says of its parts."""
    parts: dict[str, str] = {}
    for number, each in enumerate(said, 1):
        if each is None:
            parts[f"worker {number}"] = "not ready, does not answer"
            continue
        told: dict[str, str] = orjson.loads(each.body)["parts"]
        parts |= {f"worker {number}: {name}": text for name, text in told.items()}
    return all(each is not None and each.status == 200 for each in said), parts


async def started(workers: Workers) -> None:
    """Return when every worker has been ready once."""
    while not readiness(await workers.all("/readyz"))[0]:  # noqa: ASYNC110 - it is other processes that are waited for
        await asyncio.sleep(_LOOK_S)


def _passed(said: Said | None) -> web.Response:
    if said is None:
        raise RefusedError(503, "workers: none answers")
    return web.Response(status=said.status, body=said.body, headers=said.headers)
