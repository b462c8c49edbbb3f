"""Several workers behind one port, as processes: they share, are replaced, and end together."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
from redis.asyncio import Redis

from proxy.demo.app import ImsLookalike
from tests.support.commands import ON_FREE_PORTS, Started, command
from tests.support.redis import RedisServer
from tests.support.running import Answer, a_client
from tests.support.waiting import until

LIST = "/v2/images?limit=5"
REPO = Path(__file__).parents[3]


@dataclass
class Pair:
    """A proxy of two workers: the supervisor's children are the first worker, the second, and who serves operators."""

    started: Started
    url: str
    admin_url: str

    @property
    def pids(self) -> list[int]:
        """The children, in the order they were started."""
        pid = self.started.child.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def connections(self) -> list[int]:
        """Return how many callers' connections each child has accepted and not closed."""
        port, established = f"{urlsplit(self.url).port:04X}", set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[1].endswith(f":{port}") and words[3] == "01":
                established.add(f"socket:[{words[9]}]")
        return [len(_open_files(pid) & established) for pid in self.pids]  # who serves operators has none

    async def ask(self, target: str, *, worker: int) -> Answer:
        """Return what *worker* answers on a new connection: the other one is frozen meanwhile."""
        frozen = self.pids[1 - worker]
        os.kill(frozen, signal.SIGSTOP)
        try:
            async with a_client(self.url) as client:
                return await client.ask(target)
        finally:
            os.kill(frozen, signal.SIGCONT)


def _open_files(pid: int) -> set[str]:
    """Return what the process has open, less what it closes meanwhile."""
    names = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.add(descriptor.readlink().name)
    return names


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a child find this very package wherever it is started."""
    monkeypatch.setenv("PYTHONPATH", str(REPO))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the workers share."""
    with RedisServer(tmp_path) as running:
        yield running


@asynccontextmanager
async def a_pair(upstream: ImsLookalike, at: Path, store: str, **settings: str) -> AsyncIterator[Pair]:
    words = ("serve", "--upstream", upstream.base_url, "--store", store, *ON_FREE_PORTS)
    async with command(*words, at=at, SERVER__WORKERS="2", **settings) as started:
        yield Pair(started, *await started.listening())


async def stores_a_span(redis: RedisServer) -> bool:
    """Return whether Redis has a span, and the lock of its fetch was released: that is done behind the answer."""
    async with Redis.from_url(redis.url) as client:
        spans = [name async for name in client.scan_iter("*:s:*")]
        locks = [name async for name in client.scan_iter("*:c:*")]
        return bool(spans) and not locks


async def test_one_store(upstream: ImsLookalike, tmp_path: Path, redis: RedisServer) -> None:
    """What one worker fetched the other gives; what was written through one, neither gives as it was."""
    async with a_pair(upstream, tmp_path, redis.url) as pair:
        before = await pair.ask(LIST, worker=0)
        assert not before.hit
        await until(partial(stores_a_span, redis))
        again = await pair.ask(LIST, worker=1)
        assert again.hit
        assert again.body == before.body
        async with a_client(pair.url) as client:
            assert (await client.ask(f"/v2/images/{before.ids[0]}", method="DELETE")).status == 204
        for worker in (0, 1):
            assert before.ids[0] not in (await pair.ask(LIST, worker=worker)).ids


