"""Random windows through the proxy and asked directly: the same images, and the same way on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.demo.app import ImsLookalike
from proxy.demo.catalogue import Catalogue
from proxy.demo.seed import TOKENS, generate_images
from tests.support.running import ALPHA, BETA, Answer, a_client, a_proxy

FILTERS = (
    ("__imagetype", "gold"),
    ("__imagetype", "private"),
    ("visibility", "public"),
    ("visibility", "shared"),
    ("status", "active"),
    ("__os_type", "Linux"),
    ("__platform", "Oracle Linux"),
    ("tag", "env.prod"),
    ("tag", "a=b"),
    ("tag", "team=core"),
    ("tag", "环境.生产"),
    ("disk_format", "zvhd2"),
    ("min_disk", "40"),
    ("created_at", "gt:2025-01-01T06:00:00Z"),
    ("member_status", "all"),
    ("protected", "true"),
    ("name", "nothing has this name"),
)
ORDERS = (
    "",
    "sort_dir=asc",
    "sort_key=id",
    "sort_key=name",
    "sort_key=updated_at&sort_dir=asc",
    "sort_key=status&sort_key=name&sort_dir=asc&sort_dir=desc",
    "sort=disk_format:asc,created_at:desc",
    "sort_key=size",
    "sort_key=size&sort_dir=asc",
)
LIMITS = (None, 1, 2, 3, 5, 8, 13, 25, 40, 100, 5000)
POSITIONS = 80


@dataclass(frozen=True, slots=True)
class Asked:
    """One window: a query without its marker, which image the marker names, and who asks."""

    query: str
    marker: int | None
    token: str

    def target(self, path: str, ids: Sequence[str]) -> str:
        """Return the request target, over a catalogue of *ids*."""
        marker = [] if self.marker is None else [f"marker={ids[self.marker % len(ids)]}"]
        return f"{path}?{'&'.join([*filter(None, [self.query]), *marker])}"


@st.composite
def queries(draw: st.DrawFn) -> str:
    """Return a query whose parameters stand in any order, those of the sort order as they are."""
    filters = draw(st.lists(st.sampled_from(FILTERS), max_size=2, unique_by=lambda each: each[0]))
    limit = draw(st.sampled_from(LIMITS))
    pieces = [f"{name}={quote(value)}" for name, value in filters]
    pieces += [piece for piece in (draw(st.sampled_from(ORDERS)), f"limit={limit}" if limit else "") if piece]
    return "&".join(draw(st.permutations(pieces)))


WINDOWS = st.builds(
    Asked,
    queries(),
    st.none() | st.integers(0, POSITIONS - 1),
    st.sampled_from([ALPHA, ALPHA, BETA]),
)


def way_on(answer: Answer) -> str | None:
    """Return the marker in `next`, None on the last page."""
    link = answer.json().get("next")
    return None if link is None else parse_qs(urlsplit(link).query)["marker"][0]


def differ(expected: Answer, got: Answer) -> str | None:
    """Return how the two answers differ."""
    if got.status != expected.status:
        return f"status {got.status} instead of {expected.status}"
    if expected.status != 200:
        return None if got.body == expected.body else "another error"
    if got.body.partition(b'"images":')[2] != expected.body.partition(b'"images":')[2]:
        return f"{got.ids} instead of {expected.ids}"
    if way_on(got) != way_on(expected):
        return f"next after {way_on(got)} instead of {way_on(expected)}"
    return None


@pytest.mark.parametrize("readahead", [False, True], ids=["page by page", "readahead"])
@pytest.mark.parametrize("path", ["/v2/images", "/v2/cloudimages"])
@settings(max_examples=25)
@given(windows=st.lists(WINDOWS, min_size=1, max_size=25), count=st.integers(1, POSITIONS))
async def test_every_window_is_what_the_upstream_gives(
    path: str, windows: list[Asked], count: int, *, readahead: bool
) -> None:
    """Whatever was asked before, images come byte for byte, and next is there and leads on as it does upstream."""
    catalogue = Catalogue(generate_images(count, seed=count))
    ids = [image.id for image in catalogue]
    async with (
        ImsLookalike(catalogue, TOKENS) as upstream,
        a_proxy(upstream.base_url, cache={"readahead": readahead}) as proxy,
        a_client(upstream.base_url) as direct,
    ):
        for asked in windows:
            target = asked.target(path, ids)
            expected = await direct.ask(target, token=asked.token)
            got = await proxy.client.ask(target, token=asked.token)
            difference = differ(expected, got)
            assert difference is None, f"{target} as {asked.token}: {difference} ({got.cache_status})"


@pytest.mark.parametrize("limit", [1, 7, 25, 100])
@pytest.mark.parametrize(
    "query", ["", "sort_key=name", "sort_key=size", "tag=a%3Db", "sort_key=status&sort_key=name&sort_dir=asc"]
)
async def test_following_next_shows_every_image_once(limit: int, query: str) -> None:
    """A crawl through the proxy is the whole list, in order, even where the upstream's own next loses parameters."""
    catalogue = Catalogue(generate_images(120, seed=limit), max_limit=1000)
    async with (
        ImsLookalike(catalogue, TOKENS) as upstream,
        a_proxy(upstream.base_url) as proxy,
        a_client(upstream.base_url) as direct,
    ):
        whole = (await direct.ask(f"/v2/images?{query}&limit=1000")).ids
        seen: list[str] = []
        target: str | None = f"/v2/images?{query}&limit={limit}"
        for _ in range(200):
            if target is None:
                break
            page = await proxy.client.ask(target)
            seen += page.ids
            target = page.json().get("next")
        assert seen == whole
