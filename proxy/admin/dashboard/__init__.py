"""The status page: one document that holds its style and its script, and nothing of the proxy's.

It asks `/stats` for the figures. Where a token is set it asks its reader for it, and keeps it in memory only.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib.resources import files
from typing import Final

_STYLE_PLACEHOLDER: Final = "/* style.css */"
_SCRIPT_PLACEHOLDER: Final = "/* script.js */"


class StatusPage:
    """The page as it is sent; its *headers* let a browser run this style and this script, and ask this port only."""

    def __init__(self) -> None:
        directory = files("proxy.admin.dashboard")
        document, style, script = (
            directory.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "script.js")
        )
        self.body = document.replace(_STYLE_PLACEHOLDER, style).replace(_SCRIPT_PLACEHOLDER, script).encode()
        policy = (
            "default-src 'none'",
            f"style-src {_csp_hash(style)}",
            f"script-src {_csp_hash(script)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
        self.headers = {"Content-Security-Policy": "; ".join(policy), "Referrer-Policy": "no-referrer"}


def _csp_hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