async def test_operators(upstream: ImsLookalike, tmp_path: Path, redis: RedisServer) -> None:
    """One admin port speaks of both: sums, readiness, and a purge that both obey."""
    async with a_pair(upstream, tmp_path, redis.url, ADMIN__TOKEN="operators-only") as pair:
        await pair.ask(LIST, worker=0)
        await until(partial(stores_a_span, redis))
        await pair.ask(LIST, worker=1)
        async with a_client(pair.admin_url) as operator:
            told = (await operator.ask("/readyz", token=None)).json()
            assert told["ready"]
            assert set(told["parts"]) >= {"worker 1: store", "worker 2: store"}
            assert (await operator.ask("/metrics", token=None)).status == 401
            key = "Bearer operators-only"
            metrics = (await operator.ask("/metrics", token=None, Authorization=key)).body.decode()
            assert 'ims_proxy_requests_total{cache_status="hit",route="list",status="200"} 1.0' in metrics
            assert 'ims_proxy_requests_total{cache_status="uri-miss",route="list",status="200"} 1.0' in metrics
            stats = (await operator.ask("/stats", token=None, Authorization=key)).json()
            assert (stats["processes"], stats["requests"]["total"], stats["upstream"]["calls"]) == (2, 2, 1)
            assert stats["store"]["replicas"] == 2
            purged = await operator.ask(
                "/purge",
                method="POST",
                token=None,
                body=orjson.dumps({"all": True}),
                Authorization=key,
                Content_Type="application/json",
            )
            assert purged.json() == {"dropped": 1}
            page = await operator.ask("/", token=None)
            assert page.fields["Content-Type"].startswith("text/html")
            assert "Content-Security-Policy" in page.fields
        assert not (await pair.ask(LIST, worker=1)).hit
        await until(partial(stores_a_span, redis))
        await pair.ask(LIST, worker=0)
        assert upstream.call_counts == {"GET /v2/images": 2}


async def test_replaced(upstream: ImsLookalike, tmp_path: Path, redis: RedisServer) -> None:
    """A worker that dies is replaced, and so is who serves operators; callers are answered all the while."""
    async with a_pair(upstream, tmp_path, redis.url) as pair:
        for victim in (pair.pids[0], pair.pids[-1]):
            os.kill(victim, signal.SIGKILL)
            async with a_client(pair.url) as client:
                assert (await client.ask(LIST)).status == 200

            async def ready(victim: int = victim) -> bool:
                async with a_client(pair.admin_url) as operator:
                    with suppress(OSError):
                        told = await operator.ask("/readyz", token=None)
                        return told.status == 200 and victim not in pair.pids and len(pair.pids) == 3
                return False

            await until(ready)
        assert len(pair.started.events("worker_exited")) == 2


async def test_one_that_hangs(upstream: ImsLookalike, tmp_path: Path, redis: RedisServer) -> None:
    """Operators are answered by the workers that live, and told which does not."""
    async with a_pair(upstream, tmp_path, redis.url) as pair, a_client(pair.admin_url) as operator:
        os.kill(pair.pids[0], signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):  # much less than an order may take
                assert (await operator.ask(f"/explain?target={LIST}", token=None)).status == 200
                assert (await operator.ask("/metrics", token=None)).status == 200
                told = (await operator.ask("/readyz", token=None)).json()
        finally:
            os.kill(pair.pids[0], signal.SIGCONT)
        assert told["parts"]["worker 1"] == "not ready, does not answer"
        assert told["parts"]["worker 2: listener"] == "ok"


@pytest.mark.parametrize(("by", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)])
async def test_end_together(
    upstream: ImsLookalike, tmp_path: Path, redis: RedisServer, by: signal.Signals, status: int
) -> None:
    """Told to end, the supervisor ends with all of its children, each in order."""
    async with a_pair(upstream, tmp_path, redis.url) as pair:
        pids = pair.pids
        assert await pair.started.ended(by=by) == status
        assert not any(map(alive, pids))
        assert len(pair.started.events("stopped")) == 2
        assert b"Traceback" not in pair.started.errors


async def test_no_orphans(upstream: ImsLookalike, tmp_path: Path, redis: RedisServer) -> None:
    """When the supervisor is killed, its children end by themselves."""
    async with a_pair(upstream, tmp_path, redis.url) as pair:
        pids = pair.pids
        os.kill(pair.started.child.pid, signal.SIGKILL)

        async def gone() -> bool:
            return not any(map(alive, pids))

        await until(gone)


