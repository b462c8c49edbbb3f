"""What commands share: the flags for settings, and how a command ends that can't go on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from proxy.config.reload import read_text

if TYPE_CHECKING:
    from proxy.cli.admin_client import AdminClient
    from proxy.config.loading import Configuration, SettingPath

ClickCommand = TypeVar("ClickCommand", bound=Callable[..., Any])
Result = TypeVar("Result")

EXIT_FAILED: Final = 1
EXIT_WRONG_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
_MAX_DURATION_S: Final = 10 * 365 * 86400.0
# Stands in for the upstream's address where a command has no use for it.
_PLACEHOLDER_UPSTREAM: Final = "http://127.0.0.1"

config_option: Final = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Settings, TOML. [default: none]"
)
admin_option: Final = click.option(
    "--admin",
    metavar="HOST:PORT",
    callback=lambda _context, _option, value: _strip_url_scheme(value),
    help="The running proxy's admin port. [default: 127.0.0.1:9090]",
)
token_file_option: Final = click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file with the admin token. [default: admin.token of the settings]",
)


class Duration(click.FloatRange):
    """A duration in seconds, as long as settings may be; what is no number is none, and passes no comparison."""

    def __init__(self, min_s: float = 0.0, max_s: float = _MAX_DURATION_S) -> None:
        super().__init__(min_s, max_s)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return *value* as a number of seconds."""
        converted = super().convert(value, param, ctx)
        return self.fail(f"{value!r} is no number.", param, ctx) if isnan(converted) else converted


def settings_options(command: ClickCommand) -> ClickCommand:
    """Return *command* with the flags that override settings."""
    for option in reversed(
        [
            config_option,
            click.option("--upstream", metavar="URL", help="The image API's origin, such as https://ims.example."),
            click.option("--listen", metavar="HOST:PORT", help="Where callers come. [default: 127.0.0.1:8080]"),
            click.option("--admin", metavar="HOST:PORT", help="Where operators come. [default: 127.0.0.1:9090]"),
            click.option(
                "--store",
                metavar="URL",
                help="memory://, redis://HOST:PORT/DB, redis+sentinel://…, … [default: memory://]",
            ),
        ]
    ):
        command = option(command)
    return command


def load_configuration(
    config: Path | None,
    *,
    upstream: str | None = None,
    listen: str | None = None,
    admin: str | None = None,
    store: str | None = None,
) -> Configuration:
    """Return the settings, or end with every problem on a line of its own."""
    from proxy.config.loading import ConfigurationError, load

    given: dict[SettingPath, object] = {
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
        return load(config, os.environ, given)
    except ConfigurationError as error:
        for problem in error.problems:
            print_error(problem)
        sys.exit(EXIT_WRONG_USAGE)


def load_offline(config: Path | None) -> Configuration:
    """Return the settings for a command that calls no upstream: without a file none need be named."""
    upstream = None if config or "IMS_PROXY_UPSTREAM__URL" in os.environ else _PLACEHOLDER_UPSTREAM
    return load_configuration(config, upstream=upstream)


def make_admin_client(config: Path | None, *, admin: str | None, token_file: Path | None = None) -> AdminClient:
    """Return the admin port of a running proxy, its token from *token_file* or the settings: never from an argument."""
    from pydantic import SecretStr, TypeAdapter, ValidationError

    from proxy.cli.admin_client import AdminClient
    from proxy.config.types import HostPort

    section = load_offline(config).settings.admin
    if admin is not None:
        try:
            section = section.model_copy(update={"listen": TypeAdapter[str](HostPort).validate_python(admin)})
        except ValidationError as error:
            raise click.BadParameter(f"{admin!r}: HOST:PORT is allowed", param_hint="--admin") from error
    if token_file is not None:
        section = section.model_copy(update={"token": SecretStr(read_secret(token_file))})
    return AdminClient(section)


def read_secret(file: Path) -> str:
    """Return what *file* holds, `-` being standard input, or end where it holds nothing."""
    try:
        held = read_text(Path("/dev/stdin") if str(file) == "-" else file)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    return check_field_value(held.strip(), str(file))


def check_field_value(text: str, origin: str) -> str:
    """Return *text*, or end where it can't stand in a field of a request."""
    if not text or not text.isascii() or not text.isprintable():
        fail(f"{origin}: {'not a line of visible ASCII characters' if text else 'is empty'}")
    return text


def _strip_url_scheme(value: str | None) -> str | None:
    """Return HOST:PORT from that, or from a URL."""
    return value and value.removeprefix("http://").rstrip("/")


def fail(reason: object) -> NoReturn:
    """End the command with one line that says why."""
    print_error(reason)
    sys.exit(EXIT_FAILED)


def print_error(reason: object) -> None:
    """Say in one line what is wrong; what others put into it can't give the terminal orders."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(reason))
    click.echo(f"ims-proxy: {shown}", err=True)


def run_async_until_signal(main: Callable[[], Coroutine[Any, Any, signal.Signals]]) -> NoReturn:
    """Run the coroutine that *main* makes on uvloop until a signal, and end as that says."""
    import uvloop

    run_until_signal(lambda: uvloop.run(main()))


def run_until_signal(main: Callable[[], signal.Signals | None]) -> NoReturn:
    """Run *main* until the signal that it returns, and end as that says; what went wrong ends in one line."""
    ended = run_or_exit(main)
    if ended is None:
        fail("a worker could not be kept running")
    sys.exit(EXIT_INTERRUPTED if ended is signal.SIGINT else 0)


def run_or_exit(main: Callable[[], Result]) -> Result:
    """Return what *main* returns; what the system refuses ends in one line, an interrupt with 130."""
    try:
        return main()
    except OSError as error:
        fail(error.strerror or error)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
