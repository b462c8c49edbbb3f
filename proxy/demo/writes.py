"""Writes: what they change, and who may (``api/v2/images.py`` of Glance).

Sharing: the members of an image (``…/images/{id}/members`` of Glance's API).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.image import Image, Member, stamp
from proxy.demo.query import RefusedError

LINKS = ("self", "file", "schema", "direct_url", "stores")
READ_ONLY = frozenset(("id", "owner", "status", "size", "virtual_size", "checksum", "created_at", "updated_at", *LINKS))
PERMANENT = frozenset(
    ("name", "visibility", "protected", "container_format", "disk_format", "min_ram", "min_disk", "tags", "os_hidden")
)
TRUTHS = ("protected", "os_hidden")
COUNTS = ("min_ram", "min_disk")


def create(catalogue: Catalogue, caller: Caller, wanted: object, *, image_id: str, now: float) -> Image:
    """Add an image in status queued and return it; raises RefusedError (400, 403, 409).

    *image_id* is used unless the request names one of its own.
    """
    _check_writer(caller)
    if not isinstance(wanted, Mapping):
        raise RefusedError(400, "body: not a JSON object")
    attributes = {name: value for name, value in wanted.items() if name not in ("id", "owner")}
    for name, value in attributes.items():
        _check_attribute(name, value)
    chosen = wanted.get("id", image_id)
    if not isinstance(chosen, str) or not chosen:
        raise RefusedError(400, "id: not a string")
    if chosen in catalogue:
        raise RefusedError(409, f"image {chosen} exists")
    image = Image(_new_document(chosen, caller.project, attributes, at=stamp(now)))
    catalogue.put(image)
    return image


def patch(catalogue: Catalogue, caller: Caller, image_id: str, operations: object, *, now: float) -> Image:
    """Apply a JSON patch, all of it or nothing, and return the image; raises RefusedError (400, 403, 404, 409)."""
    image = _writable(catalogue, caller, image_id)
    if not isinstance(operations, list):
        raise RefusedError(400, "body: not a JSON array")
    document = dict(image.document)
    for operation in operations:
        _apply(document, operation)
    image = Image({**document, "updated_at": stamp(now)}, image.members)
    catalogue.put(image)
    return image


def delete(catalogue: Catalogue, caller: Caller, image_id: str) -> None:
    """Remove an image; raises RefusedError (403, 404), 403 for a protected one too."""
    image = _writable(catalogue, caller, image_id)
    if image.text("protected") == "true":
        raise RefusedError(403, f"image {image_id}: protected")
    catalogue.discard(image_id)


def upload(catalogue: Catalogue, caller: Caller, image_id: str, content: bytes, *, now: float) -> None:
    """Keep the content of a queued image, which becomes active; raises RefusedError (403, 404, 409)."""
    image = _writable(catalogue, caller, image_id)
    if image.text("status") != "queued":
        raise RefusedError(409, f"image {image_id}: not queued")
    checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
    catalogue.contents[image_id] = content
    catalogue.put(image.amended(now=now, status="active", size=len(content), checksum=checksum))


def tag(catalogue: Catalogue, caller: Caller, image_id: str, value: str, *, now: float) -> None:
    """Add a tag; one that is there already is no error. Raises RefusedError (400, 403, 404)."""
    image = _writable(catalogue, caller, image_id)
    if len(value) > 255:
        raise RefusedError(400, "tag: longer than 255 characters")
    if value not in image.tags:
        catalogue.put(image.amended(now=now, tags=[*_tags(image), value]))


def untag(catalogue: Catalogue, caller: Caller, image_id: str, value: str, *, now: float) -> None:
    """Remove a tag; raises RefusedError (403, 404)."""
    image = _writable(catalogue, caller, image_id)
    if value not in image.tags:
        raise RefusedError(404, f"image {image_id}: no such tag")
    catalogue.put(image.amended(now=now, tags=[stored for stored in _tags(image) if stored != value]))


def _new_document(image_id: str, owner: str, attributes: Mapping[str, object], *, at: str) -> dict[str, object]:
    return {
        "schema": "/v2/schemas/image",
        "id": image_id,
        "name": None,
        "status": "queued",
        "visibility": "private",
        "owner": owner,
        "protected": False,
        "container_format": "bare",
        "disk_format": "zvhd2",
        "size": None,
        "virtual_size": None,
        "checksum": None,
        "min_ram": 0,
        "min_disk": 40,
        "tags": [],
        "created_at": at,
        "updated_at": at,
        "self": f"/v2/images/{image_id}",
        "file": f"/v2/images/{image_id}/file",
        "__imagetype": "private",
        "__isregistered": "true",
        **attributes,
    }


def _apply(document: dict[str, object], operation: object) -> None:
    match operation:
        case {"op": "add" | "replace" as verb, "path": str(path), "value": value}:
            name = _attribute(path)
            _check_attribute(name, value)
            if verb == "replace" and name not in document:
                raise RefusedError(409, f"{name}: not there to be replaced")
            document[name] = value
        case {"op": "remove", "path": str(path)}:
            name = _attribute(path)
            if name in READ_ONLY | PERMANENT:
                raise RefusedError(403, f"{name}: can't be removed")
            if name not in document:
                raise RefusedError(409, f"{name}: not there to be removed")
            del document[name]
        case _:
            raise RefusedError(400, "patch: neither add, replace nor remove, or without path or value")


def _attribute(path: str) -> str:
    name = path.removeprefix("/").replace("~1", "/").replace("~0", "~")
    if not path.startswith("/") or not name or "/" in path[1:]:
        raise RefusedError(400, f"patch: {path!r} names no attribute")
    return name


def _check_attribute(name: str, value: object) -> None:
    if name in READ_ONLY:
        raise RefusedError(403, f"{name}: read-only")
    if name == "tags":
        right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif name in TRUTHS:
        right = isinstance(value, bool)
    elif name in COUNTS:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    elif name == "visibility":
        right = value in ("public", "private", "shared", "community")
    else:
        right = isinstance(value, str) or (name == "name" and value is None)
    if not right:
        raise RefusedError(400, f"{name}: not a value it can have")


def _check_writer(caller: Caller) -> None:
    if not caller.may_write:
        raise RefusedError(403, "your roles only read")


def _writable(catalogue: Catalogue, caller: Caller, image_id: str) -> Image:
    image = catalogue.find(caller, image_id)
    _check_writer(caller)
    if not (caller.admin or image.owner == caller.project):
        raise RefusedError(403, f"image {image_id}: not yours")
    return image


def _tags(image: Image) -> list[str]:
    tags = image.document.get("tags")
    return list(tags) if isinstance(tags, list) else []


def member_document(image: Image, member: Member) -> dict[str, object]:
    """Return a membership as its JSON document."""
    return {
        "image_id": image.id,
        "member_id": member.project,
        "status": member.status,
        "created_at": member.created_at,
        "updated_at": member.updated_at,
        "schema": "/v2/schemas/member",
    }


def members(catalogue: Catalogue, caller: Caller, image_id: str) -> list[dict[str, object]]:
    """Return the members of an image; whoever is not its owner sees only its own membership."""
    image = catalogue.find(caller, image_id)
    own = caller.admin or image.owner == caller.project
    return [
        member_document(image, member) for member in image.members.values() if own or member.project == caller.project
    ]


def member(catalogue: Catalogue, caller: Caller, image_id: str, project: str) -> dict[str, object]:
    """Return one membership, which only the owner and *project* may read; raises RefusedError (404)."""
    image = catalogue.find(caller, image_id)
    if not (caller.admin or caller.project in (image.owner, project)):
        raise RefusedError(404, f"image {image_id}: no member {project}")
    return member_document(image, _member(image, project))


def invite(catalogue: Catalogue, caller: Caller, image_id: str, project: object, *, now: float) -> dict[str, object]:
    """Offer an image to *project*: a pending membership. Raises RefusedError (400, 403, 404, 409)."""
    image = _shareable(catalogue, caller, image_id)
    if not isinstance(project, str) or not project:
        raise RefusedError(400, "member: not a project id")
    if project in image.members:
        raise RefusedError(409, f"image {image_id}: {project} is a member already")
    member = Member(project, "pending", stamp(now), stamp(now))
    catalogue.put(image.shared(member))
    return member_document(image, member)


def answer_invitation(
    catalogue: Catalogue, caller: Caller, image_id: str, project: str, status: object, *, now: float
) -> dict[str, object]:
    """Set what *project* made of the offer; only *project* may (403). Raises RefusedError (400, 403, 404)."""
    image = catalogue.find(caller, image_id)
    member = _member(image, project)
    if project != caller.project and not caller.admin:
        raise RefusedError(403, f"image {image_id}: only {project} can answer")
    if status not in ("pending", "accepted", "rejected"):
        raise RefusedError(400, "status: none of pending, accepted, rejected")
    member = member._replace(status=str(status), updated_at=stamp(now))
    catalogue.put(image.shared(member))
    return member_document(image, member)


def expel(catalogue: Catalogue, caller: Caller, image_id: str, project: str) -> None:
    """End a membership; only the owner may. Raises RefusedError (403, 404)."""
    image = _shareable(catalogue, caller, image_id)
    _member(image, project)
    catalogue.put(image.unshared(project))


def _member(image: Image, project: str) -> Member:
    member = image.members.get(project)
    if member is None:
        raise RefusedError(404, f"image {image.id}: {project} is no member")
    return member


def _shareable(catalogue: Catalogue, caller: Caller, image_id: str) -> Image:
    image = catalogue.find(caller, image_id)
    if not (caller.admin or image.owner == caller.project):
        raise RefusedError(403, f"image {image_id}: not yours to share")
    if image.visibility != "shared":
        raise RefusedError(403, f"image {image_id}: its visibility is not shared")
    return image
