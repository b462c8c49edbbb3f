"""Pages at their edges: limits, the end, hidden rows, nulls."""

from itertools import pairwise

from proxy.demo.catalogue import DEFAULT_CLOUDIMAGES_LIMIT, DEFAULT_LIST_LIMIT, MAX_LIMIT, Catalogue
from tests.support.demo_images import ADMIN, ME, an_image, ids, page

NUMBERED = [an_image(f"{number:04}", owner="me") for number in range(1002)]
ASCENDING = "sort_key=id&sort_dir=asc"


def test_page_sizes() -> None:
    """Pages have the API's own sizes: default, longest, and that of `/v2/cloudimages`."""
    store = Catalogue(NUMBERED)
    assert len(page(store, "").images) == DEFAULT_LIST_LIMIT == 25
    assert len(page(store, "limit=5000").images) == MAX_LIMIT == 1000
    assert len(store.list_cloudimages(ME, []).images) == DEFAULT_CLOUDIMAGES_LIMIT == 500


def test_limit_zero_is_empty_and_has_no_next() -> None:
    """A page of no images ends the listing."""
    found = page(Catalogue(NUMBERED), "limit=0")
    assert (found.images, found.next_marker) == ((), None)


def test_a_full_last_page_has_a_next_and_that_is_empty() -> None:
    """A full page has a `next` though nothing follows, as in Glance."""
    store = Catalogue(NUMBERED[:4])
    last = page(store, f"{ASCENDING}&limit=4")
    assert last.next_marker == "0003"
    beyond = page(store, f"{ASCENDING}&limit=4&marker=0003")
    assert (beyond.images, beyond.next_marker) == ((), None)


def test_hidden_rows_shorten_the_page_but_not_the_listing() -> None:
    """The next marker is that of the last row cut, although that row was never shown."""
    store = Catalogue(NUMBERED[:5], is_hidden=lambda _, image: image.id in ("0001", "0003"))
    first = page(store, f"{ASCENDING}&limit=2")
    assert ([image.id for image in first.images], first.next_marker) == (["0000"], "0001")
    assert ids(store, f"{ASCENDING}&limit=2&marker=0001") == ["0002"]


def test_a_page_of_hidden_rows_only_still_has_a_next() -> None:
    """A page all of whose rows are hidden is empty and leads on."""
    store = Catalogue(NUMBERED[:3], is_hidden=lambda _, image: image.id < "0002")
    first = page(store, f"{ASCENDING}&limit=2")
    assert (first.images, first.next_marker) == ((), "0001")


def test_what_is_put_and_discarded_shows_at_once() -> None:
    """A list shows every change that was made before it was asked for."""
    store = Catalogue(NUMBERED[:2])
    assert ids(store, ASCENDING) == ["0000", "0001"]
    store.put(an_image("0000", name="new"))
    assert page(store, ASCENDING).images[0].get_text("name") == "new"
    store.discard("0000")
    store.discard("0000")
    assert ids(store, ASCENDING) == ["0001"]
    assert "0000" not in store


def test_orders_kept_are_bounded() -> None:
    """More sort orders than are kept still give right answers."""
    store = Catalogue(NUMBERED[:3])
    keys = ["name", "status", "size", "id", "updated_at"]
    orders = [f"sort={a}:{x},{b}:{y}" for a in keys for b in keys for x in ("asc", "desc") for y in ("asc", "desc")]
    assert all(sorted(ids(store, order)) == ["0000", "0001", "0002"] for order in orders)


NULLED = [an_image(f"{number}", size=None if number < 3 else number) for number in range(6)]


def crawl(store: Catalogue, query: str) -> list[str]:
    found = page(store, query)
    seen = [image.id for image in found.images]
    for _ in range(10):
        if found.next_marker is None:
            return seen
        found = page(store, f"{query}&marker={found.next_marker}", caller=ADMIN)
        seen += [image.id for image in found.images]
    return seen


def test_nulls_are_sorted_first_and_paged_soundly() -> None:
    """With sound nulls a crawl shows every image once, those without a size before all others."""
    store = Catalogue(NULLED)
    assert crawl(store, "sort_key=size&sort_dir=asc&limit=2") == ["0", "1", "2", "3", "4", "5"]
    assert crawl(store, "sort_key=size&sort_dir=desc&limit=2") == ["5", "4", "3", "2", "1", "0"]


def test_nulls_break_a_crawl_as_they_do_in_glance() -> None:
    """Ascending the crawl ends at the first null; descending it comes round for ever."""
    store = Catalogue(NULLED, correct_null_paging=False)
    assert crawl(store, "sort_key=size&sort_dir=asc&limit=2") == ["0", "1"]
    round_and_round = crawl(store, "sort_key=size&sort_dir=desc&limit=2")
    assert round_and_round.count("5") > 1


def test_without_nulls_glance_pages_as_the_order_says() -> None:
    """Under keys that no image lacks, Glance's paging is sound."""
    sound, glance = Catalogue(NULLED), Catalogue(NULLED, correct_null_paging=False)
    for query in ("limit=2", "sort_key=name&limit=2", "sort=status:asc,updated_at:desc&limit=2", "sort_key=id&limit=1"):
        assert crawl(glance, query) == crawl(sound, query)


def test_images_made_in_one_second_are_told_apart_by_id() -> None:
    """Among images of the same second the order is that of their ids."""
    listed = ids(Catalogue(NUMBERED[:20]), "")
    assert all(earlier > later for earlier, later in pairwise(listed))
