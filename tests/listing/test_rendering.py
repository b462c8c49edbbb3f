"""Rendered pages: the images' own bytes between links of the proxy's own."""

import orjson
import pytest

from proxy.core.cache_key import CacheKey
from proxy.core.list_query import ListQuery, Window, parse_list_query
from proxy.core.partition import Partition
from proxy.core.span import LIST_START, Page, PagePart, Span
from proxy.listing.rendering import render_page
from tests.support.model import Model

MODEL = Model(tuple("abcde"))
SPAN = MODEL.span(LIST_START, 10)


def key(query: str = "", path: str = "/v2/images") -> CacheKey:
    listing = parse_list_query(query)
    assert isinstance(listing, ListQuery)
    return CacheKey(Partition("token", "0" * 32), "", path, listing.canonical)


def page(*parts: tuple[Span, int, int], next_marker: str | None = None) -> Page:
    return Page(tuple(PagePart(*part) for part in parts), next_marker)


def test_a_page_is_spliced_from_the_images_own_bytes() -> None:
    """Bytes of images, spacing included, stand between `first` and the end."""
    body = render_page(page((SPAN, 1, 3), next_marker="c"), key(), Window(2), "")
    assert body == (
        b'{"schema":"/v2/schemas/images","first":"/v2/images?limit=2","next":"/v2/images?limit=2&marker=c",'
        b'"images":[{"id": "b"}, {"id": "c"}]}'
    )


def test_parts_of_several_spans_are_joined() -> None:
    """Between spans stands one comma, and a part without images leaves no trace."""
    other = MODEL.span("c", 10)
    joined = render_page(page((SPAN, 0, 2), (SPAN, 2, 2), (other, 0, 2), (other, 2, 2)), key(), Window(), "")
    assert [image["id"] for image in orjson.loads(joined)["images"]] == ["a", "b", "d", "e"]


def test_the_last_page_has_no_next() -> None:
    """Where the listing ends the name is absent, not null."""
    assert "next" not in orjson.loads(render_page(page((SPAN, 0, 5)), key(), Window(9), ""))


def test_an_empty_page_has_an_empty_list() -> None:
    """No images are an empty array."""
    empty = render_page(page((Model(()).span(LIST_START, 5), 0, 0)), key(), Window(), "")
    assert orjson.loads(empty) == {"schema": "/v2/schemas/images", "first": "/v2/images", "images": []}


def test_links_carry_every_parameter() -> None:
    """Repeated tags and sort keys, which the upstream's own next loses, stand in both links; marker comes last."""
    query = "tag=b&tag=a&sort_key=name&sort_key=id&sort_dir=asc&name=x+y&limit=2&marker=b"
    window = Window(2, "b")
    made = orjson.loads(render_page(page((SPAN, 2, 4), next_marker="d/&=é"), key(query), window, ""))
    canonical = "name=x%20y&sort_dir=asc&sort_key=name&sort_key=id&tag=a&tag=b&limit=2"
    assert made["first"] == f"/v2/images?{canonical}"
    assert made["next"] == f"/v2/images?{canonical}&marker=d%2F%26%3D%C3%A9"


@pytest.mark.parametrize("window", [Window(), Window(None, "a")])
def test_no_limit_is_linked_that_was_not_sent(window: Window) -> None:
    """A caller who sent no limit gets none back."""
    assert b"limit" not in render_page(page((SPAN, 0, 2), next_marker="b"), key(), window, "")


def test_a_limit_beyond_the_maximum_is_linked_as_it_was_sent() -> None:
    """The number of the links is the caller's."""
    made = orjson.loads(render_page(page((SPAN, 0, 5), next_marker="e"), key(), Window(999_999), ""))
    assert made["next"] == "/v2/images?limit=999999&marker=e"


def test_absolute_links_stand_on_their_base() -> None:
    """The base comes before every link the proxy writes, and before none of an image's own."""
    made = orjson.loads(render_page(page((SPAN, 0, 1), next_marker="a"), key(), Window(1), "https://ims.example/x"))
    assert made["first"] == "https://ims.example/x/v2/images?limit=1"
    assert made["next"] == "https://ims.example/x/v2/images?limit=1&marker=a"
    assert made["schema"] == "https://ims.example/x/v2/schemas/images"


def test_the_extension_list_has_no_links() -> None:
    """`/v2/cloudimages` is an object of images, nothing else."""
    body = render_page(page((SPAN, 0, 2), next_marker="b"), key(path="/v2/cloudimages"), Window(2), "https://x.example")
    assert body == b'{"images":[{"id": "a"}, {"id": "b"}]}'
