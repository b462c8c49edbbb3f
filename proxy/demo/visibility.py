"""Who may see what: the rules by which Glance shows an image to a project."""

from typing import NamedTuple

from proxy.demo.image import Image


class Caller(NamedTuple):
    """Whom a token stands for."""

    user: str
    project: str
    roles: tuple[str, ...] = ("member",)

    @property
    def admin(self) -> bool:
        return "admin" in self.roles

    @property
    def may_write(self) -> bool:
        return self.admin or "member" in self.roles


def readable(caller: Caller, image: Image) -> bool:
    """Return whether *caller* may read *image* by id, or use it as a marker.

    Wider than what is listed: an offer of sharing counts whatever became of it (``is_image_visible`` of Glance).
    """
    return (
        caller.admin
        or image.owner in (None, caller.project)
        or image.visibility in ("public", "community")
        or (image.visibility == "shared" and caller.project in image.members)
    )


def listed(caller: Caller, image: Image, *, visibility: str | None, member_status: str) -> bool:
    """Return whether *image* belongs to the lists of *caller*, before any other filter.

    Own, public, and shared with a membership in *member_status* ("all" for any). Community images of others are
    listed only when *visibility* asks for them.
    """
    own = image.owner == caller.project
    if not (own or caller.admin or image.visibility in ("public", "community")):
        member = image.members.get(caller.project) if image.visibility == "shared" else None
        if member is None or member_status not in ("all", member.status):
            return False
    if visibility is None:
        return own or image.visibility != "community"
    return visibility in ("all", image.visibility)
