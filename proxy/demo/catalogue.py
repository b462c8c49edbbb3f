"""The store of images, and the lists it gives: the rules of ``GET /v2/images``, without HTTP, clock or dice."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from proxy.demo.filters import Caller, SortedImages, build_conditions, is_listed, is_readable, sort_images
from proxy.demo.image import Image
from proxy.demo.query import ImsError, ListQuery, Pairs, SortKey, parse_list_query

DEFAULT_LIST_LIMIT = 25
DEFAULT_CLOUDIMAGES_LIMIT = 500
MAX_LIMIT = 1000
MAX_CACHED_ORDERS = 64

HidePredicate = Callable[[Caller, Image], bool]


@dataclass(frozen=True, slots=True)
class Page:
    """The images of one answer, and the marker of the page after it; None at the end.

    *next_marker* is there when the page was full, be it the last: then the page after it is empty.
    """

    images: tuple[Image, ...]
    next_marker: str | None


class Catalogue:
    """Images of any number of projects, and who gets to see which.

    *is_hidden* takes rows out of a page after it was cut, as a policy does: the page is then shorter than its limit and
    still has a next one, after a marker that was not shown. With *correct_null_paging* off, pages over a sort key that
    is null go wrong the way they do in Glance.
    """

    def __init__(
        self,
        images: Iterable[Image] = (),
        *,
        list_limit: int = DEFAULT_LIST_LIMIT,
        cloudimages_limit: int = DEFAULT_CLOUDIMAGES_LIMIT,
        max_limit: int = MAX_LIMIT,
        is_hidden: HidePredicate | None = None,
        correct_null_paging: bool = True,
    ) -> None:
        self.list_limit = list_limit
        self.cloudimages_limit = cloudimages_limit
        self.max_limit = max_limit
        self.is_hidden = is_hidden
        self.correct_null_paging = correct_null_paging
        self.contents: dict[str, bytes] = {}
        self._images = {image.id: image for image in images}
        self._orders: dict[tuple[SortKey, ...], SortedImages] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Image]:
        return iter(tuple(self._images.values()))

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._images

    def put(self, image: Image) -> None:
        """Add *image*, or replace the one of its id."""
        self._images[image.id] = image
        self._orders.clear()

    def discard(self, image_id: str) -> None:
        """Forget an image and its content; an unknown id is no error."""
        self._images.pop(image_id, None)
        self.contents.pop(image_id, None)
        self._orders.clear()

    def get_readable(self, caller: Caller, image_id: str) -> Image:
        """Return one image; raises RefusedError (404) where there is none or *caller* may not know of it."""
        image = self._images.get(image_id)
        if image is None or not is_readable(caller, image):
            raise ImsError(404, f"no image {image_id}")
        return image

    def list_images(self, caller: Caller, pairs: Pairs) -> Page:
        """Return the page of ``GET /v2/images`` that *pairs* ask for; raises RefusedError."""
        return self.list_page(caller, parse_list_query(pairs, default_limit=self.list_limit, max_limit=self.max_limit))

    def list_cloudimages(self, caller: Caller, pairs: Pairs) -> Page:
        """Return the page of ``GET /v2/cloudimages``: the same rules, with a larger page by default."""
        return self.list_page(
            caller, parse_list_query(pairs, default_limit=self.cloudimages_limit, max_limit=self.max_limit)
        )

    def list_page(self, caller: Caller, query: ListQuery) -> Page:
        """Return one page; raises RefusedError where a filter or the marker is bad."""
        wanted = build_conditions(query)
        rows = islice(
            (
                image
                for image in self._candidates(caller, query)
                if is_listed(caller, image, visibility=query.visibility, member_status=query.member_status)
                and all(holds(image) for holds in wanted)
            ),
            query.limit,
        )
        cut = tuple(rows)
        next_marker = cut[-1].id if cut and len(cut) == query.limit else None
        shown = cut if self.is_hidden is None else tuple(image for image in cut if not self.is_hidden(caller, image))
        return Page(shown, next_marker)

    def _candidates(self, caller: Caller, query: ListQuery) -> Iterator[Image]:
        """Yield, in order, all images that could be on the page: those after the marker, if there is one."""
        ordered = self._sorted_images(query.sort)
        if query.marker is None:
            return iter(ordered.images)
        marker = self._images.get(query.marker)
        if marker is None:
            raise ImsError(400, f"marker: no image {query.marker}")
        if not is_readable(caller, marker):
            raise ImsError(403, f"marker: image {query.marker} is not visible")
        return ordered.images_after(marker) if self.correct_null_paging else ordered.images_after_as_glance(marker)

    def _sorted_images(self, sort: tuple[SortKey, ...]) -> SortedImages:
        found = self._orders.get(sort)
        if found is None:
            if len(self._orders) >= MAX_CACHED_ORDERS:
                self._orders.clear()
            found = self._orders[sort] = sort_images(self._images.values(), sort)
        return found
