"""`ims-proxy stats`: a live view of a running proxy."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.cli.options import Period, admin_option, admin_port, config_option, failed, token_file_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from proxy.cli.admin_client import AdminPort
    from proxy.cli.figures import Figures


@click.command()
@admin_option
@token_file_option
@config_option
@click.option("--interval", default=2.0, show_default=True, type=Period(0.1, 3600), help="Seconds between readings.")
@click.option("--once", is_flag=True, help="Show the figures once; so it is where the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures once, as one line of JSON.")
def stats(
    admin: str | None, token_file: Path | None, config: Path | None, interval: float, once: bool, as_json: bool
) -> None:
    """Watch what a running proxy saves.

    Calls saved, hits, calls against the budget, gate, thrift and breaker, latency, the store; Ctrl-C ends it. The
    figures are those of GET /stats on the admin port; docs/operating.md says what each means.

    \b
    Examples:
      ims-proxy stats
      ims-proxy stats --admin proxy:9090 --token-file /run/secrets/admin
      ims-proxy stats --json | jq .upstream.saved
    """
    from proxy.cli.admin_client import AdministrationError
    from proxy.cli.figures import FIGURES

    port = admin_port(config, admin=admin, token_file=token_file)
    try:
        told = port.told("/stats", FIGURES)
    except AdministrationError as error:
        failed(error)
    if as_json:
        import orjson

        click.echo(orjson.dumps(told))
    elif once or not sys.stdout.isatty():
        from proxy.cli.figures import lines

        click.echo(_head(told, port.address))
        for label, text, _ in lines(told):
            click.echo(f"{label:<10} {text}")
    else:
        _watch(port, told, interval)


def _watch(port: AdminPort, told: Figures, interval: float) -> None:
    """Show the figures anew every *interval* seconds, until interrupted."""
    from rich.live import Live

    from proxy.cli.admin_client import AdministrationError
    from proxy.cli.figures import FIGURES

    before = None
    with Live(_view(told, before, port.address), auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            try:
                before, told = told, port.told("/stats", FIGURES)
            except AdministrationError as error:
                live.update(_view(told, before, port.address, lost=str(error)), refresh=True)
            else:
                live.update(_view(told, before, port.address), refresh=True)


def _view(told: Figures, before: Figures | None, address: str, *, lost: str = "") -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from proxy.cli.figures import lines

    table = Table.grid(padding=(0, 2))
    for label, text, mood in lines(told, before):
        table.add_row(Text(label, "dim"), Text(text, mood.value))
    last = Text(f"{lost}; still trying" if lost else "Ctrl-C ends it", "red" if lost else "dim")
    return Group(Text(_head(told, address), "bold"), Text(), table, Text(), last)


def _head(told: Figures, address: str) -> str:
    from proxy.cli.figures import period

    processes = f", {told['processes']} processes" if told["processes"] > 1 else ""
    return f"ims-proxy {told['version']} at {address}{processes}, up {period(told['uptime_s'])}"
