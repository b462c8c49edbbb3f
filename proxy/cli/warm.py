"""`ims-proxy warm`: crawl listings into the store before callers want them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from proxy.cli.options import (
    EXIT_FAILED,
    check_field_value,
    config_option,
    fail,
    load_configuration,
    load_offline,
    print_error,
    read_secret,
    run_or_exit,
)

if TYPE_CHECKING:
    import ssl

    from rich.console import Console

    from proxy.cli.crawler import Crawler, Listing
    from proxy.config.model import Settings

_TOKEN_VARIABLES: Final = ("OS_TOKEN", "OS_AUTH_TOKEN")  # where the openstack client and the glance client look
_LISTEN_ANY: Final = ("0.0.0.0", "[::]")  # noqa: S104 - nothing listens here; callers on this machine use loopback


@dataclass(slots=True)
class WarmResult:
    """What a listing came to."""

    image_count: int = 0
    page_count: int = 0
    fetched_pages: int = 0
    unstored_pages: int = 0
    elapsed_s: float = 0.0

    def __str__(self) -> str:
        from proxy.cli.stats import pluralize

        pages = pluralize(self.page_count, "page")
        return (
            f"{pluralize(self.image_count, 'image')} in {pages}, {self.fetched_pages:,} fetched, {self.elapsed_s:.1f} s"
        )


@click.command()
@click.argument("queries", metavar="[QUERY]…", nargs=-1)
@click.option("--proxy", "url", metavar="URL", help="The running proxy. [default: server.listen of the settings]")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file with the X-Auth-Token to ask with, - for standard input. [default: $OS_TOKEN or $OS_AUTH_TOKEN]",
)
@click.option("--key-file", type=click.Path(path_type=Path), metavar="FILE", help="A file with a caller's X-Api-Key.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificates to trust instead of the system's, PEM.",
)
@click.option(
    "--tls-strict/--no-tls-strict",
    default=True,
    help="Whether the proxy's certificate needs the extensions that RFC 5280 requires.",
)
@click.option("--refresh", is_flag=True, help="Fetch anew what is stored already.")
@click.option("--without-proxy", is_flag=True, help="Fill the Redis of the settings without a running proxy.")
@config_option
def warm(
    queries: tuple[str, ...],
    url: str | None,
    token_file: Path | None,
    key_file: Path | None,
    ca_file: Path | None,
    tls_strict: bool,
    refresh: bool,
    without_proxy: bool,
    config: Path | None,
) -> None:
    """Crawl listings into the store, before callers want them.

    A QUERY names a listing, as callers would ask for it, without limit and marker; without one it is everything the
    token sees. Pages are as long as the upstream gives them, so a listing costs as few calls as can be. Each is a call
    of the class `batch`, which waits behind callers, and counts towards the budget. What is stored is for those who
    share the token's answers. Exits with 1 if a listing could not be crawled, or not be stored.

    \b
    Examples:
      OS_TOKEN=$(openstack token issue -f value -c id) ims-proxy warm 'visibility=public'
      ims-proxy warm --token-file /run/secrets/token 'visibility=public' '/v2/cloudimages?__imagetype=gold'
      ims-proxy warm --without-proxy --config /etc/ims-proxy.toml --token-file token
    """
    import asyncio

    from proxy.cli.crawler import CrawlError, parse_listing

    try:
        listings = [parse_listing(query) for query in queries or ("",)]
    except CrawlError as error:
        raise click.BadParameter(str(error), param_hint="QUERY") from error
    settings = (load_configuration(config) if without_proxy else load_offline(config)).settings
    if without_proxy and settings.store.url.startswith("memory:"):
        raise click.UsageError("--without-proxy: store.url is memory://, which ends with the command; Redis is needed")
    fields = _request_fields(token_file, key_file) | ({"Cache-Control": "no-cache"} if refresh else {})
    through = None if without_proxy else _parse_proxy_url(url or _local_proxy_url(settings))
    trusted = _make_tls_context(ca_file, strict=tls_strict)
    if not run_or_exit(lambda: asyncio.run(_warm_listings(listings, settings, through, fields, trusted))):
        sys.exit(EXIT_FAILED)


def _request_fields(token_file: Path | None, key_file: Path | None) -> dict[str, str]:
    """Return who asks, and that it can wait; no credential is ever an argument."""
    fields = {"X-Request-Priority": "batch", "User-Agent": "ims-proxy-warm"}
    if token_file is not None:
        fields["X-Auth-Token"] = read_secret(token_file)
    elif key_file is not None:
        fields["X-Api-Key"] = read_secret(key_file)
    elif variable := next(filter(os.environ.get, _TOKEN_VARIABLES), None):
        fields["X-Auth-Token"] = check_field_value(os.environ[variable].strip(), variable)
    return fields


def _make_tls_context(ca_file: Path | None, *, strict: bool) -> ssl.SSLContext:
    """Return what trusts the certificates in *ca_file*, or those of the system where there is none."""
    import ssl

    from proxy.config.tls import make_verifying_context

    try:
        return make_verifying_context(ca_file, strict=strict)
    except OSError as error:  # which errors of TLS are, too
        fail(f"{ca_file}: {'no certificates' if isinstance(error, ssl.SSLError) else error.strerror}")


def _parse_proxy_url(url: str) -> str:
    """Return *url* if it names a proxy; raises `click.BadParameter`."""
    from pydantic import TypeAdapter, ValidationError

    from proxy.config.types import Origin

    try:
        return TypeAdapter[str](Origin).validate_python(url)
    except ValidationError as error:
        raise click.BadParameter(f"{url!r}: http://HOST:PORT is allowed, or https", param_hint="--proxy") from error


def _local_proxy_url(settings: Settings) -> str:
    host, _, port = settings.server.listen.rpartition(":")
    scheme = "https" if settings.server.tls_cert else "http"
    return f"{scheme}://{'127.0.0.1' if host in _LISTEN_ANY else host}:{port}"


async def _warm_listings(
    listings: Sequence[Listing],
    settings: Settings,
    url: str | None,
    fields: Mapping[str, str],
    tls_context: ssl.SSLContext,
) -> bool:
    """Crawl what is *listings* and say what came of each; return whether all is stored now."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from proxy.cli.crawler import Crawler, CrawlError, make_session

    well = True
    terminal = Console() if sys.stdout.isatty() else Console(stderr=True)  # one for both, or they would mix
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.fields[said]}", markup=False),
        TimeElapsedColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    )
    async with _open_proxy(settings, url) as address, make_session(tls_context) as asking:
        crawler = Crawler(asking, address, fields=fields, page_size=settings.upstream.max_page)
        with bar:
            task = bar.add_task("", total=len(listings) if len(listings) > 1 else None, said="")
            for number, each in enumerate(listings):
                bar.update(task, description=str(each), completed=number, said="")
                try:
                    warmed = await _crawl_one(crawler, each, show_progress=lambda said: bar.update(task, said=said))
                except CrawlError as error:
                    print_error(f"{each}: {error}")
                    well = False
                    continue
                _print_above_bar(f"{each}: {warmed}", terminal)
                if warmed.unstored_pages:
                    print_error(f"{each}: {warmed.unstored_pages} pages were not stored")
                    well = False
    return well


