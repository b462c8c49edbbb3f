"""Runs the command line as `python -m proxy` does, and notes which modules are entered while it is asked to.

A control connection on the port in `IMS_HOPS_PORT` takes the lines `start` and `stop`; `stop` is answered with one line
of JSON: the modules in the order of their first call, and how often a call went to another module than the one before.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Final

import orjson

import proxy

_ROOT: Final = str(Path(proxy.__file__).parent) + os.sep


class Recorder:
    """The modules that were entered since `start`."""

    def __init__(self) -> None:
        self._modules: dict[str, int] | None = None
        self._latest = ""
        self._changes = 0

    def start(self) -> None:
        self._latest, self._changes = "", 0
        self._modules = {}

    def stop(self) -> dict[str, Any]:
        modules, self._modules = self._modules or {}, None
        return {"modules": list(modules), "changes": self._changes, "calls": sum(modules.values())}

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call; see `sys.setprofile`."""
        modules = self._modules
        if modules is None or event != "call":
            return
        file = frame.f_code.co_filename
        if not file.startswith(_ROOT):
            return
        module = file.removeprefix(_ROOT)
        modules[module] = modules.get(module, 0) + 1
        if module != self._latest:
            self._latest = module
            self._changes += 1


def _control(recorder: Recorder, listening: socket.socket) -> None:
    while True:
        connection, _ = listening.accept()
        with connection, connection.makefile("rwb") as lines:
            for line in lines:
                if line.strip() == b"start":
                    recorder.start()
                    lines.write(b"{}\n")
                else:
                    lines.write(orjson.dumps(recorder.stop()) + b"\n")
                lines.flush()


def main() -> None:
    """Run the proxy."""
    recorder = Recorder()
    listening = socket.create_server(("127.0.0.1", int(os.environ.pop("IMS_HOPS_PORT"))))
    threading.Thread(target=_control, args=(recorder, listening), daemon=True).start()
    from proxy.cli import main as run

    sys.setprofile(recorder.profile)
    run()


if __name__ == "__main__":
    main()
