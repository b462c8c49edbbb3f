"""The command `ims-proxy`."""

from __future__ import annotations

import os
import sys

import click

from proxy import __version__
from proxy.cli.check import check, explain
from proxy.cli.options import EXIT_INTERRUPTED, fail
from proxy.cli.purge import purge
from proxy.cli.replay import replay
from proxy.cli.serve import demo, serve
from proxy.cli.stats import stats
from proxy.cli.warm import warm


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ims-proxy")
def cli() -> None:
    """A caching gateway for image listings: Huawei Cloud IMS and OpenStack Glance.

    \b
    Start with:
      ims-proxy demo                                  a proxy before a built-in image API, with things to try
      ims-proxy serve --upstream https://ims.example  a proxy before yours
    """


for _command in (serve, demo, check, explain, purge, stats, warm, replay):
    cli.add_command(_command)


def main() -> None:
    """Run the command line: exit codes 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted."""
    try:
        status = cli.main(prog_name="ims-proxy", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, for at the interpreter's end nobody tells of what could not be written
        sys.exit(status)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of the output has nowhere to go
        fail(error.strerror or error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ims-proxy"
        click.echo(f"{command}: {error.format_message()} (see {command} --help)", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"ims-proxy: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
