"""A gateway that asks by credentials of its own, which rotate while requests wait: at the store, or at the upstream."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.config.policies import make_list_rules
from proxy.core.messages import Fields, Request
from proxy.gateway.gateway import ClientConnection
from proxy.observability.logging import Telemetry
from proxy.runtime.container import Engines, IdentityParts, make_engines
from proxy.runtime.shield import RateLimiting
from tests.support.held import HeldStore, TellingWho
from tests.support.listings import SECRET, Hand
from tests.support.running import settings_for

LIST = "/v2/images?limit=5"
IMAGE = "/v2/images/an-image"
READER = "key-of-the-reader-0123"
ANOTHER = "key-of-another-0123456"


@dataclass
class Own:
    """A gateway in `gateway` mode, whose access key and callers stand in files."""

    upstream: TellingWho
    store: HeldStore
    shield: RateLimiting
    answering: Engines
    hand: Hand
    key_file: Path
    callers_file: Path

    def rotate(self, access: str) -> None:
        """Make the proxy another from now on."""
        _write(self.key_file, access)

    def allow(self, *keys: str, reads: tuple[str, ...] = ()) -> None:
        """Let those in who have one of *keys*, to write too, or one that *reads*, and nobody else."""
        tables = (
            f'[caller{number}]\nkey = "{key}"\nallow_writes = {str(key in keys).lower()}\n'
            for number, key in enumerate((*keys, *reads))
        )
        _write(self.callers_file, "\n".join(tables))

    async def get(
        self,
        target: str = LIST,
        *,
        key: str = READER,
        method: str = "GET",
        fields: Iterable[tuple[str, str]] = (),
        body: AsyncIterator[bytes] | None = None,
    ) -> Got:
        """Return the answer to a request, which says that its *body* is short; bounded in time.

        It has the *key* where it has no other *fields*.
        """
        sized = [("Content-Length", "2")] if body is not None else []
        lines = [*(fields or [("X-Api-Key", key)]), *sized]
        request = Request(method, target, Fields(lines), "request-id", body)
        async with (
            asyncio.timeout(60),
            self.answering.gateway.answer(request, ClientConnection("127.0.0.1", "")) as answer,
        ):
            if answer.response is not None:
                status, told = answer.response.status, answer.response.body
            else:
                assert answer.streamed is not None
                status, told = answer.streamed.status, b"".join([each async for each in answer.streamed.chunks])
            return Got(status, told, str(answer.cache_status))

    async def waiting(self, count: int, *, at: asyncio.Event, **named: Any) -> list[asyncio.Task[Got]]:
        """Return *count* requests that wait, the first of them until *at* was set."""
        at.clear()
        tasks = [asyncio.ensure_future(self.get(**named)) for _ in range(count)]
        async with asyncio.timeout(60):
            await at.wait()
        await asyncio.sleep(0)
        return tasks

    async def close(self) -> None:
        """Let everything go on, and end it."""
        self.store.gate.set()
        self.upstream.gate.set()
        await self.answering.close()
        await self.shield.close()

    async def settled(self) -> None:
        """Return when nothing is done in the background any more."""
        async with asyncio.timeout(60):
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)


def _write(file: Path, text: str) -> None:
    """Write *text*, and let it be seen: to the system two writes within a few milliseconds may be at one time."""
    written_at = file.stat().st_mtime_ns
    file.write_text(text)
    os.utime(file, ns=(written_at + 1_000_000_000, written_at + 1_000_000_000))


@dataclass(frozen=True)
class Got:
    """What came back; *shown* is the access key whose images are in it."""

    status: int
    body: bytes
    cache_status: str

    @property
    def shown(self) -> str:
        """Whose images these are."""
        found = orjson.loads(self.body)
        (owner,) = {image["owner"] for image in found.get("images", [found])}
        assert isinstance(owner, str)
        return owner

    @property
    def hit(self) -> bool:
        """Whether the store had it."""
        return self.cache_status.startswith("ims-proxy; hit")


MakeOwn = Callable[..., Own]


@pytest.fixture
async def make_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeOwn]:
    """Make a gateway, whose files count as soon as they change; it ends with the test."""
    monkeypatch.setattr("proxy.config.reload.CHECK_INTERVAL_S", 0.0)
    made: list[Own] = []

    def one(**sections: dict[str, Any]) -> Own:
        made.append(made_own(tmp_path, **sections))
        return made[-1]

    yield one
    for each in made:
        await each.close()


@pytest.fixture
def own(make_own: MakeOwn) -> Own:
    """A gateway without readahead."""
    return make_own()


def made_own(directory: Path, **sections: dict[str, Any]) -> Own:
    """Return a gateway whose files are in *directory*; *sections* add to its settings."""
    key_file, callers_file = directory / "access_key", directory / "callers.toml"
    key_file.write_text("AK-ONE")
    hand, upstream, store = Hand(), TellingWho(), HeldStore()
    callers_file.write_text(f'[reader]\nkey = "{READER}"\n\n[another]\nkey = "{ANOTHER}"\n')
    identity = {"mode": "gateway", "access_key": "AK-ONE", "access_key_file": key_file, "secret_key": "a secret"}
    identity |= {"secret": SECRET.decode(), "api_keys_file": callers_file, "project_id": "p"}
    identity |= sections.pop("identity", {})
    at_most = {"retries": 0} | sections.pop("upstream", {})
    settings = settings_for("http://ims.example", identity=identity, upstream=at_most, **sections)
    asks = make_list_rules(settings, SECRET)

    async def tell(_: list[str]) -> None:
        raise AssertionError("no verdict is kept here")

    telemetry = Telemetry()
    entrance = IdentityParts(settings, iam=None, publish_tags=tell)
    shield = RateLimiting(settings, upstream, None, telemetry)
    made = make_engines(
        settings,
        entrance.add_upstream_auth(shield.limiter, asks.partitioner, None),
        store,
        asks,
        telemetry=telemetry,
        clock=hand,
        rng=lambda: 0.0,
        authenticator=entrance.make_authenticator(asks.partitioner),
    )
    return Own(upstream, store, shield, made, hand, key_file, callers_file)