def _print_above_bar(line: str, terminal: Console) -> None:
    """Print *line* where output goes, above the bar where that is the same terminal."""
    if terminal.is_terminal and not terminal.stderr:
        terminal.print(line, markup=False, highlight=False)
    else:
        click.echo(line)


async def _crawl_one(crawler: Crawler, listing: Listing, *, show_progress: Callable[[str], None]) -> WarmResult:
    from proxy.cli.crawler import Pause

    warmed = WarmResult()
    began = time.monotonic()
    async for step in crawler.crawl(listing):
        if isinstance(step, Pause):
            show_progress(f"{warmed.image_count:,} images, waits {step.wait_s:.0f} s for the budget")
            continue
        warmed.image_count += step.image_count
        warmed.page_count += 1
        warmed.fetched_pages += step.is_fetched
        warmed.unstored_pages += not step.is_stored
        show_progress(f"{warmed.image_count:,} images, {warmed.fetched_pages:,} of {warmed.page_count:,} pages fetched")
    warmed.elapsed_s = time.monotonic() - began
    return warmed


@asynccontextmanager
async def _open_proxy(settings: Settings, url: str | None) -> AsyncIterator[str]:
    """Give the address of the proxy to crawl through: *url*, or where there is none one of our own for the while."""
    if url is not None:
        yield url
        return
    from proxy.observability.logging import configure_logging
    from proxy.runtime.app import run_proxy

    configure_logging("warning")
    anywhere = {"listen": "127.0.0.1:0"}
    server = settings.server.model_copy(update=anywhere | {"tls_cert": None, "tls_key": None, "workers": 1})
    own = settings.model_copy(update={"server": server, "admin": settings.admin.model_copy(update=anywhere)})
    async with run_proxy(own) as started:
        yield started.url
