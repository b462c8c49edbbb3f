"""The command `ims-proxy`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from proxy import __version__

if TYPE_CHECKING:
    from proxy.configuration import Configuration, Setting

Command = TypeVar("Command", bound=Callable[..., Any])

_WRONG_USAGE = 2
_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ims-proxy")
def cli() -> None:
    """A caching gateway for image listings: Huawei Cloud IMS and OpenStack Glance.

    \b
    Start with:
      ims-proxy demo                                  a proxy before a built-in image API, with things to try
      ims-proxy serve --upstream https://ims.example  a proxy before yours
    """


def _configured(command: Command) -> Command:
    for option in reversed(
        [
            click.option(
                "--config",
                type=click.Path(path_type=Path, dir_okay=False),
                metavar="FILE",
                help="Settings, TOML. [default: none]",
            ),
            click.option("--upstream", metavar="URL", help="The image API's origin, such as https://ims.example."),
            click.option("--listen", metavar="HOST:PORT", help="Where callers come. [default: 127.0.0.1:8080]"),
            click.option("--admin", metavar="HOST:PORT", help="Where operators come. [default: 127.0.0.1:9090]"),
            click.option(
                "--store", metavar="URL", help="memory://, redis://HOST:PORT/DB or rediss://… [default: memory://]"
            ),
        ]
    ):
        command = option(command)
    return command


def _configuration(
    config: Path | None, *, upstream: str | None, listen: str | None, admin: str | None, store: str | None
) -> Configuration:
    """Return the settings, or end with every problem on a line of its own."""
    from proxy.configuration import ConfigurationError, loaded

    given: dict[Setting, object] = {
        at: value
        for at, value in {
            ("upstream", "url"): upstream,
            ("server", "listen"): listen,
            ("admin", "listen"): admin,
            ("store", "url"): store,
        }.items()
        if value is not None
    }
    try:
        return loaded(config, os.environ, given)
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"ims-proxy: {problem}", err=True)
        sys.exit(_WRONG_USAGE)


def _run(main: Callable[[], Coroutine[Any, Any, signal.Signals]]) -> None:
    """Run the coroutine that *main* makes on uvloop until a signal; what goes wrong at the start ends in one line."""
    import uvloop

    try:
        if uvloop.run(main()) is signal.SIGINT:
            sys.exit(_INTERRUPTED)
    except OSError as error:
        click.echo(f"ims-proxy: {error.strerror or error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


@cli.command()
@_configured
def serve(config: Path | None, upstream: str | None, listen: str | None, admin: str | None, store: str | None) -> None:
    """Serve callers before one upstream.

    Flags override the environment (IMS_PROXY_SERVER__LISTEN and so on), which overrides the file. With --upstream alone
    it keeps answers in process memory, tells callers apart by their token, and listens on loopback.
    """
    from proxy.telemetry import configure_logging
    from proxy.web.app import serve as serve_until_stopped

    settings = _configuration(config, upstream=upstream, listen=listen, admin=admin, store=store).settings
    configure_logging(settings.log.level)
    _run(lambda: serve_until_stopped(settings))


@cli.command()
@_configured
def check(config: Path | None, upstream: str | None, listen: str | None, admin: str | None, store: str | None) -> None:
    """Say what is wrong with the configuration, without starting.

    Prints the effective settings, secrets masked, each with where it came from. Exits with 2 if anything is wrong, each
    error on a line: setting, value, what is allowed, where it came from.
    """
    from proxy.configuration import effective

    click.echo(effective(_configuration(config, upstream=upstream, listen=listen, admin=admin, store=store)))


@cli.command()
@click.argument("url")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A field of the request; may repeat."
)
@click.option(
    "-X", "--request", "method", default="GET", show_default=True, metavar="METHOD", help="The request's method."
)
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Settings, TOML. [default: none]"
)
def explain(url: str, headers: tuple[str, ...], method: str, config: Path | None) -> None:
    """Show what a request turns into, without sending it.

    The canonical query, the listing and the window, who would share the answer, what was normalised away and why, and
    whether it would be answered from the store, or why not. Of tokens only that they are there is shown.

    \b
    ims-proxy explain '/v2/images?sort_dir=desc&visibility=public&limit=10' -H 'X-Auth-Token: …'
    """
    from urllib.parse import urlsplit

    from proxy.explain import explanation

    try:
        urlsplit(url.encode().decode())
    except ValueError as error:
        raise click.BadParameter("neither a URL nor a path with a query", param_hint="URL") from error
    parsed = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{name!r}: a field is written 'Name: value'", param_hint="--header")
        parsed.append((name.strip(), value.strip()))
    settings = _configuration(
        config, upstream=None if config else "http://127.0.0.1", listen=None, admin=None, store=None
    ).settings
    for label, value in explanation(method, url, parsed, settings):
        click.echo(f"{label:<12} {value}")


@cli.command()
@click.option("--all", "everything", is_flag=True, help="Drop every listing.")
@click.option("--project", metavar="ID", help="Drop what may show this project's images.")
@click.option("--image", metavar="ID", help="Drop what may show this image.")
@click.option("--listing", metavar="QUERY", help="Drop one listing, whoever asked for it, such as 'visibility=public'.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Settings, TOML. [default: none]"
)
@click.option("--admin", metavar="HOST:PORT", help="The proxy's admin port. [default: 127.0.0.1:9090]")
def purge(
    everything: bool,
    project: str | None,
    image: str | None,
    listing: str | None,
    config: Path | None,
    admin: str | None,
) -> None:
    """Drop stored listings, in every replica, through the admin port of one.

    Prints how many there were. The admin token, if there is one, comes from the settings: admin.token or
    admin.token_file in the file, or in the environment.

    \b
    ims-proxy purge --all
    ims-proxy purge --listing 'visibility=public&__imagetype=gold'
    """
    given = {"all": everything or None, "project": project, "image": image, "listing": listing}
    order = {name: value for name, value in given.items() if value is not None}
    if len(order) != 1:
        raise click.UsageError("one of --all, --project, --image, --listing is needed")
    from proxy.administration import AdministrationError, ordered

    upstream = None if config else "http://127.0.0.1"
    settings = _configuration(config, upstream=upstream, listen=None, admin=admin, store=None).settings
    try:
        told = ordered("/purge", order, settings.admin)
    except AdministrationError as error:
        click.echo(f"ims-proxy: {error}", err=True)
        sys.exit(1)
    click.echo(f"dropped {told['dropped']} listings" + (f": {told['because']}" if "because" in told else ""))


@cli.command()
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where callers come.")
@click.option("--admin", default="127.0.0.1:9090", show_default=True, metavar="HOST:PORT", help="Where operators come.")
@click.option(
    "--images", default=500, show_default=True, type=click.IntRange(1, 100_000), help="How many images there are."
)
def demo(listen: str, admin: str, images: int) -> None:
    """Serve before a built-in image API: N images, two projects, throttled as Huawei Cloud throttles.

    Prints requests to try, with the tokens that they need.
    """
    from proxy.demonstration import demonstrate
    from proxy.telemetry import configure_logging

    settings = _configuration(None, upstream="http://127.0.0.1", listen=listen, admin=admin, store=None).settings
    configure_logging("warning")
    _run(lambda: demonstrate(settings, images=images, say=click.echo))


def main() -> None:
    """Run the command line."""
    cli(prog_name="ims-proxy")
