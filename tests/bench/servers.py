"""What is compared: the proxy, nginx and Varnish, each before the same upstream and on the same core."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, Argv, Program, http_ok, running, tcp_open

SERVER_CORE, LOAD_CORE, BOTH_CORES = "0", "1", "0,1"
HOLDING_S = 3600

NGINX = """\
{user}worker_processes 1;
worker_rlimit_nofile 65536;
error_log error.log warn;
pid nginx.pid;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off;
  {sending} tcp_nodelay on;
  keepalive_timeout 3600s; keepalive_requests 1000000000;
  open_file_cache max=100000 inactive=3600s; open_file_cache_valid 3600s; open_file_cache_min_uses 1;
  proxy_cache_path cache levels=1:2 keys_zone=lists:64m inactive=1h max_size=1g use_temp_path=off;
  upstream api {{ server 127.0.0.1:{upstream}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache lists; proxy_cache_key "$http_x_auth_token|$http_accept_encoding|$request_uri";
      proxy_cache_valid 200 1h; proxy_cache_lock on;
      add_header X-Cache-Status $upstream_cache_status;
    }}
    location ~ /file$ {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_buffer_size 512k; proxy_buffers 4 512k; proxy_busy_buffers_size 1m;
    }}
  }}
}}
"""

SENDFILE = "sendfile on; tcp_nopush on;"
# For a short answer two system calls less than it takes to hold the head back until the file's bytes follow.
NO_SENDFILE = "sendfile off; output_buffers 2 64k;"

VARNISH = """\
vcl 4.1;
backend api {{ .host = "127.0.0.1"; .port = "{upstream}"; }}
sub vcl_recv {{ return (hash); }}
sub vcl_hash {{ hash_data(req.http.X-Auth-Token); }}
sub vcl_backend_response {{ set beresp.ttl = 1h; }}
sub vcl_deliver {{
  if (obj.hits > 0) {{ set resp.http.X-Cache-Status = "HIT"; }} else {{ set resp.http.X-Cache-Status = "MISS"; }}
}}
"""

PROXY = {
    "CACHE__TTL_S": str(HOLDING_S),
    "IDENTITY__VERDICT_TTL_S": str(HOLDING_S),
    "LOG__LEVEL": "warning",
}


@dataclass(frozen=True, slots=True)
class Server:
    """One of those compared, running; *hit* is what its answers say of a hit, a field and how its value begins."""

    name: str
    port: int
    program: Program
    hit: tuple[str, str]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def cpu_s(self) -> float:
        """Return the processor time that the server and its children have taken, seconds."""
        return sum(_cpu_s(pid) for pid in _family(self.program.pid))


def python() -> str:
    return sys.executable


@contextmanager
def upstream(directory: Path) -> Iterator[int]:
    """Run the upstream and give its port."""
    port = free_port()
    argv: Argv = [python(), "-m", "tests.bench.upstream", str(port)]
    with running(argv, log=directory / "upstream.log", ready=tcp_open(port)):
        yield port


@contextmanager
def proxy(
    upstream_port: int, directory: Path, *, settings: Mapping[str, str] | None = None, core: str = SERVER_CORE
) -> Iterator[Server]:
    """Run the proxy on *core*, and give it once it is ready."""
    port, admin = free_port(), free_port()
    argv: Argv = [
        *("taskset", "-c", core, python(), "-m", "proxy", "serve"),
        *("--upstream", f"http://{LOOPBACK}:{upstream_port}"),
        *("--listen", f"{LOOPBACK}:{port}", "--admin", f"{LOOPBACK}:{admin}"),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IMS_PROXY_")}
    env = kept | {f"IMS_PROXY_{name}": value for name, value in {**PROXY, **(settings or {})}.items()}
    with running(argv, log=directory / "proxy.log", ready=http_ok(admin, "/readyz"), env=env) as program:
        yield Server("ims-proxy", port, program, ("cache-status", "ims-proxy; hit"))


@contextmanager
def nginx(upstream_port: int, directory: Path, *, sendfile: bool = True) -> Iterator[Server]:
    """Run nginx on the servers' core, with a cache that its worker may write."""
    name = "nginx" if sendfile else "nginx, no sendfile"
    port, home = free_port(), directory / name
    home.mkdir()
    user = "user root;\n" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(
        NGINX.format(user=user, sending=SENDFILE if sendfile else NO_SENDFILE, upstream=upstream_port, port=port)
    )
    argv: Argv = [
        *("taskset", "-c", SERVER_CORE, binary("nginx"), "-p", str(home), "-c", "nginx.conf"),
        *("-e", "error.log", "-g", "daemon off;"),
    ]
    with running(argv, log=home / "nginx.log", ready=tcp_open(port)) as program:
        yield Server(name, port, program, ("x-cache-status", "HIT"))


@contextmanager
def varnish(upstream_port: int, directory: Path) -> Iterator[Server]:
    """Run Varnish on the servers' core, its store in memory."""
    port, home = free_port(), directory / "varnish"
    home.mkdir()
    (home / "lists.vcl").write_text(VARNISH.format(upstream=upstream_port))
    argv: Argv = [
        *("taskset", "-c", SERVER_CORE, binary("varnishd"), "-F", "-j", "none", "-n", str(home / "work")),
        *("-a", f"{LOOPBACK}:{port}", "-f", str(home / "lists.vcl"), "-s", "malloc,256m"),
        *("-p", "http_gzip_support=off", "-p", "thread_pools=1", "-p", "timeout_idle=3600"),
    ]
    with running(argv, log=directory / "varnish.log", ready=tcp_open(port)) as program:
        yield Server("Varnish", port, program, ("x-cache-status", "HIT"))


@contextmanager
def bare_proxy(upstream_port: int, directory: Path) -> Iterator[Server]:
    """Run aiohttp's server before aiohttp's client on the servers' core."""
    port = free_port()
    argv: Argv = [
        *("taskset", "-c", SERVER_CORE, python(), "-m", "tests.bench.bare_proxy"),
        *(str(port), f"http://{LOOPBACK}:{upstream_port}"),
    ]
    with running(argv, log=directory / "bare.log", ready=tcp_open(port)) as program:
        yield Server("aiohttp", port, program, ("", ""))


@contextmanager
def all_of_them(upstream_port: int, directory: Path) -> Iterator[list[Server]]:
    """Run every server that is compared; Varnish only where it is installed."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(proxy(upstream_port, directory)),
            stack.enter_context(nginx(upstream_port, directory)),
            stack.enter_context(nginx(upstream_port, directory, sendfile=False)),
        ]
        if _found("varnishd"):
            servers.append(stack.enter_context(varnish(upstream_port, directory)))
        yield servers


def rss_mib(pid: int) -> float:
    """Return the resident memory of *pid*, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def binary(name: str) -> str:
    found = _found(name)
    assert found is not None, f"{name}: not installed"
    return found


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(descendant for child in children for descendant in _family(int(child)))]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
