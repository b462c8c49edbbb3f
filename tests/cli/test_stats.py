"""`ims-proxy stats`: the figures in a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.cli.options import make_admin_client
from proxy.cli.stats import Tone, format_period, format_seconds, format_share, format_size, render_lines
from proxy.demo.app import ImsLookalike
from tests.support.commands import command
from tests.support.origin import Origin
from tests.support.running import Proxy, a_proxy

QUIET: dict[str, Any] = {
    "version": "1",
    "timestamp": 100.0,
    "uptime_s": 10.0,
    "requests": {
        "total": 100,
        "hits": 90,
        "hit_ratio": 0.9,
        "duration": {"hit": {"p50_s": 0.0002, "p99_s": 0.004}, "forwarded": {"p50_s": 0.05, "p99_s": 1.25}},
    },
    "upstream": {"calls": 8, "by_purpose": {"list": 6, "prefetch": 2}, "retried": 0, "throttled": 0, "saved": 92},
    "budget": {
        "limit": {"calls": 200, "per_s": 60.0},
        "used": 10,
        "advertised_limits": {},
        "low": 0,
        "cooldowns": 0,
        "cooldown_s": None,
        "queued": 0,
        "rejected": 0,
        "background_skipped": {},
        "without_store": None,
    },
    "circuit_breaker": {"open": False, "retry_in_s": None, "rejected": 0},
    "concurrency": {"limit": 8, "in_flight": 0},
    "event_loop": {"lag_s": 0.003},
    "store": {"parts": {"memory": "ok"}, "listings": 1, "spans": 2, "bytes": 2048, "max_bytes": 1 << 20, "errors": {}},
}


def shown(**changes: Any) -> dict[str, tuple[str, Tone]]:
    """Return what is shown of the quiet figures with *changes*, `section__name`, by label."""
    figures = deepcopy(QUIET)
    for name, value in changes.items():
        section, _, field = name.partition("__")
        figures[section][field] = value
    return {label.strip(): (text, mood) for label, text, mood in render_lines(figures)}


def test_a_quiet_proxy_is_shown_as_such() -> None:
    """Nothing is coloured as trouble, and every figure stands there."""
    told = shown()
    assert told["saved"][0] == "92 of 100 calls, 92.0 %"
    assert told["upstream"][0] == "8 calls: list 6, prefetch 2"
    assert told["budget"][0].endswith("10 of 200 in 1 min")
    assert told["latency"][0] == "hit 200 µs, 99 % 4.0 ms, forwarded 50 ms, 99 % 1.2 s"
    assert told["loop lag"][0] == "3.0 ms at most in the last 10 s"
    assert told["store"][0] == "2.0 KiB of 1.0 MiB, 1 listing, 2 spans"
    assert {mood for _, mood in told.values()} <= {Tone.PLAIN, Tone.GOOD}


@pytest.mark.parametrize(
    ("changes", "label", "text", "mood"),
    [
        ({"budget__used": 199}, "budget", "199 of 200", Tone.BAD),
        ({"budget__used": 160}, "budget", "160 of 200", Tone.WARN),
        ({"budget__limit": None}, "budget", "no limit known", Tone.PLAIN),
        ({"budget__cooldowns": 1, "budget__cooldown_s": 90.0}, "cooldown", "1.5 min left", Tone.BAD),
        (
            {"budget__low": 2, "budget__background_skipped": {"prefetch": 4}},
            "prefetch",
            "2 budgets low; skipped pre",
            Tone.WARN,
        ),
        (
            {"budget__without_store": {"mode": "share", "share": "1/2", "no_calls_for_s": 0.0}},
            "",
            "each replica has 1/2 of what was left",
            Tone.WARN,
        ),
        (
            {"budget__without_store": {"mode": "hold", "share": "1/2", "no_calls_for_s": 90.0}},
            "",
            "no calls for 1.5 min",
            Tone.WARN,
        ),
        ({"budget__queued": 3}, "queued", "3 calls, 0 rejected", Tone.WARN),
        (
            {"budget__advertised_limits": {"ip": {"calls": 5, "per_s": 1.0}}},
            "ip",
            "5 in 1 s, as the upstream says",
            Tone.PLAIN,
        ),
        (
            {"circuit_breaker__open": True, "circuit_breaker__retry_in_s": 2.0},
            "circuit",
            "open, the upstream is tried again",
            Tone.BAD,
        ),
        ({"circuit_breaker__rejected": 1}, "circuit", "closed; 1 call not made while the upstream failed", Tone.GOOD),
        ({"store__parts": {"redis": "left alone"}}, "redis", "left alone", Tone.BAD),
        ({"event_loop__lag_s": 0.25}, "loop lag", "250 ms at most", Tone.WARN),
        ({"store__errors": {"chain": 7}}, "failed", "chain 7", Tone.WARN),
        ({"upstream__throttled": 2}, "", "2 throttled by the upstream (429)", Tone.WARN),
        ({"requests__hit_ratio": None}, "hits", "90 of 100 requests, -", Tone.PLAIN),
    ],
)  # fmt: skip
def test_what_is_the_matter_is_shown(changes: dict[str, Any], label: str, text: str, mood: Tone) -> None:
    """In words, and in the colour of its weight."""
    said, felt = shown(**changes)[label]
    assert text in said
    assert felt is mood


def test_rates_are_those_since_the_reading_before() -> None:
    """Requests and calls a second, and hits among them; a process that was restarted has none."""
    later = deepcopy(QUIET) | {"timestamp": 110.0}
    later["requests"] |= {"total": 150, "hits": 130}
    later["upstream"] |= {"calls": 9}
    (said,) = [text for label, text, _ in render_lines(later, QUIET) if label == "now"]
    assert said == "5.0 requests/s, 80.0 % hits, 0.1 calls/s"
    (said,) = [text for label, text, _ in render_lines(QUIET, later) if label == "now"]
    assert said == "restarted"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (format_share(0.5), "50.0 %"),
        (format_share(1.0), "100.0 %"),
        (format_share(0.9987), "99.87 %"),
        (format_size(0), "0 B"),
        (format_size(5 * 1024**3), "5.0 GiB"),
        (format_size(900 * 1024), "900 KiB"),
        (format_seconds(0.25), "250 ms"),
        (format_seconds(None), "-"),
        (format_period(0.5), "0.5 s"),
        (format_period(86400.0), "1 d"),
    ],
)
def test_units(said: str, expected: str) -> None:
    """Each figure is in the unit that suits it."""
    assert said == expected


async def test_the_figures_are_printed_once_where_there_is_no_terminal(proxy: Proxy, tmp_path: Path) -> None:
    """One reading as text, or as JSON for scripts; a URL names the port as well."""
    await proxy.client.ask("/v2/images?limit=5")
    async with command("stats", "--admin", proxy.admin.url, at=tmp_path) as started:
        assert await started.ended() == 0, started.errors
        assert b"saved      0 of 1 calls" in started.output
    address = proxy.admin.url.removeprefix("http://")
    async with command("stats", "--json", "--admin", address, at=tmp_path) as started:
        assert await started.ended() == 0, started.errors
        assert orjson.loads(bytes(started.output))["upstream"]["calls"] == 1


async def test_the_token_comes_from_a_file_or_the_environment(upstream: ImsLookalike, tmp_path: Path) -> None:
    """Without it the command fails and says why; with it the figures come. `purge` takes it the same way."""
    async with a_proxy(upstream.base_url, admin={"listen": "127.0.0.1:0", "token": "s3cr3t-token"}) as proxy:
        (tmp_path / "token").write_text("s3cr3t-token\n")
        at = ("--admin", proxy.admin.url)
        for words, settings, status in (
            (("stats", *at), {}, 1),
            (("stats", *at, "--token-file", "token"), {}, 0),
            (("stats", *at), {"ADMIN__TOKEN": "s3cr3t-token"}, 0),
            (("stats", *at), {"ADMIN__TOKEN_FILE": "token"}, 0),
            (("purge", "--all", *at, "--token-file", "token"), {}, 0),
            (("stats", *at, "--token-file", "nowhere"), {}, 1),
            (("stats", *at, "--token-file", "/dev/null"), {}, 1),
        ):
            async with command(*words, at=tmp_path, **settings) as started:
                assert await started.ended() == status, (words, started.errors)
                assert len(started.errors.splitlines()) == status
                assert b"s3cr3t" not in started.errors + started.output


async def test_the_view_lives_in_a_terminal(proxy: Proxy, tmp_path: Path) -> None:
    """It reads again and again, and Ctrl-C ends it with 130."""
    control, terminal = pty.openpty()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "stats", "--admin", proxy.admin.url, "--interval", "0.1"),
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("IMS_PROXY_")}
        | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    seen = bytearray()
    try:
        await _seen(control, seen, lambda: b"saved" in seen)
        await proxy.client.ask("/v2/images?limit=5")
        await _seen(control, seen, lambda: b"list 1" in seen)
        await _seen(control, seen, lambda: b"requests/s" in seen)
        child.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            assert await child.wait() == 130
        assert b"Traceback" not in seen
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        os.close(control)


async def _seen(control: int, seen: bytearray, condition: Callable[[], bool]) -> None:
    """Return once *condition* of what the terminal has shown holds."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while not condition():
            readable = asyncio.Event()
            loop.add_reader(control, readable.set)
            await readable.wait()
            loop.remove_reader(control)
            seen += os.read(control, 65_536)


