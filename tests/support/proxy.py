"""The proxy as its users run it: `python -m proxy serve`, in a process of its own."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, Program, http_ok, start

_START_S = 60.0
_DRAIN_S = 30.0


class ProxyProcess:
    """`ims-proxy serve` before *upstream*, with *settings* as its environment variables: `{"CACHE__TTL_S": "60"}`.

    *directory*, where it runs, is to hold no configuration file; what it prints is kept there in `proxy.log`.
    *module* is what runs the command line.
    """

    def __init__(
        self,
        upstream: str,
        directory: Path,
        *,
        store: str = "memory://",
        settings: Mapping[str, str] | None = None,
        words: tuple[str, ...] = (),
        module: str = "proxy",
    ) -> None:
        self.port = free_port()
        self.admin_port = free_port()
        self._directory = directory
        self._settings = settings or {}
        self._argv = [
            *(sys.executable, "-m", module, "serve", "--upstream", upstream, "--store", store),
            *("--listen", f"{LOOPBACK}:{self.port}", "--admin", f"{LOOPBACK}:{self.admin_port}", *words),
        ]
        self._program: Program | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{LOOPBACK}:{self.admin_port}"

    @property
    def program(self) -> Program:
        assert self._program is not None, "not started"
        return self._program

    def __enter__(self) -> Self:
        self._program = start(
            self._argv, log=self._directory / "proxy.log", env=self._environment(), cwd=self._directory
        )
        try:
            self._program.wait_ready(http_ok(self.admin_port, "/readyz"), within_s=_START_S)
        except BaseException:
            self._program.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.program.stop(grace_s=_DRAIN_S)

    def metrics(self) -> dict[str, float]:
        """Return every sample of `GET /metrics`, by its name and labels as they are written there."""
        text = ask(self.admin_url, "/metrics").body.decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def _environment(self) -> dict[str, str]:
        """Return this process's environment, less the proxy's own settings, with those of this one."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("IMS_PROXY_")}
        return kept | {f"IMS_PROXY_{name}": value for name, value in self._settings.items()}
