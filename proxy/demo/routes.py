"""Which request goes where, and how each is put to the catalogue. Handlers translate; they decide nothing."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import orjson

from proxy.demo import documents, members, writes
from proxy.demo.catalogue import Catalogue
from proxy.demo.errors import RefusedError
from proxy.demo.query import pairs_of
from proxy.demo.rendering import Answer, cloudimages, json_answer, listing
from proxy.demo.visibility import Caller

PATCH_TYPES = ("application/openstack-images-v2.1-json-patch", "application/openstack-images-v2.0-json-patch")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, as handlers get it: *args* are the variable segments of its path, *query* is raw."""

    catalogue: Catalogue
    caller: Caller
    args: tuple[str, ...]
    query: str
    host: str
    content_type: str
    body: bytes
    now: float
    new_id: Callable[[], str]


Handler = Callable[[Exchange], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, as a *template* with ``{}`` for its variable segments, and what answers each of its methods."""

    template: str
    methods: Mapping[str, Handler]
    open_to_all: bool = False


def route_of(path: str) -> tuple[Route, tuple[str, ...]] | None:
    """Return the route of a raw *path* and its arguments, or None for a path that leads nowhere.

    As in Glance, the path is decoded first, slashes in a row count once, any minor version is that of v2, and a
    trailing slash makes another path.
    """
    decoded = unquote_to_bytes(path.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
    decoded = re.sub(r"^/v2\.[0-9]+/", "/v2/", re.sub("/+", "/", decoded))
    segments = decoded.split("/")
    for route in ROUTES:
        template = route.template.split("/")
        pairs = list(zip(template, segments, strict=False))
        if len(template) == len(segments) and all(wanted in ("{}" if given else "", given) for wanted, given in pairs):
            return route, tuple(given for wanted, given in pairs if wanted == "{}")
    return None


def _images(exchange: Exchange) -> Answer:
    pairs = pairs_of(exchange.query)
    return listing(exchange.catalogue.images(exchange.caller, pairs), pairs)


def _cloudimages(exchange: Exchange) -> Answer:
    return cloudimages(exchange.catalogue.cloudimages(exchange.caller, pairs_of(exchange.query)))


def _image(exchange: Exchange) -> Answer:
    return Answer(200, exchange.catalogue.find(exchange.caller, *exchange.args).rendered)


def _create(exchange: Exchange) -> Answer:
    image = writes.create(
        exchange.catalogue, exchange.caller, _json(exchange), image_id=exchange.new_id(), now=exchange.now
    )
    return Answer(201, image.rendered, headers={"Location": f"/v2/images/{image.id}"})


def _patch(exchange: Exchange) -> Answer:
    if exchange.content_type not in PATCH_TYPES:
        raise RefusedError(415, f"Content-Type: none of {', '.join(PATCH_TYPES)}")
    (image_id,) = exchange.args
    image = writes.patch(exchange.catalogue, exchange.caller, image_id, _json(exchange), now=exchange.now)
    return Answer(200, image.rendered)


def _delete(exchange: Exchange) -> Answer:
    writes.delete(exchange.catalogue, exchange.caller, *exchange.args)
    return Answer(204)


def _upload(exchange: Exchange) -> Answer:
    (image_id,) = exchange.args
    writes.upload(exchange.catalogue, exchange.caller, image_id, exchange.body, now=exchange.now)
    return Answer(204)


def _download(exchange: Exchange) -> Answer:
    image = exchange.catalogue.find(exchange.caller, *exchange.args)
    content = exchange.catalogue.contents.get(image.id)
    return Answer(204) if content is None else Answer(200, content, "application/octet-stream")


def _tag(exchange: Exchange) -> Answer:
    writes.tag(exchange.catalogue, exchange.caller, *exchange.args, now=exchange.now)
    return Answer(204)


def _untag(exchange: Exchange) -> Answer:
    writes.untag(exchange.catalogue, exchange.caller, *exchange.args, now=exchange.now)
    return Answer(204)


def _members(exchange: Exchange) -> Answer:
    found = members.members(exchange.catalogue, exchange.caller, *exchange.args)
    return json_answer({"members": found, "schema": "/v2/schemas/members"})


def _invite(exchange: Exchange) -> Answer:
    (image_id,) = exchange.args
    project = _field(exchange, "member")
    return json_answer(members.invite(exchange.catalogue, exchange.caller, image_id, project, now=exchange.now))


def _member(exchange: Exchange) -> Answer:
    return json_answer(members.member(exchange.catalogue, exchange.caller, *exchange.args))


def _answer_invitation(exchange: Exchange) -> Answer:
    image_id, project = exchange.args
    status = _field(exchange, "status")
    return json_answer(
        members.answer_invitation(exchange.catalogue, exchange.caller, image_id, project, status, now=exchange.now)
    )


def _expel(exchange: Exchange) -> Answer:
    members.expel(exchange.catalogue, exchange.caller, *exchange.args)
    return Answer(204)


def _schema(exchange: Exchange) -> Answer:
    schema = documents.schema(*exchange.args)
    if schema is None:
        raise RefusedError(404, f"no schema {exchange.args[0]}")
    return json_answer(schema)


def _os_versions(exchange: Exchange) -> Answer:
    return json_answer(documents.os_versions(image for image in exchange.catalogue if image.visibility == "public"))


def _quota(exchange: Exchange) -> Answer:
    return json_answer(documents.quota(sum(image.owner == exchange.caller.project for image in exchange.catalogue)))


def _choices(exchange: Exchange) -> Answer:
    return json_answer(documents.versions(exchange.host), status=300)


def _versions(exchange: Exchange) -> Answer:
    return json_answer(documents.versions(exchange.host))


def _json(exchange: Exchange) -> object:
    try:
        document: object = orjson.loads(exchange.body)
    except orjson.JSONDecodeError:
        raise RefusedError(400, "body: not JSON") from None
    return document


def _field(exchange: Exchange, name: str) -> object:
    document = _json(exchange)
    return document.get(name) if isinstance(document, dict) else None


ROUTES = (
    Route("/v2/images", {"GET": _images, "POST": _create}),
    Route("/v2/cloudimages", {"GET": _cloudimages}),
    Route("/v2/images/{}", {"GET": _image, "PATCH": _patch, "DELETE": _delete}),
    Route("/v2/images/{}/file", {"GET": _download, "PUT": _upload}),
    Route("/v2/images/{}/tags/{}", {"PUT": _tag, "DELETE": _untag}),
    Route("/v2/images/{}/members", {"GET": _members, "POST": _invite}),
    Route("/v2/images/{}/members/{}", {"GET": _member, "PUT": _answer_invitation, "DELETE": _expel}),
    Route("/v2/schemas/{}", {"GET": _schema}),
    Route("/v1/cloudimages/os_version", {"GET": _os_versions}),
    Route("/v1/cloudimages/quota", {"GET": _quota}),
    Route("/", {"GET": _choices}, open_to_all=True),
    Route("/versions", {"GET": _versions}, open_to_all=True),
)
