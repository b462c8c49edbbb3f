"""What a request for a single resource asks for: only the values that decide its answer."""

from __future__ import annotations

from typing import Final

from proxy.core.cache_key import CacheKey, digest
from proxy.core.call_context import DEFAULT_CONTEXT, CallContext
from proxy.core.messages import USER_AGENT, Fields, Request
from proxy.core.partition import NotShareable, Partitioner, Principal, api_variant
from proxy.core.routes import Forward, bypass_reason
from proxy.core.values import immutable
from proxy.http.cache_control import RequestDirectives, parse_request_directives
from proxy.http.conditional import CONDITION_FIELDS
from proxy.resources.routes import ResourceRoute
from proxy.resources.storability import CREDENTIAL_FIELDS, nominate_fields

# What an answer may differ by where the upstream's `Vary` is not asked: all of it goes up in one spelling, and counts.
_COMPARED_FIELDS: Final = ("accept", "accept-language")
# What proxies on the way say of a request, and what turns it into another one: nothing that is shared may follow it.
_UNTRUSTED_FIELDS: Final = (
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
_OWN_FIELDS: Final = ("host", "x-request-id", "expect")
# Resources that are the same for all users of a project; of others nobody knows.
_PROJECT_PATHS: Final = ("/v2/images/", "/v2/schemas/")
_SIGNATURE_SCHEME: Final = "sdk-hmac-"
_PUBLIC_CREDENTIALS: Final = ("x-auth-token", "authorization")


@immutable
class ResourceRequest:
    """One GET or HEAD of a resource on *route*, by *principal*, to *target*.

    *variant* is that of the API. *fields* go upstream. *client_request* is what the caller sent: its method, conditions
    and range are met here. *has_authorization* says that the request has an `Authorization` that makes no partition
    (RFC 9111 §3.5).
    """

    principal: Principal
    key: CacheKey
    route: ResourceRoute
    variant: str
    target: str
    fields: Fields
    client_request: Request
    directives: RequestDirectives
    has_authorization: bool = False
    context: CallContext = DEFAULT_CONTEXT

    @property
    def collapse_key(self) -> str:
        """What two requests must have in common, beside the key, to share a fetch; no credential stands in it."""
        if not self.route.by_vary:
            return ""
        compared = self.fields.without(["x-request-id", *CREDENTIAL_FIELDS])
        return digest(tuple(sorted(f"{name.lower()}: {value}" for name, value in compared)))


def parse_resource_request(
    request: Request, route: ResourceRoute, partitioner: Partitioner, principal: Principal | NotShareable
) -> ResourceRequest | Forward:
    """Return what the GET or HEAD *request* of *principal* asks for, or why it is forwarded."""
    wishes = parse_request_directives(request.fields)
    if reason := "no-store" if wishes.no_store else bypass_reason(request):
        return Forward(reason)
    if route.is_public:
        if any(value.lower().startswith(_SIGNATURE_SCHEME) for value in request.fields.get_all("authorization")):
            return Forward(NotShareable.SIGNED.value)  # it can't be altered on its way up
        principal = Principal(
            partitioner.public_partition,
            partitioner.public_partition,
            is_verified=True,
            credential_names=_PUBLIC_CREDENTIALS,
        )
    if isinstance(principal, NotShareable):
        return Forward(principal.value)
    partition = principal.partition if request.path.startswith(_PROJECT_PATHS) else principal.user_partition
    form = api_variant(request.fields)
    counted, fields = _upstream_fields(request, route, principal, form)
    return ResourceRequest(
        principal=principal,
        key=CacheKey(partition, counted, request.path, request.query),
        route=route,
        variant=form,
        target=f"{request.path}?{request.query}" if request.query else request.path,
        fields=fields.plus(("X-Request-Id", request.request_id)),
        client_request=request,
        directives=wishes,
        has_authorization=route.is_public and request.fields.get("authorization") is not None,
    )


def _upstream_fields(request: Request, route: ResourceRoute, principal: Principal, form: str) -> tuple[str, Fields]:
    """Return what the request adds to the key, a digest or `""`, and the fields that go up."""
    if route.by_vary:
        return "", request.fields.end_to_end().without([*CONDITION_FIELDS, *_UNTRUSTED_FIELDS, *_OWN_FIELDS])
    counted = [(name, value) for name, value in nominate_fields(request.fields, _COMPARED_FIELDS) if value is not None]
    versioned = (("X-Api-Version", form),) if form else ()
    fields = request.fields.select(principal.credential_names).plus(
        *((name.title(), value) for name, value in counted),
        *versioned,
        ("Accept-Encoding", "identity"),
        ("User-Agent", USER_AGENT),
    )
    return digest((form, *(part for line in counted for part in line))), fields
