"""How far an OPTIONS request may still go (RFC 9110 §7.6.2), and what this server says of itself."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from proxy.core.messages import Fields, Request, Response
from proxy.http.validation import SERVER

_HOPS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def ends_here(request: Request) -> bool:
    """Whether *request* asks for the options of this server, or may go no further."""
    return request.method == "OPTIONS" and (request.target == SERVER or _hops(request) == 0)


def options() -> Response:
    """Return what may be asked of this server. What a path allows is the upstream's to say."""
    return Response(200, Fields([("Allow", _METHODS)]))


def onward(request: Request) -> Request:
    """Return *request* with one hop less, if it counts them."""
    hops = _hops(request) if request.method == "OPTIONS" else None
    if hops is None:
        return request
    fields = request.fields.without(["max-forwards"]).plus(("Max-Forwards", str(max(0, hops - 1))))
    return replace(request, fields=fields)


def _hops(request: Request) -> int | None:
    """Return the value of `Max-Forwards`, None where it has none or makes no sense."""
    told = request.fields.all("max-forwards")
    return int(told[0]) if len(told) == 1 and _HOPS.fullmatch(told[0]) else None
