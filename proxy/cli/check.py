"""`ims-proxy check` and `ims-proxy explain`: told offline."""

from __future__ import annotations

from pathlib import Path

import click

from proxy.cli.options import config_option, load_configuration, load_offline, settings_options


@click.command()
@settings_options
def check(config: Path | None, upstream: str | None, listen: str | None, admin: str | None, store: str | None) -> None:
    """Say what is wrong with the configuration, without starting.

    Prints the effective settings, secrets masked, each with where it came from. Exits with 2 if anything is wrong, each
    error on a line: setting, value, what is allowed, where it came from.

    \b
    Examples:
      ims-proxy check --config /etc/ims-proxy.toml
    """
    from proxy.config.loading import render_effective

    click.echo(render_effective(load_configuration(config, upstream=upstream, listen=listen, admin=admin, store=store)))


@click.command()
@click.argument("url")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A field of the request; may repeat."
)
@click.option(
    "-X", "--request", "method", default="GET", show_default=True, metavar="METHOD", help="The request's method."
)
@config_option
def explain(url: str, headers: tuple[str, ...], method: str, config: Path | None) -> None:
    """Show what a request turns into, without sending it.

    The canonical query, the listing and the window, who would share the answer, what was normalised away and why, and
    whether it would be answered from the store, or why not. Of tokens only that they are there is shown.

    \b
    Examples:
      ims-proxy explain '/v2/images?sort_dir=desc&visibility=public&limit=10' -H 'X-Auth-Token: …'
    """
    from proxy.admin.explain import explain_request
    from proxy.http.validation import MalformedRequest, is_token, to_origin_form

    method = method.upper()
    if not is_token(method):
        raise click.BadParameter(f"{method!r}: no name of a method", param_hint="--request")
    target = to_origin_form(method, url.partition("#")[0], None)
    if isinstance(target, MalformedRequest):
        reason = f"{url!r}: neither a URL nor a path with a query, in visible ASCII characters"
        raise click.BadParameter(reason, param_hint="URL")
    parsed = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not is_token(name.strip()) or not value.isprintable():
            raise click.BadParameter(f"{name!r}: a field is written 'Name: value'", param_hint="--header")
        parsed.append((name.strip(), value.strip()))
    for label, value in explain_request(method, target, parsed, load_offline(config).settings):
        click.echo(f"{label:<12} {value}")
