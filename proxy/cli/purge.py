"""`ims-proxy purge`: drop stored answers through the admin port."""

from __future__ import annotations

from pathlib import Path

import click

from proxy.cli.options import admin_option, config_option, fail, make_admin_client, token_file_option


@click.command(short_help="Drop what is stored, in every replica.")
@click.option("--all", "everything", is_flag=True, help="Drop all that is stored.")
@click.option("--project", metavar="ID", help="Drop what may show this project's images.")
@click.option("--image", metavar="ID", help="Drop what may show this image.")
@click.option("--listing", metavar="QUERY", help="Drop one listing, whoever asked for it, such as 'visibility=public'.")
@click.option("--resource", metavar="PATH", help="Drop one resource, whoever asked for it, such as /v2/schemas/image.")
@config_option
@admin_option
@token_file_option
def purge(
    everything: bool,
    project: str | None,
    image: str | None,
    listing: str | None,
    resource: str | None,
    config: Path | None,
    admin: str | None,
    token_file: Path | None,
) -> None:
    """Drop stored listings and resources, in every replica, through the admin port of one.

    Prints how many there were. The admin token, if there is one, comes from a file or from the settings: admin.token or
    admin.token_file in the file, or in the environment.

    \b
    Examples:
      ims-proxy purge --all
      ims-proxy purge --listing 'visibility=public&__imagetype=gold'
      ims-proxy purge --resource /v2/images/3f1c77d2-5dd1-4cfb-b6f3-26ec4f6ac07d
      ims-proxy purge --all --admin proxy:9090 --token-file /run/secrets/admin
    """
    given = {"all": everything or None, "project": project, "image": image, "listing": listing, "resource": resource}
    order = {name: value for name, value in given.items() if value is not None}
    if len(order) != 1:
        raise click.UsageError("one of --all, --project, --image, --listing, --resource is needed, and one alone")
    from proxy.cli.admin_client import AdminClientError
    from proxy.cli.stats import pluralize

    try:
        told = make_admin_client(config, admin=admin, token_file=token_file).post("/purge", order, {"dropped": int})
    except AdminClientError as error:
        fail(error)
    kind = "listing" if resource is None else "answer"
    click.echo(f"dropped {pluralize(told['dropped'], kind)}" + (f": {told['because']}" if "because" in told else ""))
