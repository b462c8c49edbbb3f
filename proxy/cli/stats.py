"""`ims-proxy stats`: a live view of a running proxy in the terminal, made from what `/stats` says."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from proxy.cli.options import Duration, admin_option, config_option, fail, make_admin_client, token_file_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from proxy.cli.admin_client import AdminClient


Stats = Mapping[str, Any]
EXPECTED_STATS: Final[Mapping[str, type]] = {
    "version": str,
    "uptime_s": float,
    "processes": int,
    "requests": dict,
    "upstream": dict,
    "budget": dict,
    "circuit_breaker": dict,
    "concurrency": dict,
    "event_loop": dict,
    "store": dict,
}

_BYTE_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_DURATION_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_BAR_WIDTH: Final = 20
_NO_VALUE: Final = "-"
_LAG_WARNING_S: Final = 0.1  # as in deploy/prometheus/alerts.yaml


class Tone(Enum):
    """How a line is to be taken; the value is its style."""

    PLAIN = ""
    GOOD = "green"
    WARN = "yellow"
    BAD = "red"


Line = tuple[str, str, Tone]


def render_lines(now: Stats, before: Stats | None = None) -> Iterator[Line]:
    """Yield the figures of *now*; rates are those since *before*."""
    requests, upstream, store = now["requests"], now["upstream"], now["store"]
    asked = upstream["saved"] + upstream["calls"]
    saved = f"{upstream['saved']:,} of {asked:,} calls, {format_share(_ratio(upstream['saved'], asked))}"
    yield "saved", saved, Tone.PLAIN
    yield (
        "hits",
        f"{requests['hits']:,} of {requests['total']:,} requests, {format_share(requests['hit_ratio'])}",
        Tone.PLAIN,
    )
    if before is not None:
        yield "now", _render_rates(now, before), Tone.PLAIN
    yield "upstream", _render_total(pluralize(upstream["calls"], "call"), upstream["by_purpose"]), Tone.PLAIN
    yield from _render_failures(upstream)
    yield from _render_budget(now["budget"])
    yield _render_circuit(now["circuit_breaker"])
    concurrency = now["concurrency"]
    yield "in flight", f"{concurrency['in_flight']} of at most {concurrency['limit']} calls", Tone.PLAIN
    yield "latency", ", ".join(_render_latency(requests["duration"])), Tone.PLAIN
    lag_s = now["event_loop"]["lag_s"]
    yield (
        "loop lag",
        f"{format_seconds(lag_s)} at most in the last 10 s",
        Tone.WARN if lag_s > _LAG_WARNING_S else Tone.GOOD,
    )
    taken = f"{format_size(store['bytes'])} of {format_size(store['max_bytes'])}"
    yield (
        "store",
        f"{taken}, {pluralize(store['listings'], 'listing')}, {pluralize(store['spans'], 'span')}",
        Tone.PLAIN,
    )
    for part, said in store["parts"].items():
        yield f"  {part}", said, Tone.GOOD if said == "ok" else Tone.BAD
    if store["errors"]:
        yield "  failed", _render_total("", store["errors"]), Tone.WARN


def _render_rates(now: Stats, before: Stats) -> str:
    elapsed_s = now["timestamp"] - before["timestamp"]
    requests, hits = (now["requests"][name] - before["requests"][name] for name in ("total", "hits"))
    calls = now["upstream"]["calls"] - before["upstream"]["calls"]
    if elapsed_s <= 0 or requests < 0:
        return "restarted"
    hit_share = format_share(_ratio(hits, requests))
    return f"{requests / elapsed_s:.1f} requests/s, {hit_share} hits, {calls / elapsed_s:.1f} calls/s"


def _render_failures(upstream: Stats) -> Iterator[Line]:
    if upstream["throttled"]:
        yield "", f"{upstream['throttled']:,} throttled by the upstream (429)", Tone.WARN
    if upstream["retried"]:
        yield "", f"{upstream['retried']:,} retried", Tone.WARN


def _render_budget(budget: Stats) -> Iterator[Line]:
    if budget["limit"] is None:
        yield "budget", "no limit known", Tone.PLAIN
    else:
        used = _ratio(budget["used"], budget["limit"]["calls"]) or 0.0
        filled = min(_BAR_WIDTH, round(_BAR_WIDTH * used))
        bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
        mood = Tone.BAD if used > 0.95 else Tone.WARN if used > 0.75 else Tone.PLAIN
        yield "budget", f"{bar} {budget['used']:,} of {format_limit(budget['limit'])}", mood
    if without := budget.get("without_store"):
        yield "", _render_store_outage(without), Tone.WARN
    for policy, limit in budget["advertised_limits"].items():
        yield f"  {policy}", f"{format_limit(limit)}, as the upstream says", Tone.PLAIN
    cooldown = f"{format_period(budget['cooldown_s'])} left" if budget["cooldowns"] else "none"
    yield "cooldown", cooldown, Tone.BAD if budget["cooldowns"] else Tone.GOOD
    low, skipped = budget["low"], _render_total("", budget["background_skipped"])
    budget_saver = f"on, {pluralize(low, 'budget')} low" if low else "off"
    yield "prefetch", budget_saver + (f"; skipped {skipped}" if skipped else ""), Tone.WARN if low else Tone.GOOD
    if budget["queued"] or budget["rejected"]:
        yield (
            "queued",
            f"{pluralize(budget['queued'], 'call')}, {budget['rejected']:,} rejected, budget exhausted",
            Tone.WARN,
        )


def _render_store_outage(state: Stats) -> str:
    """Return how calls are limited while the store is away."""
    if state["no_calls_for_s"]:
        return f"without the store: no calls for {format_period(state['no_calls_for_s'])}"
    return f"without the store: each replica has {state['share']} of what was left"


def _render_circuit(breaker: Stats) -> Line:
    skipped = (
        f"; {pluralize(breaker['rejected'], 'call')} not made while the upstream failed" if breaker["rejected"] else ""
    )
    if not breaker["open"]:
        return "circuit", f"closed{skipped}", Tone.GOOD
    return "circuit", f"open, the upstream is tried again in {format_period(breaker['retry_in_s'])}{skipped}", Tone.BAD


def _render_latency(latency: Stats) -> Iterator[str]:
    for name, label in (("hit", "hit"), ("forwarded", "forwarded")):
        yield f"{label} {format_seconds(latency[name]['p50_s'])}, 99 % {format_seconds(latency[name]['p99_s'])}"


def _render_total(total: str, parts: Mapping[str, int]) -> str:
    said = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    return ": ".join(filter(None, (total, said)))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def pluralize(count: int, noun: str) -> str:
    """Return *count* of what *noun* names."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_share(value: float | None) -> str:
    """Return *value*, from 0 to 1, in per cent; a dash where there is none."""
    return _NO_VALUE if value is None else f"{100 * value:.{2 if 0.99 < value < 1 else 1}f} %"


