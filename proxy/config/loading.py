"""Settings from one TOML file, the environment and flags; the later overrides the earlier.

The sources are merged here and validated by pydantic. A library that merges as it validates can't say where a bad
value came from, and passes over an environment variable whose section it doesn't know.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from proxy.config.checks import find_contradictions, is_loopback
from proxy.config.model import RouteSection, RuleSection, Section, Settings, mask_passwords, render_toml
from proxy.config.reload import read_text
from proxy.config.types import is_file_name
from proxy.core.values import immutable

ENVIRONMENT_PREFIX: Final = "IMS_PROXY_"
# What Kubernetes puts into every pod beside a Service that is named ims-proxy.
_KUBERNETES_SERVICE_VARIABLE: Final = re.compile(
    ENVIRONMENT_PREFIX + r"(?:SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_(?:TCP|UDP)\w*)"
)

SettingPath = tuple[str, str]


@immutable
class GivenValue:
    """A value as a source gave it, and which source: a file, a variable, a flag."""

    value: Any
    origin: str


@immutable
class Problem:
    """One thing that is wrong with the configuration."""

    setting: str
    message: str
    origin: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.setting}: {self.message} ({self.origin})"


def sections() -> dict[str, type[Section]]:
    """Return the settings' sections by name."""
    return {
        name: annotation
        for name, field in Settings.model_fields.items()
        if isinstance(annotation := field.annotation, type) and issubclass(annotation, Section)
    }


def read_file(file: Path, problems: list[Problem]) -> dict[SettingPath, GivenValue]:
    """Return the settings in *file*; what is wrong with it is added to *problems*, as everywhere here."""
    try:
        tables = tomllib.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(Problem(str(file), _parse_error_reason(error), "flag --config"))
        return {}
    given = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            fact = f"a table is allowed, [{section}]" if section in sections() else "no such setting"
            problems.append(Problem(section, fact, str(file)))
            continue
        for name, value in table.items():
            if _check_name(section, name, f"{section}.{name}", str(file), problems):
                given[section, name] = GivenValue(value, str(file))
    return given


def _parse_error_reason(error: Exception) -> str:
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


def read_environment(environ: Mapping[str, str], problems: list[Problem]) -> dict[SettingPath, GivenValue]:
    """Return the settings that *environ* holds."""
    given = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or _KUBERNETES_SERVICE_VARIABLE.fullmatch(variable):
            continue
        section, _, name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if _check_name(section, name, variable, "environment", problems):
            given[section, name] = GivenValue(value, f"environment {variable}")
    return given


def _check_name(section: str, name: str, source_name: str, origin: str, problems: list[Problem]) -> bool:
    """Whether there is such a setting; if not, say which name comes nearest, spelt as the source spells them."""
    known = sections()
    if section in known and name in known[section].model_fields:
        return True
    names = [f"{a}.{b}" for a, model in known.items() for b in model.model_fields]
    if source_name.startswith(ENVIRONMENT_PREFIX):
        names = [ENVIRONMENT_PREFIX + each.replace(".", "__").upper() for each in names]
    problems.append(_unknown_name_problem(source_name, names, origin))
    return False


def _unknown_name_problem(source_name: str, known_names: list[str], origin: str) -> Problem:
    nearest = difflib.get_close_matches(source_name, known_names, n=1, cutoff=0.5)
    return Problem(
        source_name, f"no such setting, did you mean {nearest[0]}?" if nearest else "no such setting", origin
    )


def read_secret_files(raw_settings: dict[SettingPath, GivenValue], problems: list[Problem]) -> None:
    """Put what a `…_file` holds in the place of the secret that it stands for."""
    for section, model in sections().items():
        for name in model.model_fields:
            file = raw_settings.get((section, f"{name}_file"))
            if file is None:
                continue
            if (section, name) in raw_settings:
                problems.append(
                    Problem(f"{section}.{name}_file", f"given beside {section}.{name}, only one may be", file.origin)
                )
                continue
            if not is_file_name(file.value):
                continue  # which is told as every value that is not allowed
            try:
                raw_settings[section, name] = GivenValue(read_text(Path(file.value)).strip(), f"file {file.value}")
            except OSError as error:
                problems.append(Problem(f"{section}.{name}_file", f"{file.value}: {error.strerror}", file.origin))


# What pydantic says before it says what is allowed.
_PYDANTIC_PREFIX: Final = re.compile(r"Value error, |Input (?:should be|is not) ")
_MESSAGES: Final = {
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "int_parsing_size": "an integer that is not so long",
}
_TABLE_ARRAY_SETTINGS: Final = ("rules", "routes")


