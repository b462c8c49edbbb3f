"""Writes: what they change, and who may (``api/v2/images.py`` of Glance), the members of an image included."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.image import Image, Member, format_time
from proxy.demo.query import ImsError

LINK_ATTRIBUTES = ("self", "file", "schema", "direct_url", "stores")
READ_ONLY_ATTRIBUTES = frozenset(
    ("id", "owner", "status", "size", "virtual_size", "checksum", "created_at", "updated_at", *LINK_ATTRIBUTES)
)
NON_REMOVABLE_ATTRIBUTES = frozenset(
    ("name", "visibility", "protected", "container_format", "disk_format", "min_ram", "min_disk", "tags", "os_hidden")
)
BOOLEAN_ATTRIBUTES = ("protected", "os_hidden")
INTEGER_ATTRIBUTES = ("min_ram", "min_disk")


def create_image(
    catalogue: Catalogue, caller: Caller, attributes_document: object, *, image_id: str, now: float
) -> Image:
    """Add an image in status queued and return it; raises RefusedError (400, 403, 409).

    *image_id* is used unless the request names one of its own.
    """
    _check_writer(caller)
    if not isinstance(attributes_document, Mapping):
        raise ImsError(400, "body: not a JSON object")
    attributes = {name: value for name, value in attributes_document.items() if name not in ("id", "owner")}
    for name, value in attributes.items():
        _check_attribute(name, value)
    chosen = attributes_document.get("id", image_id)
    if not isinstance(chosen, str) or not chosen:
        raise ImsError(400, "id: not a string")
    if chosen in catalogue:
        raise ImsError(409, f"image {chosen} exists")
    image = Image(_new_document(chosen, caller.project, attributes, timestamp=format_time(now)))
    catalogue.put(image)
    return image


def patch_image(catalogue: Catalogue, caller: Caller, image_id: str, operations: object, *, now: float) -> Image:
    """Apply a JSON patch, all of it or nothing, and return the image; raises RefusedError (400, 403, 404, 409)."""
    image = _get_writable(catalogue, caller, image_id)
    if not isinstance(operations, list):
        raise ImsError(400, "body: not a JSON array")
    document = dict(image.document)
    for operation in operations:
        _apply_patch_operation(document, operation)
    image = Image({**document, "updated_at": format_time(now)}, image.members)
    catalogue.put(image)
    return image


def delete_image(catalogue: Catalogue, caller: Caller, image_id: str) -> None:
    """Remove an image; raises RefusedError (403, 404), 403 for a protected one too."""
    image = _get_writable(catalogue, caller, image_id)
    if image.get_text("protected") == "true":
        raise ImsError(403, f"image {image_id}: protected")
    catalogue.discard(image_id)


def upload_data(catalogue: Catalogue, caller: Caller, image_id: str, content: bytes, *, now: float) -> None:
    """Keep the content of a queued image, which becomes active; raises RefusedError (403, 404, 409)."""
    image = _get_writable(catalogue, caller, image_id)
    if image.get_text("status") != "queued":
        raise ImsError(409, f"image {image_id}: not queued")
    checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
    catalogue.contents[image_id] = content
    catalogue.put(image.with_changes(now=now, status="active", size=len(content), checksum=checksum))


def add_tag(catalogue: Catalogue, caller: Caller, image_id: str, value: str, *, now: float) -> None:
    """Add a tag; one that is there already is no error. Raises RefusedError (400, 403, 404)."""
    image = _get_writable(catalogue, caller, image_id)
    if len(value) > 255:
        raise ImsError(400, "tag: longer than 255 characters")
    if value not in image.tags:
        catalogue.put(image.with_changes(now=now, tags=[*_tag_list(image), value]))


def delete_tag(catalogue: Catalogue, caller: Caller, image_id: str, value: str, *, now: float) -> None:
    """Remove a tag; raises RefusedError (403, 404)."""
    image = _get_writable(catalogue, caller, image_id)
    if value not in image.tags:
        raise ImsError(404, f"image {image_id}: no such tag")
    catalogue.put(image.with_changes(now=now, tags=[stored for stored in _tag_list(image) if stored != value]))


def _new_document(image_id: str, owner: str, attributes: Mapping[str, object], *, timestamp: str) -> dict[str, object]:
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
        "created_at": timestamp,
        "updated_at": timestamp,
        "self": f"/v2/images/{image_id}",
        "file": f"/v2/images/{image_id}/file",
        "__imagetype": "private",
        "__isregistered": "true",
        **attributes,
    }


def _apply_patch_operation(document: dict[str, object], operation: object) -> None:
    match operation:
        case {"op": "add" | "replace" as verb, "path": str(path), "value": value}:
            name = _attribute_name(path)
            _check_attribute(name, value)
            if verb == "replace" and name not in document:
                raise ImsError(409, f"{name}: not there to be replaced")
            document[name] = value
        case {"op": "remove", "path": str(path)}:
            name = _attribute_name(path)
            if name in READ_ONLY_ATTRIBUTES | NON_REMOVABLE_ATTRIBUTES:
                raise ImsError(403, f"{name}: can't be removed")
            if name not in document:
                raise ImsError(409, f"{name}: not there to be removed")
            del document[name]
        case _:
            raise ImsError(400, "patch: neither add, replace nor remove, or without path or value")


def _attribute_name(path: str) -> str:
    name = path.removeprefix("/").replace("~1", "/").replace("~0", "~")
    if not path.startswith("/") or not name or "/" in path[1:]:
        raise ImsError(400, f"patch: {path!r} names no attribute")
    return name


def _check_attribute(name: str, value: object) -> None:
    if name in READ_ONLY_ATTRIBUTES:
        raise ImsError(403, f"{name}: read-only")
    if name == "tags":
        right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif name in BOOLEAN_ATTRIBUTES:
        right = isinstance(value, bool)
    elif name in INTEGER_ATTRIBUTES:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    elif name == "visibility":
        right = value in ("public", "private", "shared", "community")
    else:
        right = isinstance(value, str) or (name == "name" and value is None)
    if not right:
        raise ImsError(400, f"{name}: not a value it can have")


def _check_writer(caller: Caller) -> None:
    if not caller.can_write:
        raise ImsError(403, "your roles only read")


def _get_writable(catalogue: Catalogue, caller: Caller, image_id: str) -> Image:
    image = catalogue.get_readable(caller, image_id)
    _check_writer(caller)
    if not (caller.is_admin or image.owner == caller.project):
        raise ImsError(403, f"image {image_id}: not yours")
    return image


def _tag_list(image: Image) -> list[str]:
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


def list_members(catalogue: Catalogue, caller: Caller, image_id: str) -> list[dict[str, object]]:
    """Return the members of an image; whoever is not its owner sees only its own membership."""
    image = catalogue.get_readable(caller, image_id)
    own = caller.is_admin or image.owner == caller.project
    return [
        member_document(image, member) for member in image.members.values() if own or member.project == caller.project
    ]


def get_member(catalogue: Catalogue, caller: Caller, image_id: str, project: str) -> dict[str, object]:
    """Return one membership, which only the owner and *project* may read; raises RefusedError (404)."""
    image = catalogue.get_readable(caller, image_id)
    if not (caller.is_admin or caller.project in (image.owner, project)):
        raise ImsError(404, f"image {image_id}: no member {project}")
    return member_document(image, _get_membership(image, project))


def create_member(
    catalogue: Catalogue, caller: Caller, image_id: str, project: object, *, now: float
) -> dict[str, object]:
    """Offer an image to *project*: a pending membership. Raises RefusedError (400, 403, 404, 409)."""
    image = _get_shareable(catalogue, caller, image_id)
    if not isinstance(project, str) or not project:
        raise ImsError(400, "member: not a project id")
    if project in image.members:
        raise ImsError(409, f"image {image_id}: {project} is a member already")
    member = Member(project, "pending", format_time(now), format_time(now))
    catalogue.put(image.with_member(member))
    return member_document(image, member)


def update_member(
    catalogue: Catalogue, caller: Caller, image_id: str, project: str, status: object, *, now: float
) -> dict[str, object]:
    """Set what *project* made of the offer; only *project* may (403). Raises RefusedError (400, 403, 404)."""
    image = catalogue.get_readable(caller, image_id)
    member = _get_membership(image, project)
    if project != caller.project and not caller.is_admin:
        raise ImsError(403, f"image {image_id}: only {project} can answer")
    if status not in ("pending", "accepted", "rejected"):
        raise ImsError(400, "status: none of pending, accepted, rejected")
    member = member._replace(status=str(status), updated_at=format_time(now))
    catalogue.put(image.with_member(member))
    return member_document(image, member)


def delete_member(catalogue: Catalogue, caller: Caller, image_id: str, project: str) -> None:
    """End a membership; only the owner may. Raises RefusedError (403, 404)."""
    image = _get_shareable(catalogue, caller, image_id)
    _get_membership(image, project)
    catalogue.put(image.without_member(project))


def _get_membership(image: Image, project: str) -> Member:
    member = image.members.get(project)
    if member is None:
        raise ImsError(404, f"image {image.id}: {project} is no member")
    return member


def _get_shareable(catalogue: Catalogue, caller: Caller, image_id: str) -> Image:
    image = catalogue.get_readable(caller, image_id)
    if not (caller.is_admin or image.owner == caller.project):
        raise ImsError(403, f"image {image_id}: not yours to share")
    if image.visibility != "shared":
        raise ImsError(403, f"image {image_id}: its visibility is not shared")
    return image
