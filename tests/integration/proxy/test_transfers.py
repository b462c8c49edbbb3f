"""Images pass through in the memory of a few buffers, whatever their size; `make soak` does this with 4 GB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.transfers import downloaded, origin, peak_bytes, uploaded
from tests.support.proxy import ProxyProcess

MB = 1_000_000
SIZE = 64 * MB


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[ProxyProcess]:
    with origin() as url, ProxyProcess(url, tmp_path) as running:
        uploaded(running.url, 4 * MB)
        downloaded(running.url, 4 * MB)
        yield running


@pytest.mark.parametrize("way", ["by its length", "in chunks", "down"])
def test_an_image_passes_whole_and_costs_no_memory(proxy: ProxyProcess, way: str) -> None:
    """What arrives is what was sent, and the proxy held less than a quarter of it at any moment."""
    before = peak_bytes(proxy.program.pid)
    done = downloaded(proxy.url, SIZE) if way == "down" else uploaded(proxy.url, SIZE, chunked=way == "in chunks")
    assert done.received == done.sent
    assert peak_bytes(proxy.program.pid) - before < SIZE / 4