def format_size(value: float) -> str:
    """Return bytes in the unit that suits."""
    unit = 0
    while value >= 1024 and unit < len(_BYTE_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.{1 if unit and value < 100 else 0}f} {_BYTE_UNITS[unit]}"


def format_seconds(value: float | None) -> str:
    """Return a duration in the unit that suits; a dash where there is none."""
    if value is None:
        return _NO_VALUE
    if value < 0.001:
        return f"{1e6 * value:.0f} µs"
    return f"{1e3 * value:.{1 if value < 0.01 else 0}f} ms" if value < 1 else f"{value:.1f} s"


def format_period(value: float) -> str:
    """Return a longer duration in the unit that suits."""
    for scale, unit in _DURATION_UNITS:
        if value >= scale:
            return f"{value / scale:.1f}".removesuffix(".0") + f" {unit}"
    return f"{value:.1f} s"


def format_limit(limit: Stats) -> str:
    """Return a limit: so many in a period."""
    return f"{limit['calls']:,} in {format_period(limit['per_s'])}"


@click.command()
@admin_option
@token_file_option
@config_option
@click.option("--interval", default=2.0, show_default=True, type=Duration(0.1, 3600), help="Seconds between readings.")
@click.option("--once", is_flag=True, help="Show the figures once; so it is where the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures once, as one line of JSON.")
def stats(
    admin: str | None, token_file: Path | None, config: Path | None, interval: float, once: bool, as_json: bool
) -> None:
    """Watch what a running proxy saves.

    Shows calls saved, hits, the budget, cooldown, prefetch, circuit breaker, latency and storage, until Ctrl-C. The
    figures are those of GET /stats on the admin port; docs/operations.md explains each.

    \b
    Examples:
      ims-proxy stats
      ims-proxy stats --admin proxy:9090 --token-file /run/secrets/admin
      ims-proxy stats --json | jq .upstream.saved
    """
    from proxy.cli.admin_client import AdminClientError

    port = make_admin_client(config, admin=admin, token_file=token_file)
    try:
        told = port.get("/stats", EXPECTED_STATS)
    except AdminClientError as error:
        fail(error)
    if as_json:
        import orjson

        click.echo(orjson.dumps(told))
    elif once or not sys.stdout.isatty():
        click.echo(_render_head(told, port.address))
        for label, text, _ in render_lines(told):
            click.echo(f"{label:<10} {text}")
    else:
        _watch_stats(port, told, interval)


def _watch_stats(client: AdminClient, stats: Stats, interval: float) -> None:
    """Show the figures anew every *interval* seconds, until interrupted."""
    from rich.live import Live

    from proxy.cli.admin_client import AdminClientError

    before = None
    with Live(_render_view(stats, before, client.address), auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                before, stats = stats, client.get("/stats", EXPECTED_STATS)
            except AdminClientError as error:
                live.update(_render_view(stats, before, client.address, connection_error=str(error)), refresh=True)
            else:
                live.update(_render_view(stats, before, client.address), refresh=True)


def _render_view(stats: Stats, before: Stats | None, address: str, *, connection_error: str = "") -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for label, text, mood in render_lines(stats, before):
        table.add_row(Text(label, "dim"), Text(text, mood.value))
    last = Text(
        f"{connection_error}; still trying" if connection_error else "Ctrl-C ends it",
        "red" if connection_error else "dim",
    )
    return Group(Text(_render_head(stats, address), "bold"), Text(), table, Text(), last)


def _render_head(stats: Stats, address: str) -> str:

    processes = f", {stats['processes']} processes" if stats["processes"] > 1 else ""
    return f"ims-proxy {stats['version']} at {address}{processes}, up {format_period(stats['uptime_s'])}"
