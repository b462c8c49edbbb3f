"""`ims-proxy replay`: what the proxy would have made of an access log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.cli.options import Duration, config_option, fail, load_offline, run_or_exit

if TYPE_CHECKING:
    from proxy.cli.access_log import AccessLog
    from proxy.config.model import Settings
    from proxy.replay.entries import LogEntry
    from proxy.replay.report import LogSummary, ReportRow
    from proxy.replay.simulation import ReplayResult


@click.command()
@click.argument("logs", metavar="LOG…", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--caller",
    metavar="FIELD",
    help="What tells callers apart: user, address, or a JSON log's own field. [default: a user, else the address]",
)
@click.option("--ttl", type=Duration(), metavar="SECONDS", help="Instead of cache.ttl_s.")
@click.option("--top", default=15, show_default=True, type=click.IntRange(1), help="How many listings are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one line of JSON.")
@config_option
def replay(
    logs: tuple[Path, ...], caller: str | None, ttl: float | None, top: int, as_json: bool, config: Path | None
) -> None:
    """Predict hits, upstream calls and calls saved, from an access log.

    Reads the combined format of nginx and Apache, or JSON lines; gzip or not; - is standard input. Several files are
    one log, in the order given. The proxy's own decisions are asked the same requests at the same moments, without a
    network, by the lifetimes and the identity mode of the settings. docs/operations.md says what is assumed where a log
    says nothing. Lines that are no requests are counted and told.

    \b
    Examples:
      ims-proxy replay /var/log/nginx/access.log.1.gz /var/log/nginx/access.log
      ims-proxy replay --ttl 300 --json access.log | jq .total
      zcat *.gz | ims-proxy replay --caller address -
    """
    import asyncio

    from proxy.cli.access_log import AccessLog, AccessLogError
    from proxy.replay.report import to_json as told

    settings = load_offline(config).settings
    if ttl is not None:
        settings = settings.model_copy(update={"cache": settings.cache.model_copy(update={"ttl_s": ttl})})
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(closing(AccessLog(log))) for log in logs]
            read, replayed = run_or_exit(lambda: asyncio.run(_replay(opened, settings, caller)))
    except AccessLogError as error:
        fail(error)
    if caller and read.callers == {""}:  # all of them one caller: a prediction, but not of this log
        raise click.UsageError(f"--caller: no line says {caller!r}")
    if as_json:
        import orjson

        click.echo(orjson.dumps(told(read, replayed)))
    else:
        _print_report(read, replayed, top)


async def _replay(logs: Sequence[AccessLog], settings: Settings, caller: str | None) -> tuple[LogSummary, ReplayResult]:
    """Read the log twice: to learn how long its listings were, and to ask what it asked."""
    from rich.console import Console
    from rich.progress import Progress

    from proxy.config.policies import page_sizes
    from proxy.replay.listings import ObservedListings
    from proxy.replay.report import LogSummary
    from proxy.replay.simulation import Simulation, make_sharer

    listings = ObservedListings(page_sizes(settings), partition_of=make_sharer(settings))
    read = LogSummary()
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        whole = sum(log.size_bytes for log in logs)
        task = bar.add_task("reading", total=2 * whole)
        for entry in _read_entries(logs, caller, read, lambda at: bar.update(task, completed=at)):
            listings.observe(entry)
        bar.update(task, description="replaying", completed=whole)
        simulation = Simulation(settings, listings)
        for entry in _read_entries(logs, caller, LogSummary(), lambda at: bar.update(task, completed=whole + at)):
            await simulation.replay_entry(entry)
        await simulation.close()
    return read, simulation.result()


def _read_entries(
    logs: Sequence[AccessLog], caller: str | None, summary: LogSummary, on_progress: Callable[[int], None]
) -> Iterator[LogEntry]:
    """Yield what was logged, line by line; *summary* is told of every line, *on_progress* how many bytes were read."""
    from proxy.replay.entries import MalformedLine, parse_entry

    before = 0
    for log in logs:
        for line in log.read_lines(lambda at: on_progress(before + at)):  # noqa: B023 - called while it is this log's turn
            found = parse_entry(line, caller_field=caller) if line else None
            summary.add(found)
            if found is not None and not isinstance(found, MalformedLine):
                yield found
        before += log.size_bytes


def _print_report(summary: LogSummary, result: ReplayResult, top: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from proxy.cli.stats import format_share, pluralize
    from proxy.replay.report import describe_lines, report_rows, sum_outcomes

    for line in describe_lines(summary):
        click.echo(line)
    if summary.first_timestamp is None:
        return
    begin, end = (datetime.fromtimestamp(at, UTC) for at in (summary.first_timestamp, summary.last_timestamp))
    click.echo(
        f"from {begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC, {pluralize(len(summary.callers), 'caller')}\n"
    )
    each = report_rows(result)
    shown = each[:top] if len(each) <= top + 1 else [*each[:top], sum_outcomes(each[top:], f"{len(each) - top} others")]
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("listing", overflow="fold")
    for name in ("requests", "hits", "calls", "saved"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(row: ReportRow) -> None:
        outcome = row.counts
        counts = (outcome.requests, outcome.hits, outcome.calls, row.calls_saved)
        table.add_row(Text(row.label), *(f"{count:,}" for count in counts))

    for row in shown:
        add(row)
    add(sum_outcomes(each))
    Console(highlight=False, soft_wrap=False).print(table)
    everything = sum_outcomes(each)
    part = everything.calls_saved / everything.counts.requests
    click.echo(f"\n{everything.calls_saved:,} of {everything.counts.requests:,} calls saved, {format_share(part)}")
    click.echo(
        f"in the busiest minute {result.peak_calls_per_minute[0]:,} calls without the proxy, "
        f"{result.peak_calls_per_minute[1]:,} with it"
    )
