"""Ask the proxy itself whether it would start with the arguments, environment and file that a container is given."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from proxy.cli import cli

_CHECK_S = 60.0


def accepted(
    arguments: Sequence[str], environment: Mapping[str, str], *, file: str | None = None, directory: Path
) -> str:
    """Return the effective settings that `ims-proxy check` prints; fail with what it says if it refuses them.

    *file* is the text of the settings' file; secrets that *environment* expects in files are made up in *directory*.
    """
    command = [sys.executable, "-m", "proxy", "check"]
    if file is not None:
        (directory / "ims-proxy.toml").write_text(file)
        command += ["--config", str(directory / "ims-proxy.toml")]
    secret = directory / "secret"
    secret.write_text("made up for this check\n")
    given = {name: str(secret) if name.endswith("_FILE") else value for name, value in environment.items()}
    done = subprocess.run(
        command, env=os.environ | given, capture_output=True, text=True, timeout=_CHECK_S, check=False
    )
    assert done.returncode == 0, done.stderr
    _parsed(arguments)
    return done.stdout


def _parsed(arguments: Sequence[str]) -> None:
    """Parse *arguments* as the command line does; click raises its usage error on what it doesn't know."""
    name, *rest = arguments
    command = cli.commands[name]
    with click.Context(cli) as parent:
        command.make_context(name, list(rest), parent=parent)