async def test_drain(upstream: ImsLookalike, tmp_path: Path, redis: RedisServer) -> None:
    """While a request is finished, nobody new is taken in, and operators are told."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(_: object) -> None:
        arrived.set()
        await gate.wait()

    upstream.response_hook = script
    async with a_pair(upstream, tmp_path, redis.url) as pair:
        async with a_client(pair.url) as client, a_client(pair.admin_url) as operator, asyncio.timeout(60):
            asking = asyncio.create_task(client.ask(LIST))
            await arrived.wait()
            pair.started.child.send_signal(signal.SIGTERM)

            async def both_told() -> bool:
                told = await operator.ask("/readyz", token=None)
                said = told.json()["parts"].values()
                return told.status == 503 and sum(each.startswith("not ready") for each in said) == 2

            await until(both_told)

            async def refused() -> bool:
                try:
                    (await asyncio.open_connection("127.0.0.1", urlsplit(pair.url).port))[1].close()
                except OSError:
                    return True
                return False

            await until(refused)
            gate.set()
            assert (await asking).status == 200
        assert await pair.started.ended() == 0


async def ask_while_draining(pair: Pair) -> None:
    """Return when operators are told that the pair drains; its workers still accept, and close each connection."""

    async def told() -> bool:
        async with a_client(pair.admin_url) as operator:
            return (await operator.ask("/readyz", token=None)).status == 503

    await until(told)
    for _ in range(10):
        async with a_client(pair.url) as client:
            answer = await client.ask(LIST)
            assert (answer.status, answer.fields["Connection"]) == (200, "close")


async def test_workers_accept_during_the_delay_until_a_second_signal(
    upstream: ImsLookalike, tmp_path: Path, redis: RedisServer
) -> None:
    """A worker that is sent SIGTERM itself as well, as process managers do, does not take that for the second."""
    async with a_pair(upstream, tmp_path, redis.url, SERVER__DRAIN_DELAY_S="3600") as pair:
        pair.started.child.send_signal(signal.SIGTERM)
        await ask_while_draining(pair)
        for pid in pair.pids:
            os.kill(pid, signal.SIGTERM)
        await ask_while_draining(pair)
        assert len(pair.pids) == 3
        assert await pair.started.ended(by=signal.SIGTERM) == 0
        assert len(pair.started.events("stopped")) == 2


async def test_sigint_skips_the_delay_of_workers(upstream: ImsLookalike, tmp_path: Path, redis: RedisServer) -> None:
    async with a_pair(upstream, tmp_path, redis.url, SERVER__DRAIN_DELAY_S="3600") as pair:
        assert await pair.started.ended(by=signal.SIGINT) == 130
        assert len(pair.started.events("stopped")) == 2


async def test_a_stopped_worker_is_continued_to_end(upstream: ImsLookalike, tmp_path: Path, redis: RedisServer) -> None:
    """A worker in SIGSTOP would take no SIGTERM, and the supervisor would wait for it as long as a drain may take."""
    async with a_pair(upstream, tmp_path, redis.url, SERVER__DRAIN_S="3600") as pair:
        os.kill(pair.pids[0], signal.SIGSTOP)
        assert await pair.started.ended(by=signal.SIGTERM) == 0
        assert len(pair.started.events("stopped")) == 2


@pytest.mark.parametrize(("count", "least"), [(16, 5), (64, 20), (256, 80)])
async def test_connections_opened_at_once_are_shared_by_all_workers(
    upstream: ImsLookalike, tmp_path: Path, redis: RedisServer, count: int, least: int
) -> None:
    """Both were idle before, and are again between the rounds."""
    async with a_pair(upstream, tmp_path, redis.url) as pair:
        shares: list[list[int]] = []
        for _ in range(7):
            async with opened(pair.url, count):
                await until(lambda: sum(pair.connections()) == count)
                shares.append(pair.connections()[:2])
            await until(lambda: sum(pair.connections()) == 0)
    # A busy machine keeps a worker from running while the other one is: then the other takes all, and none waits.
    assert sorted(map(min, shares))[-2] >= least, shares


async def test_connections_opened_one_after_another_are_shared_by_all_workers(
    upstream: ImsLookalike, tmp_path: Path, redis: RedisServer
) -> None:
    """Callers that come by and by, and keep their connections, do not end up with one worker."""
    async with a_pair(upstream, tmp_path, redis.url) as pair, AsyncExitStack() as stack:
        for number in range(1, 33):
            client = await stack.enter_async_context(a_client(pair.url))
            assert (await client.ask(LIST)).status == 200
            assert sum(pair.connections()) == number
        assert min(pair.connections()[:2]) >= 10


async def test_one_worker_serves_all_connections_while_the_other_is_stopped(
    upstream: ImsLookalike, tmp_path: Path, redis: RedisServer
) -> None:
    """No connection waits for the stopped worker, which takes its share again when it goes on."""
    async with a_pair(upstream, tmp_path, redis.url) as pair:
        await pair.ask(LIST, worker=0)
        os.kill(pair.pids[1], signal.SIGSTOP)
        try:
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(a_client(pair.url)) for _ in range(64)]
                answers = await asyncio.gather(*(client.ask(LIST) for client in clients))
                assert [answer.status for answer in answers] == [200] * 64
                assert pair.connections() == [64, 0, 0]
                os.kill(pair.pids[1], signal.SIGCONT)
                async with opened(pair.url, 32):
                    await until(lambda: sum(pair.connections()) == 96)
                    assert pair.connections()[1] >= 20
        finally:
            os.kill(pair.pids[1], signal.SIGCONT)


async def test_a_replaced_worker_gets_its_share_of_connections(
    upstream: ImsLookalike, tmp_path: Path, redis: RedisServer
) -> None:
    """What the dead one had does not count for its successor."""
    async with a_pair(upstream, tmp_path, redis.url) as pair, opened(pair.url, 32):
        await until(lambda: sum(pair.connections()) == 32)
        os.kill(pair.pids[0], signal.SIGKILL)
        await until(lambda: len(pair.started.events("worker_listening")) == 3)
        before = sum(pair.connections())
        async with opened(pair.url, 32):
            await until(lambda: sum(pair.connections()) == before + 32)
            shares = sorted(pair.connections())[1:]
        # The one that lived is ahead by what it had, and leaves as many to its new peer first.
        assert min(shares) >= 10


@asynccontextmanager
async def opened(url: str, count: int) -> AsyncIterator[None]:
    """Hold *count* connections, all opened in the same moment."""
    where = urlsplit(url)
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            with suppress(BlockingIOError):
                connection.connect((where.hostname, where.port))
        yield


async def test_an_address_in_use_is_told_in_one_line(upstream: ImsLookalike, tmp_path: Path) -> None:
    """What can't be listened on ends the command before there are any workers."""
    taken = upstream.base_url.removeprefix("http://")
    words = ("serve", "--upstream", upstream.base_url, "--store", "redis://127.0.0.1:1", "--listen", taken)
    async with command(*words, at=tmp_path, SERVER__WORKERS="2") as started:
        assert await started.ended() == 1
        assert started.errors.decode() == f"ims-proxy: {taken}: Address already in use\n"


FAILING = """
import sys
from proxy.runtime.supervision import ChildProcess, Supervisor

def fails(life):
    raise OSError(13, "no leave")

def runs(life):
    while __import__("os").read(life, 1):
        pass

children = [ChildProcess("fails", fails, stop_timeout_s=1), ChildProcess("runs", runs, stop_timeout_s=1)]
sys.exit(0 if Supervisor(children, on_stopping=lambda: None).run() else 7)
"""


def test_given_up() -> None:
    """A child that never lives for long is given up after a few starts, and the others are stopped."""
    run = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, timeout=60, check=False, cwd=REPO)
    assert run.returncode == 7


def alive(pid: int) -> bool:
    """Whether a process runs, or at least nobody has taken note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
