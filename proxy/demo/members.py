"""Sharing: the members of an image (``…/images/{id}/members`` of Glance's API)."""

from proxy.demo.catalogue import Catalogue
from proxy.demo.errors import RefusedError
from proxy.demo.image import Image, Member, stamp
from proxy.demo.visibility import Caller


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
