"""A Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.support.processes import ProgramError, start

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_S = 60.0
_ANSWER_S = 60.0
_ENOUGH_BYTES = 64 * 1024 * 1024
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-port=0",
)


class BrowserError(Exception):
    """The browser, or a script in a page, did not do what it was told; the message is the browser's."""


def browser_binary() -> str:
    """Return the browser's path. Raises ProgramError that names the package where there is none."""
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    raise ProgramError("chromium is not installed; run: tests/provision browser, or apt-get install chromium")


class Tab:
    """One page of the browser; *errors* is what its console complained of: exceptions, what its policy refused."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def begin(self, *, width: int, height: int, theme: str) -> None:
        """Take on a size, and the wishes of a reader who prefers *theme*."""
        for domain in ("Page", "Runtime", "Log"):
            await self.do(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.do("Emulation.setDeviceMetricsOverride", **size)
        await self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    async def visit(self, url: str) -> None:
        """Return once *url* is shown."""
        await self.do("Page.navigate", url=url)
        await self.holds("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return what the browser answers to *method* of the DevTools protocol."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_ANSWER_S):
            answer = await self._waiting[number]
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def value(self, expression: str) -> Any:
        """Return what the script *expression* comes to in the page."""
        told = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise BrowserError(f"{expression}: {told['result'].get('description')}")
        return told["result"].get("value")

    async def holds(self, expression: str) -> None:
        """Return once *expression* holds in the page; where it fails, the page is not there yet, and it does not."""
        async with asyncio.timeout(_ANSWER_S):
            while True:
                with suppress(BrowserError):
                    if await self.value(f"Boolean({expression})"):
                        return
                await asyncio.sleep(0.05)

    async def text(self, selector: str) -> str:
        """Return the text that a reader sees in the first element that *selector* finds."""
        return str(await self.value(f"document.querySelector({orjson.dumps(selector).decode()}).innerText"))

    async def screenshot(self) -> bytes:
        """Return a picture of the page, PNG."""
        told = await self.do("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(told["data"])

    async def close(self) -> None:
        """Stop listening to the page."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        async for message in self._socket:
            told = orjson.loads(message.data)
            if waiting := self._waiting.pop(told.get("id", 0), None):
                waiting.set_result(told)
            elif told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(told["params"]["exceptionDetails"]["text"])
            elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.errors.append(told["params"]["entry"]["text"])


class Browser:
    """A running browser that listens at *port*."""

    def __init__(self, port: int) -> None:
        self._port = port

    @asynccontextmanager
    async def tab(self, url: str, *, width: int = 1200, height: int = 900, theme: str = "light") -> AsyncIterator[Tab]:
        """Give a page of that size, which shows *url* to a reader who prefers *theme*."""
        address = f"http://127.0.0.1:{self._port}/json/new?about:blank"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
            async with session.put(address) as answer:
                opened = orjson.loads(await answer.read())
            async with session.ws_connect(opened["webSocketDebuggerUrl"], max_msg_size=_ENOUGH_BYTES) as socket:
                tab = Tab(socket)
                try:
                    await tab.begin(width=width, height=height, theme=theme)
                    await tab.visit(url)
                    yield tab
                finally:
                    await tab.close()


@contextmanager
def a_browser(directory: Path) -> Iterator[Browser]:
    """Run a browser, its profile new in *directory*, for as long as the context lasts."""
    profile = directory / "profile"
    argv = [browser_binary(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    program = start(argv, log=directory / "browser.log")
    taken = profile / "DevToolsActivePort"  # where it writes down the port that it has taken
    try:
        program.wait_ready(lambda: taken.exists() and "\n" in taken.read_text(), within_s=_START_S)
        yield Browser(int(taken.read_text().partition("\n")[0]))
    finally:
        program.kill()
