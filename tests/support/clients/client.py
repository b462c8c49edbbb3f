"""A client library at work in its own process and environment, given one crawl after another."""

import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import ProgramError

_REPOSITORY = Path(__file__).parents[3]
_CRAWL_S = 120.0
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What is asked for: *filters*, where `tag` is a list; *sort* is `sort_key` and `sort_dir`, or `sort`."""

    filters: Mapping[str, str | list[str]] = field(default_factory=dict)
    sort: Mapping[str, str] = field(default_factory=dict)


class Client:
    """The program *module* of this package under *python*; what it says besides its answers goes to *log*."""

    def __init__(self, module: str, *, python: Path, log: Path) -> None:
        self._module = module
        self._log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [str(python), "-m", f"tests.support.clients.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                bufsize=0,
                cwd=_REPOSITORY,
                env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OS_"))},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(_STOP_S)
        self._child.stdout.close()

    def crawl(self, url: str, token: str, listing: Listing, *, page_size: int) -> list[str]:
        """Return the ids of *listing* at *url*; raise ProgramError with the library's error otherwise."""
        job = {"url": url, "token": token, "page_size": page_size, "filters": listing.filters, "sort": listing.sort}
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(job).encode() + b"\n")
        outcome = json.loads(self._line())
        if "error" in outcome:
            raise ProgramError(f"{self._module}: {outcome['error']}")
        ids: list[str] = outcome["ids"]
        return ids

    def _line(self) -> bytes:
        """Return the next line of output, which must be there within _CRAWL_S."""
        assert self._child.stdout is not None
        deadline = time.monotonic() + _CRAWL_S
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ProgramError(f"{self._module}: no answer within {_CRAWL_S:g}s")
                chunk = os.read(self._child.stdout.fileno(), 65_536)
                if not chunk:
                    raise ProgramError(f"{self._module}: ended\n{self._log.read_text(errors='replace')[-4000:]}")
                line += chunk
        return line
