"""How gunicorn runs Glance; it reads the module's names as its settings.

The access log is written here rather than by gunicorn, which writes a line once the answer has gone out: whoever has
an answer may then count the calls before its line is there. A line written before the application is called can't be
missed.
"""

import os
from typing import Any

wsgi_app = "glance.wsgi.api:application"
worker_class = "gthread"
workers = 1
threads = 4
timeout = 120
keepalive = 75
graceful_timeout = 5
control_socket_disable = True
limit_request_field_size = 0  # tokens may be tens of kilobytes long

_ACCESS_LOG = os.open(os.environ["GLANCE_ACCESS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def pre_request(worker: Any, request: Any) -> None:
    """Log the method and the target, byte for byte as they came."""
    os.write(_ACCESS_LOG, f"{request.method} {request.uri}\n".encode("latin-1"))