class ConfigurationError(Exception):
    """The configuration can't be used; *problems* are all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


@immutable
class Configuration:
    """Valid settings, and where each that isn't a default came from."""

    settings: Settings
    origins: Mapping[SettingPath, str]


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[SettingPath, object]) -> Configuration:
    """Return the settings from *file*, *environ* and *flags*.

    Raises `ConfigurationError` that names every problem at once.
    """
    problems: list[Problem] = []
    given: dict[SettingPath, GivenValue] = {}
    if file is not None:
        given |= read_file(file, problems)
    unread = any(problem.setting == str(file) for problem in problems)
    given |= read_environment(environ, problems)
    given |= {at: GivenValue(value, f"flag --{at[1] if at[0] == 'server' else at[0]}") for at, value in flags.items()}
    read_secret_files(given, problems)
    tree: dict[str, dict[str, Any]] = {}
    for (section, name), entry in given.items():
        tree.setdefault(section, {})[name] = entry.value
    tree.setdefault("upstream", {})
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        # What lacks may stand in a file that could not be read.
        told = [details for details in wrong if not (unread and details["type"] == "missing")]
        problems += [_to_problem(list(same), given) for _, same in groupby(told, lambda details: details["loc"][:2])]
        settings = _settings_without_errors(tree, wrong)
    problems += _contradiction_problems(settings, given)
    if problems:
        raise ConfigurationError(problems)
    return Configuration(settings, {at: entry.origin for at, entry in given.items()})


def _to_problem(errors: list[ErrorDetails], raw_settings: Mapping[SettingPath, GivenValue]) -> Problem:
    """Return what is wrong with one setting; a value that may be of several kinds is told all of them."""
    location = errors[0]["loc"]
    section, name = str(location[0]), str(location[1]) if len(location) > 1 else ""
    setting = f"{section}.{name}"
    entry = raw_settings.get((section, name))
    if errors[0]["type"] == "missing" or entry is None:
        return Problem(
            setting,
            "required and not given",
            f"flag --{section}, {ENVIRONMENT_PREFIX}{section.upper()}__{name.upper()} or [{section}] in the file",
        )
    field = sections()[section].model_fields[name]
    secret = _has_secret_type(field.annotation)
    shown = "***" if secret else repr(mask_passwords(entry.value) if isinstance(entry.value, str) else entry.value)
    allowed = " or ".join(dict.fromkeys(map(_allowed_values, errors)))
    return Problem(setting, f"{shown}, allowed is {allowed}", entry.origin)


def _has_secret_type(annotation: object) -> bool:
    return annotation is SecretStr or any(map(_has_secret_type, get_args(annotation)))


def _allowed_values(error: ErrorDetails) -> str:
    match error["type"]:
        case "too_short" | "string_too_short":
            return f"at least {error['ctx']['min_length']} characters"
        case "extra_forbidden":
            table = RouteSection if error["loc"][1] == "routes" else RuleSection
            return f"only {', '.join(table.model_fields)}, not {error['loc'][-1]}"
        case "tuple_type" if error["loc"][1] in _TABLE_ARRAY_SETTINGS:
            return "an array, which only the file can hold"
        case "string_pattern_mismatch":
            return f"what matches {error['ctx']['pattern']}"
        case kind:
            return _MESSAGES.get(kind) or _PYDANTIC_PREFIX.sub("", error["msg"])


def _settings_without_errors(tree: dict[str, dict[str, Any]], errors: Iterable[ErrorDetails]) -> Settings:
    """Return the settings without those that are *errors*, so that the others can still be held against each other."""
    for details in errors:
        section, *name = map(str, details["loc"][:2])
        if name:
            tree[section].pop(name[0], None)
        else:
            tree.pop(section)
    tree.setdefault("upstream", {}).setdefault("url", "http://127.0.0.1")
    return Settings.model_validate(tree)


def _contradiction_problems(settings: Settings, raw_settings: Mapping[SettingPath, GivenValue]) -> list[Problem]:
    """Return what no setting is wrong about on its own."""

    def origin(*at: SettingPath) -> str:
        return next((raw_settings[each].origin for each in at if each in raw_settings), "default")

    problems = []
    if settings.admin.token is None and not is_loopback(settings.admin.listen):
        fact = f"{settings.admin.listen!r}, beyond loopback only with admin.token or admin.token_file"
        problems.append(Problem("admin.listen", fact, origin(("admin", "listen"))))
    server = settings.server
    if server.links == "absolute" and not (server.public_url or server.trusted_proxies):
        fact = "'absolute', which needs server.public_url or server.trusted_proxies"
        problems.append(Problem("server.links", fact, origin(("server", "links"))))
    for section, table in (("budget", settings.budget), ("clients", settings.clients)):
        if (table.calls is None) != (table.per_s is None):
            given_one, lacking = ("calls", "per_s") if table.per_s is None else ("per_s", "calls")
            fact = f"given without {section}.{lacking}"
            problems.append(Problem(f"{section}.{given_one}", fact, origin((section, given_one))))
    for at, fact in find_contradictions(settings):
        problems.append(Problem(".".join(at), fact, origin(at)))
    return problems


def render_effective(configuration: Configuration) -> str:
    """Return every setting with its value, secrets masked, and where it came from, as a TOML file with comments."""
    lines = []
    for section in sections():
        table = getattr(configuration.settings, section)
        lines.append(f"[{section}]")
        for name in type(table).model_fields:
            value = getattr(table, name)
            origin = configuration.origins.get((section, name), "default")
            lines.append(f"{'# ' if value is None else ''}{name} = {render_toml(value)}  # {origin}")
        lines.append("")
    return "\n".join(lines).rstrip()
