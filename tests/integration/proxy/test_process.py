"""The real command: it serves, drains, says what went wrong, and tells no secret."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.cli import cli
from proxy.demo.app import ImsLookalike, RecordedCall
from tests.support.commands import ON_FREE_PORTS, command
from tests.support.ports import free_port
from tests.support.running import ALPHA, Client, a_client
from tests.support.waiting import until

LIST = "/v2/images?limit=5"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a child find this very package wherever it is started."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP])
async def test_serve_answers_and_ends_when_it_is_told_to(
    upstream: ImsLookalike, tmp_path: Path, by: signal.Signals
) -> None:
    """With `--upstream` alone it runs; told to stop, it ends well."""
    async with command("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS, at=tmp_path) as started:
        url, admin = await started.listening()
        async with a_client(url) as client, a_client(admin) as operator:
            assert (await client.ask(LIST)).status == 200
            assert (await client.ask(LIST)).hit
            assert (await operator.ask("/healthz")).status == 200
            assert (await operator.ask("/readyz")).status == 200
        assert await started.ended(by=by) == 0
        assert [bool(started.events(name)) for name in ("draining", "stopped")] == [True, True]
        assert b"Traceback" not in started.errors


async def test_sigterm_drains(upstream: ImsLookalike, tmp_path: Path) -> None:
    """Not ready at once, no new connections, and what is running is finished."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(_: RecordedCall) -> None:
        arrived.set()
        await gate.wait()

    upstream.response_hook = script
    async with command("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS, at=tmp_path) as started:
        url, admin = await started.listening()
        async with a_client(url) as client, a_client(admin) as operator, asyncio.timeout(60):
            asking = [asyncio.create_task(client.ask(target)) for target in (LIST, "/v2/schemas/image")]
            await arrived.wait()
            started.child.send_signal(signal.SIGTERM)

            async def not_ready() -> bool:
                return (await operator.ask("/readyz")).status == 503

            await until(not_ready)

            async def refused() -> bool:
                try:
                    (await asyncio.open_connection("127.0.0.1", urlsplit(url).port))[1].close()
                except OSError:
                    return True
                return False

            await until(refused)
            assert not any(task.done() for task in asking)
            gate.set()
            assert [answer.status for answer in await asyncio.gather(*asking)] == [200, 200]
        assert await started.ended() == 0


@pytest.mark.parametrize(
    ("signals", "status"),
    [([signal.SIGTERM, signal.SIGTERM], 0), ([signal.SIGTERM, signal.SIGINT], 0), ([signal.SIGINT], 130)],
)
async def test_a_second_signal_or_sigint_skips_the_delay(
    upstream: ImsLookalike, tmp_path: Path, signals: list[signal.Signals], status: int
) -> None:
    words = ("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS)
    async with command(*words, at=tmp_path, SERVER__DRAIN_DELAY_S="3600") as started:
        url, admin = await started.listening()
        for number in signals[:-1]:
            started.child.send_signal(number)
            async with a_client(url) as client, a_client(admin) as operator:

                async def not_ready(operator: Client = operator) -> bool:
                    return (await operator.ask("/readyz")).status == 503

                await until(not_ready)
                assert (await client.ask(LIST)).status == 200
        assert await started.ended(by=signals[-1]) == status
        assert len(started.events("stopped")) == 1


async def test_draining_ends_though_a_request_does_not(upstream: ImsLookalike, tmp_path: Path) -> None:
    """What runs longer than the time to drain is given up."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(_: RecordedCall) -> None:
        arrived.set()
        await gate.wait()

    upstream.response_hook = script
    words = ("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS)
    async with command(*words, at=tmp_path, SERVER__DRAIN_S="0.3") as started:
        url, _ = await started.listening()
        async with a_client(url) as client, asyncio.timeout(60):
            asking = asyncio.create_task(client.ask("/v2/schemas/image"))
            await arrived.wait()
            assert await started.ended(by=signal.SIGTERM) == 0
            await asyncio.gather(asking, return_exceptions=True)
    gate.set()


async def test_idle_connections_don_t_hold_up_the_end(upstream: ImsLookalike, tmp_path: Path) -> None:
    """A connection that is kept alive without a request is closed."""
    async with command("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS, at=tmp_path) as started:
        url, _ = await started.listening()
        async with a_client(url) as client:
            await client.ask(LIST)
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await started.ended(by=signal.SIGTERM) == 0
            assert loop.time() - began < 10


@pytest.mark.parametrize("words", [("serve", "--upstream", "http://127.0.0.1:1"), ("demo",)], ids=["serve", "demo"])
async def test_an_interrupted_command_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Ctrl-C ends with 130, in order and without a traceback."""
    async with command(*words, *ON_FREE_PORTS, at=tmp_path) as started:
        if words[0] == "serve":
            await started.listening()
        else:
            await started.wrote(lambda: b"Ctrl-C" in started.output)
        assert await started.ended(by=signal.SIGINT) == 130
        assert b"Traceback" not in started.errors


async def test_an_address_in_use_is_told_in_one_line(upstream: ImsLookalike, tmp_path: Path) -> None:
    """It ends with 1 and names what it could not do."""
    taken = upstream.base_url.removeprefix("http://")
    words = ("serve", "--upstream", upstream.base_url, "--listen", taken, "--admin", "127.0.0.1:0")
    async with command(*words, at=tmp_path) as started:
        assert await started.ended() == 1
        (told,) = started.errors.decode().splitlines()
        assert told.startswith("ims-proxy: ")
        assert "address already in use" in told.lower()


async def test_a_wrong_configuration_ends_with_2_before_anything_starts(tmp_path: Path) -> None:
    """Every error is a line, and nothing listens."""
    async with command("serve", *ON_FREE_PORTS, at=tmp_path, CACHE__TTL="5", LOG__LEVEL="loud") as started:
        assert await started.ended() == 2
        lines = started.errors.decode().splitlines()
        assert len(lines) == 3
        assert all(line.startswith("ims-proxy: ") for line in lines)


async def test_nothing_secret_is_logged_or_counted(upstream: ImsLookalike, tmp_path: Path) -> None:
    """Neither log lines nor metrics hold a token, a query value, a field's value or a body."""
    words = ("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS)
    settings = {"LOG__LEVEL": "debug", "LOG__ACCESS": "true", "IDENTITY__SECRET": "s3cr3t-partition-key"}
    async with command(*words, at=tmp_path, **settings) as started:
        url, admin = await started.listening()
        async with a_client(url) as client, a_client(admin) as operator:
            upstream.tokens["s3cr3t-token"] = upstream.tokens[ALPHA]
            for target in ("/v2/images?name=payroll", "/v2/images?limit=payroll", "/v2/images/payroll", "/payroll?a=b"):
                for token in ("s3cr3t-token", "s3cr3t-other"):
                    await client.ask(target, token=token, X_Note="s3cr3t-note", Authorization="")
                    await client.ask(target, token=token, X_Note="s3cr3t-note")
            await client.ask("/v2/images", method="POST", body=b'{"name":"payroll"}', token="s3cr3t-token")
            await client.raw(b"GET /payroll HTTP/1.1\r\nX-Auth-Token: s3cr3t\0\r\n\r\n")
            await client.raw(b"GET http://payroll/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            metrics = (await operator.ask("/metrics")).body
        await started.ended(by=signal.SIGTERM)
    served = started.events("request_completed")
    assert len(served) >= 17
    assert {"route", "status", "cache_status", "elapsed_s", "request_id"} <= set(served[0])
    for secret in (b"s3cr3t", b"payroll"):
        assert secret not in metrics + started.errors + started.output


async def asked_by(client: Client, line: str) -> int:
    """Do what the curl *line* does, and return the status."""
    words = shlex.split(line.partition(" | ")[0])
    target = next(word for word in words if word.startswith("http")).removeprefix(client.url)
    fields = [tuple(map(str.strip, words[at + 1].split(":", 1))) for at, word in enumerate(words) if word == "-H"]
    return (await client.ask(target, token=None, fields=fields)).status  # type: ignore[arg-type]


async def test_the_demo_listens_where_the_environment_says(tmp_path: Path) -> None:
    """As every command: the image sets the address that a published port leads to, and no flag of its own."""
    port = free_port()
    settings = {"SERVER__LISTEN": f"127.0.0.1:{port}", "ADMIN__LISTEN": "127.0.0.1:0"}
    async with command("demo", "--images", "5", at=tmp_path, **settings) as started:
        await started.wrote(lambda: b"Ctrl-C" in started.output)
        assert f"ims-proxy http://127.0.0.1:{port} " in started.output.decode()
        assert await started.ended(by=signal.SIGTERM) == 0


async def test_the_demo_prints_requests_that_work(tmp_path: Path) -> None:
    """Each line to try is answered, the first one from the store when it is asked again."""
    async with command("demo", *ON_FREE_PORTS, "--images", "60", at=tmp_path) as started:
        await started.wrote(lambda: b"Ctrl-C" in started.output)
        text = started.output.decode()
        lines = re.findall(r"^\s*(curl .*)$", text, re.MULTILINE)
        assert len(lines) == 3
        assert "60 images" in text
        for line in lines:
            url = re.search(r"http://[^/' ]+", line)
            assert url is not None
            async with a_client(url[0]) as client:
                assert await asked_by(client, line) == 200
        first = re.search(r"(http://[^/']+)(/[^']*)' -H 'X-Auth-Token: ([^']+)'", lines[0])
        assert first is not None
        async with a_client(first[1]) as client:
            answer = await client.ask(first[2], token=first[3])
            assert answer.hit
            assert len(answer.ids) == 2
        assert await started.ended(by=signal.SIGTERM) == 0


@pytest.mark.parametrize(
    "words", [("--version",), ("--help",), *((name, "--help") for name in cli.commands), ("demo", "-h")]
)
async def test_help_and_version_are_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Every command explains itself, with an example, and ends with 0."""
    async with command(*words, at=tmp_path) as started:
        assert await started.ended() == 0
        assert f"ims-proxy {words[0]} ".encode() in started.output or words[0].startswith("-")
        assert not started.errors
        assert max(map(len, started.output.decode().splitlines())) <= 110


@pytest.mark.parametrize(
    ("words", "target", "told"),
    [
        (("--all",), LIST, b"dropped 1 listing\n"),
        (("--resource", "/v2/schemas/image"), "/v2/schemas/image", b"dropped 1 answer\n"),
    ],
)
async def test_a_purge_through_the_admin_port_drops_what_it_names(
    upstream: ImsLookalike, tmp_path: Path, words: tuple[str, ...], target: str, told: bytes
) -> None:
    """`ims-proxy purge` says how many went, and the next request asks upstream."""
    async with command("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS, at=tmp_path) as started:
        url, admin = await started.listening()
        async with a_client(url) as client:
            await client.ask(target)
            assert (await client.ask(target)).hit
            async with command("purge", *words, "--admin", admin.removeprefix("http://"), at=tmp_path) as purging:
                assert await purging.ended() == 0, purging.errors
                assert purging.output == told
            assert not (await client.ask(target)).hit


async def test_a_purge_that_reaches_nobody_fails_in_one_line(tmp_path: Path) -> None:
    """Without a proxy there it ends with 1; without an order with 2."""
    async with command("purge", "--all", "--admin", "127.0.0.1:1", at=tmp_path) as purging:
        assert await purging.ended() == 1
        assert len(purging.errors.decode().splitlines()) == 1


@pytest.mark.parametrize("words", [("--help",), ("check", "--upstream", "http://x"), ("explain", "/v2/images")])
async def test_an_output_that_can_t_be_written_is_told_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A full disk ends it with 1; a reader that goes away, or none at all, with no complaint."""
    for output, lines in (("> /dev/full", 1), ("| true", 0), (">&-", 0)):
        line = f"{sys.executable} -m proxy {shlex.join(words)} {output}"
        shell = await asyncio.create_subprocess_shell(line, cwd=tmp_path, stderr=asyncio.subprocess.PIPE)
        _, errors = await shell.communicate()
        assert len(errors.splitlines()) == lines, errors
        assert (shell.returncode == 1) == bool(lines)


async def test_without_a_command_the_help_is_told(tmp_path: Path) -> None:
    """On standard error, for it is wrong usage."""
    async with command(at=tmp_path) as started:
        assert await started.ended() == 2
        assert started.errors.startswith(b"Usage: ims-proxy")


@pytest.mark.parametrize(
    "words",
    [
        ("purge",),
        ("nonsense",),
        ("serve", "--nonsense"),
        ("demo", "--images", "0"),
        ("stats", "--interval", "nan"),
        ("replay", "--ttl", "nan", "log"),
        ("replay", "--ttl", "inf", "log"),
    ],
)
async def test_wrong_usage_is_told_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    """It ends with 2 and points to the help of what was called."""
    async with command(*words, at=tmp_path) as started:
        assert await started.ended() == 2
        (line,) = started.errors.decode().splitlines()
        assert line.startswith("ims-proxy")
        assert "--help" in line


async def test_explain_and_check_need_no_network(tmp_path: Path) -> None:
    """Both answer at once, whatever the upstream."""
    async with command("check", "--upstream", "http://192.0.2.1", at=tmp_path) as checking:
        assert await checking.ended() == 0
        assert b'url = "http://192.0.2.1"' in checking.output
    async with command("explain", "/v2/images?limit=1", "-H", "X-Auth-Token: t", at=tmp_path) as explaining:
        assert await explaining.ended() == 0
        assert b"yes" in explaining.output
