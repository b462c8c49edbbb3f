"""What a request for a single resource asks for: only the values that decide its answer."""

from __future__ import annotations

from typing import Final

from proxy.core.cache_key import ListingKey, digest
from proxy.core.call_context import ANYBODY, Claimant
from proxy.core.messages import USER_AGENT, Fields, Request
from proxy.core.partition import Partitioner, Unshared, Who, variant
from proxy.core.routes import bypass
from proxy.core.values import immutable
from proxy.http.cache_control import Directives, directives
from proxy.http.conditional import CONDITIONS
from proxy.resources.routes import ResourceRoute
from proxy.resources.storability import CREDENTIALS, nominated

# What an answer may differ by where the upstream's `Vary` is not asked: all of it goes up in one spelling, and counts.
_COUNTED: Final = ("accept", "accept-language")
# What proxies on the way say of a request, and what turns it into another one: nothing that is shared may follow it.
_UNTRUSTED: Final = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
)
_OURS: Final = ("host", "x-request-id", "expect")
# Resources that are the same for all users of a project; of others nobody knows.
_OF_A_PROJECT: Final = ("/v2/images/", "/v2/schemas/")
_SIGNED: Final = "sdk-hmac-"
_SENT_FOR_ALL: Final = ("x-auth-token", "authorization")


@immutable
class ResourceAsk:
    """One GET or HEAD of a resource on *route*, by *who*, to *target*.

    *form* is that of the API. *fields* go upstream. *asked* is what the caller sent: its method, conditions and range
    are met here. *authorized* says that the request has an `Authorization` that makes no partition (RFC 9111 §3.5).
    """

    who: Who
    key: ListingKey
    route: ResourceRoute
    form: str
    target: str
    fields: Fields
    asked: Request
    directives: Directives
    authorized: bool = False
    claimant: Claimant = ANYBODY

    @property
    def flight(self) -> str:
        """What two requests must have in common, beside the key, to share a fetch; no credential stands in it."""
        if not self.route.vary:
            return ""
        compared = self.fields.without(["x-request-id", *CREDENTIALS])
        return digest(tuple(sorted(f"{name.lower()}: {value}" for name, value in compared)))


def resource_asked(
    request: Request, route: ResourceRoute, partitioner: Partitioner, who: Who | Unshared
) -> ResourceAsk | str:
    """Return what the GET or HEAD *request* of *who* asks for, or why it must go through as it came."""
    wishes = directives(request.fields)
    if reason := "no-store" if wishes.no_store else bypass(request):
        return reason
    if route.public:
        if any(value.lower().startswith(_SIGNED) for value in request.fields.all("authorization")):
            return Unshared.SIGNED.value  # it can't be altered on its way up
        who = Who(partitioner.public, partitioner.public, verified=True, credentials=_SENT_FOR_ALL)
    if isinstance(who, Unshared):
        return who.value
    partition = who.partition if request.path.startswith(_OF_A_PROJECT) else who.member
    form = variant(request.fields)
    counted, fields = _sent(request, route, who, form)
    return ResourceAsk(
        who=who,
        key=ListingKey(partition, counted, request.path, request.query),
        route=route,
        form=form,
        target=f"{request.path}?{request.query}" if request.query else request.path,
        fields=fields.plus(("X-Request-Id", request.request_id)),
        asked=request,
        directives=wishes,
        authorized=route.public and request.fields.get("authorization") is not None,
    )


def _sent(request: Request, route: ResourceRoute, who: Who, form: str) -> tuple[str, Fields]:
    """Return what the request adds to the key, a digest or `""`, and the fields that go up."""
    if route.vary:
        return "", request.fields.end_to_end().without([*CONDITIONS, *_UNTRUSTED, *_OURS])
    counted = [(name, value) for name, value in nominated(request.fields, _COUNTED) if value is not None]
    versioned = (("X-Api-Version", form),) if form else ()
    fields = request.fields.only(who.credentials).plus(
        *((name.title(), value) for name, value in counted),
        *versioned,
        ("Accept-Encoding", "identity"),
        ("User-Agent", USER_AGENT),
    )
    return digest((form, *(part for line in counted for part in line))), fields
