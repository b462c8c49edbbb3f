"""`ims-proxy serve` and `ims-proxy demo`: run until a signal."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from proxy.cli.options import load_configuration, run_async_until_signal, run_until_signal, settings_options


@contextmanager
def freeze_gc_after_loading() -> Iterator[None]:
    """Load what stays for good: the collector looks for garbage neither meanwhile nor, later on, among that."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@click.command()
@settings_options
def serve(config: Path | None, upstream: str | None, listen: str | None, admin: str | None, store: str | None) -> None:
    """Serve callers before one upstream.

    Flags override the environment (IMS_PROXY_SERVER__LISTEN and so on), which overrides the file. With --upstream alone
    it keeps answers in process memory, tells callers apart by their token, and listens on loopback.

    \b
    Examples:
      ims-proxy serve --upstream https://ims.eu-de.example.com
      ims-proxy serve --upstream https://ims.eu-de.example.com --store redis://redis:6379/0
      ims-proxy serve --config /etc/ims-proxy.toml
    """
    with freeze_gc_after_loading():
        from proxy.observability.logging import configure_logging
        from proxy.runtime.app import serve as serve_until_stopped

        settings = load_configuration(config, upstream=upstream, listen=listen, admin=admin, store=store).settings
    configure_logging(settings.log.level)
    if settings.server.workers > 1:
        from proxy.runtime.workers import run_workers

        run_until_signal(lambda: run_workers(settings))
    run_async_until_signal(lambda: serve_until_stopped(settings))


@click.command(short_help="Serve before a built-in image API, with things to try.")
@click.option("--listen", metavar="HOST:PORT", help="Where callers come. [default: 127.0.0.1:8080]")
@click.option("--admin", metavar="HOST:PORT", help="Where operators come. [default: 127.0.0.1:9090]")
@click.option(
    "--images", default=500, show_default=True, type=click.IntRange(1, 100_000), help="How many images there are."
)
def demo(listen: str | None, admin: str | None, images: int) -> None:
    """Serve before a built-in image API: N images, two projects, throttled as Huawei Cloud throttles.

    Prints requests to try, with the tokens that they need. The environment's settings count here too.

    \b
    Examples:
      ims-proxy demo --images 2000
    """
    from proxy.cli.demo import run_demo
    from proxy.observability.logging import configure_logging

    settings = load_configuration(None, upstream="http://127.0.0.1", listen=listen, admin=admin).settings
    configure_logging("warning")
    run_async_until_signal(lambda: run_demo(settings, images=images, print_line=click.echo))
