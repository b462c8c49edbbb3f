"""Where settings come from: a TOML file, the environment, and files that hold secrets."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from proxy.config.files import text
from proxy.config.model import Section, Settings
from proxy.config.types import is_file_name
from proxy.core.values import immutable

ENVIRONMENT_PREFIX: Final = "IMS_PROXY_"
# What Kubernetes puts into every pod beside a Service that is named ims-proxy.
_SERVICE_LINK: Final = re.compile(ENVIRONMENT_PREFIX + r"(?:SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_(?:TCP|UDP)\w*)")

Setting = tuple[str, str]


@immutable
class Given:
    """A value as a source gave it, and which source: a file, a variable, a flag."""

    value: Any
    origin: str


@immutable
class Problem:
    """One thing that is wrong with the configuration."""

    setting: str
    fact: str
    origin: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.setting}: {self.fact} ({self.origin})"


def sections() -> dict[str, type[Section]]:
    """Return the settings' sections by name."""
    return {
        name: annotation
        for name, field in Settings.model_fields.items()
        if isinstance(annotation := field.annotation, type) and issubclass(annotation, Section)
    }


def from_file(file: Path, problems: list[Problem]) -> dict[Setting, Given]:
    """Return the settings in *file*; what is wrong with it is added to *problems*, as everywhere here."""
    try:
        tables = tomllib.loads(text(file))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(Problem(str(file), _unreadable(error), "flag --config"))
        return {}
    given = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            fact = f"a table is allowed, [{section}]" if section in sections() else "no such setting"
            problems.append(Problem(section, fact, str(file)))
            continue
        for name, value in table.items():
            if _known(section, name, f"{section}.{name}", str(file), problems):
                given[section, name] = Given(value, str(file))
    return given


def _unreadable(error: Exception) -> str:
    """Return what is wrong with a file that gives no tables."""
    match error:
        case OSError():
            return error.strerror or "can't be read"
        case tomllib.TOMLDecodeError():
            return f"no TOML, {error}"
        case RecursionError():
            return "no TOML that can be read, nested too deep"
        case _:
            return "no TOML that can be read, a number in it is too long"


def from_environment(environment: Mapping[str, str], problems: list[Problem]) -> dict[Setting, Given]:
    """Return the settings that *environment* holds."""
    given = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or _SERVICE_LINK.fullmatch(variable):
            continue
        section, _, name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if _known(section, name, variable, "environment", problems):
            given[section, name] = Given(value, f"environment {variable}")
    return given


def _known(section: str, name: str, spelt: str, origin: str, problems: list[Problem]) -> bool:
    """Whether there is such a setting; if not, say which name comes nearest, spelt as the source spells them."""
    known = sections()
    if section in known and name in known[section].model_fields:
        return True
    names = [f"{a}.{b}" for a, model in known.items() for b in model.model_fields]
    if spelt.startswith(ENVIRONMENT_PREFIX):
        names = [ENVIRONMENT_PREFIX + each.replace(".", "__").upper() for each in names]
    problems.append(_unknown(spelt, names, origin))
    return False


def _unknown(spelt: str, names: list[str], origin: str) -> Problem:
    nearest = difflib.get_close_matches(spelt, names, n=1, cutoff=0.5)
    return Problem(spelt, f"no such setting, did you mean {nearest[0]}?" if nearest else "no such setting", origin)


def read_secret_files(given: dict[Setting, Given], problems: list[Problem]) -> None:
    """Put what a `…_file` holds in the place of the secret that it stands for."""
    for section, model in sections().items():
        for name in model.model_fields:
            file = given.get((section, f"{name}_file"))
            if file is None:
                continue
            if (section, name) in given:
                problems.append(
                    Problem(f"{section}.{name}_file", f"given beside {section}.{name}, only one may be", file.origin)
                )
                continue
            if not is_file_name(file.value):
                continue  # which is told as every value that is not allowed
            try:
                given[section, name] = Given(text(Path(file.value)).strip(), f"file {file.value}")
            except OSError as error:
                problems.append(Problem(f"{section}.{name}_file", f"{file.value}: {error.strerror}", file.origin))
