"""A thousand exchanges broken off, of each kind: nothing of them stays in the proxy's process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Say
from tests.integration.proxy.test_aborts import ABORTS, Abort
from tests.support.origin import an_origin
from tests.support.proxy import ProxyProcess
from tests.support.waiting import until

COUNT = 1000
MB = 1_000_000


@pytest.mark.parametrize("abort", ABORTS)
async def soak_a_thousand_aborts(abort: Abort, tmp_path: Path, say: Say) -> None:
    """As many files are open as before, connections among them, and memory has not grown by a kilobyte for each."""
    async with an_origin() as origin:
        with ProxyProcess(origin.url, tmp_path) as proxy:
            process = Path(f"/proc/{proxy.program.pid}")

            def files() -> int:
                return len(list((process / "fd").iterdir()))

            def resident_bytes() -> int:
                return int((process / "statm").read_text().split()[1]) * 4096

            async def quiet() -> bool:
                return files() <= idle

            idle = files()
            held = []
            for count in (200, COUNT):
                for _ in range(count):
                    await abort(origin, proxy.url)
                origin.close()
                await until(quiet)
                held.append(resident_bytes())
    grown = held[1] - held[0]
    say(f"{abort.__name__}: {grown / 1000:.0f} kB more after {COUNT}, {idle} files as before")
    assert grown < COUNT * 1000
