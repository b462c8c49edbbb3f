"""The documents that follow from the settings: the table in docs/configuration.md and the example file.

`python -m tests.documents.generated` writes them anew.
"""

import re
import textwrap
from pathlib import Path

from pydantic.fields import FieldInfo

from proxy.config.loading import sections
from proxy.config.model import render_toml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "ims-proxy.toml"
CONFIGURATION = ROOT / "docs" / "configuration.md"

_TABLE = re.compile(r"(?<=<!-- settings -->\n).*(?=<!-- /settings -->)", re.DOTALL)
_HEAD = """\
# Every setting of ims-proxy with its default. A line that begins with `#` and a name is the default: take the `#` away
# to change it. Each but `rules` and `routes` is also an environment variable, IMS_PROXY_<SECTION>__<NAME>, which
# overrides this file, and some are flags, which override both. `ims-proxy check --config FILE` says what is wrong
# without starting.
"""
_RULE = """\
# A rule names a list, and what is different for it; what it does not name is as above:
#   [[cache.rules]]
#   path = "/v2/images"
#   query = "visibility=public"
#   ttl_s = 600
"""
_ROUTE = """\
# A route names resources, and what holds for them; `*` stands for one segment, `**` for any number:
#   [[cache.routes]]
#   path = "/v2/schemas/*"
#   ttl_s = 86400                     # where the upstream states none
#   public = true                     # one answer for everyone, whatever credentials they have
# Also `stale_while_revalidate_s` and `stale_if_error_s`; `heuristic_fraction`, a lifetime by the age of the last change
# (RFC 9111 §4.2.2); `honor_vary = true`: everything clients send goes upstream, and the upstream's `Vary` says what of
# it distinguishes answers.
"""
_TABLES = {"rules": _RULE, "routes": _ROUTE}


def example() -> str:
    """Return the example file: every setting, what it does, and its default commented out."""
    parts = [_HEAD]
    for section, model in sections().items():
        doc = (model.__doc__ or "").rstrip(".")
        parts.append(f"\n[{section}]  # {doc[0].lower()}{doc[1:]}\n")
        for name, field in model.model_fields.items():
            told = f"{_told(field)[0].upper()}{_told(field)[1:]}."
            parts.append("\n".join(textwrap.wrap(told, 116, initial_indent="# ", subsequent_indent="# ")))
            parts.append(_example_line(name, field))
            parts[-1] += _TABLES.get(name, "")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _example_line(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return f'{name} = "https://ims.eu-de.example.com"\n'
    default = field.get_default(call_default_factory=True)
    return f"# {name} = {render_toml(default)}{'   # not set' if default is None else ''}\n"


def table() -> str:
    """Return the table of settings."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for section, model in sections().items():
        for name, field in model.model_fields.items():
            rows.append(f"| `{section}.{name}` | {_default(field)} | {_told(field).replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if default in (None, "", ()) else f"`{render_toml(default)}`".replace('"', "")


def _told(field: FieldInfo) -> str:
    assert field.description
    return field.description


def configuration() -> str:
    """Return docs/configuration.md with its table as it has to be."""
    return _TABLE.sub(lambda _: table(), CONFIGURATION.read_text(), count=1)


if __name__ == "__main__":
    EXAMPLE.write_text(example())
    CONFIGURATION.write_text(configuration())
