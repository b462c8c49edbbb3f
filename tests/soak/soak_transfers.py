"""Four gigabytes up and down through the proxy, and through nginx beside it where it is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Say
from tests.soak.transfers import Transfer, downloaded, origin, peak_bytes, uploaded
from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, running, tcp_open
from tests.support.proxy import ProxyProcess

MB = 1_000_000
SIZE = 4_000 * MB
NGINX = """\
{user}worker_processes 1;
daemon off;
error_log error.log warn;
pid nginx.pid;
events {{ }}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    location / {{
      proxy_pass {upstream}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""

Way = Callable[[str, int], Transfer]


@pytest.mark.parametrize("way", [uploaded, downloaded])
def soak_an_image_of_four_gigabytes(way: Way, tmp_path: Path, say: Say) -> None:
    """It arrives as it was sent, and the proxy's memory stays flat."""
    with origin() as url:
        with ProxyProcess(url, tmp_path) as proxy:
            way(proxy.url, 16 * MB)
            before = peak_bytes(proxy.program.pid)
            done = way(proxy.url, SIZE)
            grown = peak_bytes(proxy.program.pid) - before
        assert done.received == done.sent
        assert grown < 16 * MB
        told = [f"ims-proxy {done.megabytes_per_s:6.0f} MB/s, {grown / MB:.1f} MB more memory than for 16 MB"]
        with nginx(url, tmp_path) as beside:
            if beside is not None:
                told.append(f"nginx     {way(beside, SIZE).megabytes_per_s:6.0f} MB/s")
        told.append(f"no proxy  {way(url, SIZE).megabytes_per_s:6.0f} MB/s")
    say("\n".join(told))


@contextmanager
def nginx(upstream: str, directory: Path) -> Iterator[str | None]:
    """Give the URL of an nginx before *upstream*, None where there is none."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    settings = directory / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    settings.write_text(NGINX.format(user=user, port=port, upstream=upstream))
    argv: list[str | Path] = [program, "-p", directory, "-c", settings]
    with running(argv, log=directory / "nginx.log", ready=tcp_open(port)):
        yield f"http://{LOOPBACK}:{port}"
