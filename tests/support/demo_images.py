"""Small images and callers for tables: only what a rule looks at."""

from collections.abc import Callable, Coroutine, Mapping

from aiohttp import ClientResponse

from proxy.demo.catalogue import Catalogue, Page
from proxy.demo.filters import Caller
from proxy.demo.image import Image, Member
from proxy.demo.query import parse_query_pairs

ME = Caller("my-user", "me")
YOU = Caller("your-user", "you")
ADMIN = Caller("root", "ops", ("admin",))
READER = Caller("my-reader", "me", ("reader",))
Ask = Callable[..., Coroutine[None, None, tuple[ClientResponse, bytes]]]
AT = "2025-01-01T00:00:00Z"


def an_image(image_id: str, *, members: Mapping[str, str] | None = None, **attributes: object) -> Image:
    """Return a private image of ME; *members* maps projects to what they answered."""
    document = {
        "id": image_id,
        "name": f"name of {image_id}",
        "status": "active",
        "visibility": "private",
        "owner": "me",
        "protected": False,
        "container_format": "bare",
        "disk_format": "zvhd2",
        "size": 1,
        "min_ram": 0,
        "min_disk": 40,
        "tags": [],
        "created_at": AT,
        "updated_at": AT,
    }
    found = {project: Member(project, status, AT, AT) for project, status in (members or {}).items()}
    return Image(document | attributes, found)


def page(catalogue: Catalogue, query: str, *, caller: Caller = ME) -> Page:
    """Return the page that the raw *query* asks for."""
    return catalogue.list_images(caller, parse_query_pairs(query))


def ids(catalogue: Catalogue, query: str, *, caller: Caller = ME) -> list[str]:
    return [image.id for image in page(catalogue, query, caller=caller).images]