def test_a_port_beyond_loopback_is_named_without_settings(tmp_path: Path) -> None:
    """What may listen where is for the proxy's own settings to say; a command goes where it is sent."""
    (tmp_path / "token").write_text("s3cr3t-token")
    assert make_admin_client(None, admin="192.0.2.1:9090", token_file=tmp_path / "token").address == "192.0.2.1:9090"


@pytest.mark.parametrize(
    ("words", "body"),
    [
        pytest.param(("stats",), b"null", id="nothing"),
        pytest.param(("stats", "--json"), b'{"requests":3}', id="other figures"),
        pytest.param(("purge", "--all"), b"[1]", id="a list"),
        pytest.param(("purge", "--all"), b'{"dropped":"x"}', id="no number"),
    ],
)
async def test_something_else_at_the_port(origin: Origin, tmp_path: Path, words: tuple[str, ...], body: bytes) -> None:
    """Who is no ims-proxy is told apart in one line, whatever JSON it answers."""
    address = origin.url.removeprefix("http://")
    async with command(*words, "--admin", address, at=tmp_path) as started:
        end = await origin.end()
        await end.head()
        end.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert await started.ended() == 1
    said = f"ims-proxy: admin port {address}: answers something else, is this an ims-proxy?\n"
    assert (started.output.decode(), started.errors.decode()) == ("", said)
