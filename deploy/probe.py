#!/usr/bin/env python3
"""Ask the admin port of the container this runs in for a path: exit 0 on status 200, 1 on any other answer or none.

The port is that of `IMS_PROXY_ADMIN__LISTEN`, else 9090: a container sets it there rather than in its file.
`http.client`, because urllib would take a loopback address to the HTTP proxy of the environment.
"""

import http.client
import os
import sys

_TIMEOUT_S = 2.0


def status(path: str, *, listen: str) -> int:
    """Return the status that *path* is answered with on the port of *listen* (`host:port`)."""
    port = int(listen.rpartition(":")[2])
    connection = http.client.HTTPConnection("localhost", port, timeout=_TIMEOUT_S)
    connection.request("GET", path)
    return connection.getresponse().status


def main() -> int:
    path = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
    listen = os.environ.get("IMS_PROXY_ADMIN__LISTEN", "127.0.0.1:9090")
    try:
        answered = status(path, listen=listen)
    except (OSError, http.client.HTTPException, ValueError) as error:
        sys.stderr.write(f"{path} on {listen}: {error}\n")
        return 1
    if answered != http.HTTPStatus.OK:
        sys.stderr.write(f"{path} on {listen}: {answered}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
