"""`python -m tests.bench.bare_redis URL SECONDS`: how many GETs a second of the largest stored value there can be.

As many tasks ask as wrk has connections.
"""

import asyncio
import sys
import time

import uvloop
from redis.asyncio import Redis

from tests.bench.load import CONNECTIONS


async def main(url: str, seconds: float) -> None:
    """Print the rate."""
    redis = Redis.from_url(url)
    sizes = [(await redis.strlen(name), name) async for name in redis.scan_iter(match="*:s:*")]
    _, name = max(sizes)
    count = 0
    ends = time.perf_counter() + seconds

    async def getting() -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await redis.get(name)
            count += 1

    await asyncio.gather(*(getting() for _ in range(CONNECTIONS)))
    await redis.aclose()
    print(count / seconds)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2])))
