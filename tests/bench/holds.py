"""`python -m tests.bench.holds [--redis]`: how long one page of 1,000 images holds the event loop at a stretch.

Each callback of the loop is timed; of each request the longest is told: by the clock, which a busy machine stretches,
and in processor time, which it does not.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from asyncio import events
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from proxy.config.loading import load
from proxy.runtime.app import run_proxy
from tests.bench.servers import upstream
from tests.support.processes import LOOPBACK
from tests.support.redis import RedisServer

_ROUNDS = 25
_CLIENT = """
import sys, urllib.request
for line in sys.stdin:
    url, coding = line.split()
    asked = urllib.request.Request(url, headers={"X-Auth-Token": "t", "Accept-Encoding": coding})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        print(answer.status, answer.headers["Cache-Status"], len(answer.read()), flush=True)
"""


class TimedCallbacks:
    """Times every callback of asyncio's own event loop; *holds* are seconds by the clock and of processor time."""

    def __init__(self) -> None:
        self.holds: list[tuple[float, float]] = []
        run = events.Handle._run  # asyncio itself tells of slow callbacks only in its log

        def timed(handle: events.Handle) -> None:
            began_s, began_cpu_s = time.perf_counter(), time.thread_time()
            run(handle)
            self.holds.append((time.perf_counter() - began_s, time.thread_time() - began_cpu_s))

        events.Handle._run = timed  # type: ignore[assignment, method-assign]


async def main(upstream_port: int, redis_url: str | None) -> None:
    """Print the longest holds of each kind of request."""
    timed = TimedCallbacks()
    flags: dict[tuple[str, str], object] = {
        ("upstream", "url"): f"http://{LOOPBACK}:{upstream_port}",
        ("server", "listen"): f"{LOOPBACK}:0",
        ("admin", "listen"): f"{LOOPBACK}:0",
        ("log", "level"): "error",
    }
    if redis_url:
        flags["store", "url"] = redis_url
    settings = load(None, {}, flags).settings
    pipe = asyncio.subprocess.PIPE
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", _CLIENT, stdin=pipe, stdout=pipe)
    assert client.stdin is not None
    assert client.stdout is not None
    longest: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    async with run_proxy(settings) as proxy, run_proxy(settings) as replica:
        gc.collect()
        gc.freeze()  # as `ims-proxy serve` does
        for number in range(_ROUNDS):
            plain, zipped = (f"/v2/images?limit=1000&name=n{number}{more}" for more in ("", "&tag=gzip"))
            requests = [
                ("miss", proxy, plain, "identity"),
                ("hit, rendered before", proxy, plain, "identity"),
                ("hit, rendered anew", proxy, plain.replace("1000", "999"), "identity"),
                ("hit, compressed", proxy, plain, "gzip"),
                ("miss, upstream compresses", proxy, zipped, "identity"),
            ]
            if redis_url:
                requests.insert(1, ("hit in Redis", replica, plain, "identity"))
            for name, at, target, coding in requests:
                await asyncio.sleep(0.02)  # what the request before left behind is not counted
                timed.holds.clear()
                client.stdin.write(f"{at.url}{target} {coding}\n".encode())
                told = (await client.stdout.readline()).decode()
                assert told.startswith("200"), (name, told)
                assert ("; hit" in told) == name.startswith("hit"), (name, told)
                longest[name].append(max(timed.holds, key=lambda hold: hold[1]))
        client.stdin.close()
        await client.wait()
    print("Redis" if redis_url else "memory")
    for name, holds in longest.items():
        wall_ms, cpu_ms = ([1000 * each for each in column] for column in zip(*holds, strict=True))
        print(
            f"  {name:<26} processor: median {statistics.median(cpu_ms):5.1f} ms, most {max(cpu_ms):5.1f} ms; "
            f"clock: median {statistics.median(wall_ms):5.1f} ms, most {max(wall_ms):5.1f} ms"
        )


if __name__ == "__main__":
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(RedisServer(directory)) if "--redis" in sys.argv else None
        port = stack.enter_context(upstream(directory))
        asyncio.run(main(port, server.url if server else None))
