"""Settings' values as people are shown them: as TOML, and without what is secret."""

from __future__ import annotations

import re
from typing import Final

from pydantic import SecretStr

from proxy.config.model import Section

# In a URL: `redis://user:PASSWORD@host`, or what redis-py reads from the query, `?ssl_password=PASSWORD`. What is no
# URL for the odd characters in its password is shown too, to say so: rather too much of it is hidden than too little.
_PASSWORD: Final = re.compile(r"(?:(://[^/:@?#]*:).*(?=@)|([?&]\w*password=)[^&#]*)", re.IGNORECASE)


def masked(text: str) -> str:
    """Return *text* without the password that a URL in it may hold."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", text)


def as_toml(value: object) -> str:
    """Return the setting's *value* as it is written in a TOML file."""
    match value:
        case None | SecretStr():
            return '""' if value is None else '"***"'
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value).removesuffix(".0")
        case tuple():
            return f"[{', '.join(map(as_toml, value))}]"
        case Section() | dict():
            named = dict(value).items()
            return f"{{{', '.join(f'{as_toml(name)} = {as_toml(each)}' for name, each in named if each is not None)}}}"
        case _:
            return '"' + masked(str(value)).replace("\\", "\\\\").replace('"', '\\"') + '"'
