"""The caches, each configured for the suite as well as it can be: everything under /test is stored as it allows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.bench.servers import binary
from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, Argv, running, tcp_open

# One public route over all tests. Everything a caller sends goes up, and `Vary` counts; an answer without a lifetime is
# given one by its age; a failing upstream is stood in for, because tests of when that is forbidden presuppose it. Calls
# are not repeated, for the suite counts each, and however many fail the upstream is asked again.
PROXY = """\
[server]
listen = "{host}:{port}"
[admin]
listen = "{host}:{admin}"
[upstream]
url = "http://{host}:{origin}"
retries = 0
circuit_breaker_failures = 1000000
[[cache.routes]]
path = "/test/**"
public = true
honor_vary = true
heuristic_fraction = 0.1
stale_while_revalidate_s = 0
stale_if_error_s = 60
[log]
level = "warning"
"""

NGINX = """\
{user}worker_processes 1;
error_log error.log crit;
pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  proxy_cache_path cache levels=1:2 keys_zone=all:8m inactive=10m use_temp_path=off;
  upstream origin {{ server {host}:{origin}; }}
  server {{
    listen {host}:{port};
    location / {{ proxy_pass http://origin; }}
    location /test/ {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_next_upstream off;
      proxy_cache all; proxy_cache_key $request_uri; proxy_ignore_headers Set-Cookie; proxy_pass_header Date;
      proxy_cache_revalidate on; proxy_cache_background_update on; proxy_force_ranges on;
      proxy_cache_bypass $http_authorization; proxy_no_cache $http_authorization;
    }}
  }}
}}
"""

VARNISH = """\
vcl 4.1;
backend origin {{ .host = "{host}"; .port = "{origin}"; }}
sub vcl_recv {{
  if (req.url !~ "^/test/") {{ return (pass); }}
  if (req.method == "M-SEARCH") {{ return (pass); }}
  if ((req.method == "GET" || req.method == "HEAD") && !req.http.Authorization) {{ return (hash); }}
}}
sub vcl_backend_response {{
  set beresp.http.X-Url = bereq.url;
  set beresp.keep = 10m;
  if (beresp.http.Vary ~ "[*]") {{ set beresp.uncacheable = true; return (deliver); }}
  if (beresp.http.Set-Cookie && beresp.ttl > 0s && beresp.http.Cache-Control !~ "(?i)no-cache|no-store|private") {{
    return (deliver);
  }}
}}
sub vcl_deliver {{
  if (req.method != "GET" && req.method != "HEAD" && resp.status < 400) {{
    ban("obj.http.X-Url == " + req.url);
  }}
  unset resp.http.X-Url;
}}
"""

Running = AbstractContextManager[str]
Cache = Callable[[int, Path], Running]


@contextmanager
def proxy(origin: int, directory: Path) -> Iterator[str]:
    """Run the proxy before *origin* and give its URL."""
    port, admin = free_port(), free_port()
    file = directory / "proxy.toml"
    file.write_text(PROXY.format(host=LOOPBACK, port=port, admin=admin, origin=origin))
    env = {name: value for name, value in os.environ.items() if not name.startswith("IMS_PROXY_")}
    argv: Argv = [sys.executable, "-m", "proxy", "serve", "--config", file]
    with running(argv, log=directory / "proxy.log", ready=tcp_open(port), env=env):
        yield f"http://{LOOPBACK}:{port}"


@contextmanager
def nginx(origin: int, directory: Path) -> Iterator[str]:
    """Run nginx before *origin* and give its URL."""
    port, home = free_port(), directory / "nginx"
    home.mkdir()
    user = "user root;\n" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(NGINX.format(user=user, host=LOOPBACK, port=port, origin=origin))
    argv: Argv = [binary("nginx"), "-p", home, "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"]
    with running(argv, log=directory / "nginx.log", ready=tcp_open(port)):
        yield f"http://{LOOPBACK}:{port}"


@contextmanager
def varnish(origin: int, directory: Path) -> Iterator[str]:
    """Run Varnish before *origin* and give its URL."""
    port, home = free_port(), directory / "varnish"
    home.mkdir()
    (home / "all.vcl").write_text(VARNISH.format(host=LOOPBACK, origin=origin))
    argv: Argv = [
        *(binary("varnishd"), "-F", "-j", "none", "-n", home / "work", "-a", f"{LOOPBACK}:{port}"),
        *(
            "-f",
            home / "all.vcl",
            "-s",
            "malloc,64m",
            "-p",
            "default_ttl=0",
            "-p",
            "default_grace=0",
            "-p",
            "http_gzip_support=off",
        ),
    ]
    with running(argv, log=directory / "varnish.log", ready=tcp_open(port)):
        yield f"http://{LOOPBACK}:{port}"


def version(name: str) -> str:
    """Return which release of nginx or Varnish is installed."""
    word = "-v" if name == "nginx" else "-V"
    said = subprocess.run([binary(name), word], capture_output=True, text=True, check=True, timeout=60)
    found = re.search(r"(?:nginx/|varnish-)([0-9.]+)", said.stdout + said.stderr)
    assert found is not None, f"{name}: says no version"
    return found[1]
