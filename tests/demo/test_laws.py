"""Laws of a listing, on seeded images: total order, pages that concatenate, windows that agree."""

from functools import cmp_to_key
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.image import Image
from proxy.demo.query import SORT_KEYS, parse_query_pairs
from proxy.demo.seed import ALPHA_PROJECT, BETA_PROJECT, TOKENS, generate_images, make_demo_catalogue

COUNT = 120
law = settings(deadline=None)  # a first example also sorts the store
SOUND = make_demo_catalogue(COUNT)
HIDING = Catalogue(generate_images(COUNT), is_hidden=lambda _, image: image.id < "5")
CALLERS = st.sampled_from(list(TOKENS.values()))
FILTERS = st.lists(
    st.sampled_from(
        [
            "tag=env=prod",
            "tag=nightly",
            "visibility=private",
            "visibility=shared",
            "visibility=public",
            "member_status=all",
            "member_status=pending",
            "status=active",
            "status=in:queued,saving",
            "__imagetype=gold",
            "__platform=Ubuntu",
            "protected=false",
            "size_min=1000000",
            "created_at=gt:2025-01-01T04:00:00Z",
            "updated_at=lt:2025-01-01+06:00:00",
            f"owner={ALPHA_PROJECT}",
            f"owner={BETA_PROJECT}",
        ]
    ),
    max_size=3,
).map("&".join)
DIRECTIONS = st.sampled_from(["asc", "desc"])
SORTS = st.one_of(
    st.just(""),
    st.lists(st.tuples(st.sampled_from(SORT_KEYS), DIRECTIONS), min_size=1, max_size=3).map(
        lambda keys: "&sort=" + ",".join(f"{key}:{direction}" for key, direction in keys)
    ),
    st.lists(st.sampled_from(SORT_KEYS), min_size=1, max_size=3).map(
        lambda keys: "".join(f"&sort_key={key}" for key in keys)
    ),
)
LIMITS = st.integers(min_value=1, max_value=50)


def pages(store: Catalogue, caller: Caller, query: str, limit: int) -> list[list[Image]]:
    """Return every page of a listing, following the markers."""
    found, after = [], ""
    for _ in range(COUNT + 2):
        page = store.list_images(caller, parse_query_pairs(f"{query}&limit={limit}{after}"))
        found.append(list(page.images))
        if page.next_marker is None:
            return found
        after = f"&marker={page.next_marker}"
    pytest.fail("the listing has no end")


def whole(store: Catalogue, caller: Caller, query: str) -> list[Image]:
    return list(store.list_images(caller, parse_query_pairs(f"{query}&limit=1000")).images)


@pytest.mark.parametrize("store", [SOUND, HIDING], ids=["sound", "hiding"])
@law
@given(caller=CALLERS, filters=FILTERS, sort=SORTS, limit=LIMITS)
def test_pages_concatenate_to_the_whole(store: Catalogue, caller: Caller, filters: str, sort: str, limit: int) -> None:
    """No image is lost or shown twice, whatever the page size, also where some rows are hidden."""
    query = filters + sort
    concatenated = [image.id for page in pages(store, caller, query, limit) for image in page]
    assert concatenated == [image.id for image in whole(store, caller, query)]


@law
@given(caller=CALLERS, filters=FILTERS, sort=SORTS, short=LIMITS, long=LIMITS, start=st.integers(0, COUNT))
def test_a_window_is_the_beginning_of_a_longer_one(
    *, caller: Caller, filters: str, sort: str, short: int, long: int, start: int
) -> None:
    """The page after M with limit L is the first L images of any longer page after M."""
    query = filters + sort
    marker = next(islice(whole(SOUND, caller, sort), start, None), None)
    after = "" if marker is None else f"&marker={marker.id}"
    shorter = SOUND.list_images(caller, parse_query_pairs(f"{query}{after}&limit={short}")).images
    longer = SOUND.list_images(caller, parse_query_pairs(f"{query}{after}&limit={short + long}")).images
    assert shorter == longer[:short]


@law
@given(caller=CALLERS, filters=FILTERS, sort=SORTS, limit=LIMITS)
def test_there_is_a_next_page_when_the_page_is_full(caller: Caller, filters: str, sort: str, limit: int) -> None:
    """Every page but the last is full, and a full one is never the last."""
    total = len(whole(SOUND, caller, filters + sort))
    counts = [len(page) for page in pages(SOUND, caller, filters + sort, limit)]
    assert counts == [limit] * (total // limit) + [total % limit]


@law
@given(keys=st.lists(st.tuples(st.sampled_from(SORT_KEYS), DIRECTIONS), min_size=1, max_size=4))
def test_the_order_is_that_of_the_keys_one_by_one(keys: list[tuple[str, str]]) -> None:
    """Checked by comparing two images key by key, null before all else, which is not how the store sorts."""

    def compared(left: Image, right: Image) -> int:
        fallback = keys[0][1] if len(keys) == 1 else "desc"
        for key, direction in [*keys, ("created_at", fallback), ("id", fallback)]:
            one, other = left.document[key], right.document[key]
            if one != other:
                smaller = one is None or (other is not None and one < other)  # type: ignore[operator]
                return -1 if smaller == (direction == "asc") else 1
        return 0

    listed = whole(
        SOUND, TOKENS["demo-token-ops"], "&sort=" + ",".join(f"{key}:{direction}" for key, direction in keys)
    )
    assert listed == sorted(listed, key=cmp_to_key(compared))
    assert len(listed) == COUNT


@law
@given(st.permutations(["tag=env=prod", "member_status=all", "status=active", "sort_dir=asc", "limit=9"]))
def test_the_order_of_parameters_never_matters(parameters: list[str]) -> None:
    """Parameters in any order ask for the same page."""
    caller = TOKENS["demo-token-alpha"]
    expected = SOUND.list_images(
        caller, parse_query_pairs("tag=env=prod&member_status=all&status=active&sort_dir=asc&limit=9")
    )
    assert SOUND.list_images(caller, parse_query_pairs("&".join(parameters))) == expected
