"""Windows, writes, expiries and failures in any order: every page is one that the upstream could have given.

Law 4: a page, or each part of a joined one, equals what the upstream had at some moment no older than its age, and
none of the images that stayed in the listing is lost or shown twice. Law 8: a page that was asked for after a write
reflects no state from before it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.core.cache_key import ALL_TAG, listing_tag
from proxy.core.messages import Fields, Response
from proxy.core.span import PagePart
from proxy.demo.image import Image
from proxy.errors import ProxyError, UpstreamTimeoutError
from proxy.listing.rendering import render_page
from proxy.listing.service import ListResult
from proxy.storage.memory import MemoryStore
from tests.support.history import LONGEST, START, Hand, History, Upstream, an_image
from tests.support.laws_world import LIFETIMES, NEGATIVE_S, Replica, replica

Result = TypeVar("Result")

QUERIES = ("", "status=active", "sort_dir=asc", "tag=a&visibility=private", "sort_key=id", "sort_key=name&sort_dir=asc")
CONTROLS = ("", "", "", "", "no-cache", "max-age=1", "min-fresh=3", "only-if-cached")
FAILURES = (
    Response(503, Fields([("Retry-After", "1")]), b"{}"),
    Response(429, Fields(), b"{}"),
    UpstreamTimeoutError("upstream: no response within 30s"),
)
IMAGES = 16
SPINS = 80
QUERY, TOKEN = st.sampled_from(QUERIES), st.sampled_from(("mine", "mine", "theirs"))
LIMIT, ANY = st.integers(1, LONGEST + 2), st.integers(0, 10_000)
CHANGES = st.sampled_from(
    ({"status": "saving"}, {"status": "active"}, {"tags": ["a"]}, {"tags": []}, {"name": "name 0"}, {"name": "name 9"},
     {"visibility": "public"}, {"visibility": "private"})
)  # fmt: skip


@dataclass(slots=True)
class Asked:
    """A request that is under way, or was answered at *ended*.

    *floor* is when the latest write before it took effect.
    """

    query: str
    token: str
    marker: str
    rows: int
    control: str
    floor: float
    begun: float
    task: asyncio.Task[ListResult] = field(repr=False)
    troubled: bool
    unwelcome: bool
    ended: float = 0.0


class Laws(RuleBasedStateMachine):
    """The gateway over process memory; calls to the upstream may be held, and then end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.hand = Hand()
        images = [an_image(number, created_at=START - 1000 + 10 * (number // 2)) for number in range(IMAGES)]
        self.history = History(self.hand, images)
        self.upstream = Upstream(self.history)
        self.number = IMAGES
        self.floor = START
        self.asked: list[Asked] = []
        self.nexts: list[tuple[str, str, str]] = []
        self.replicas = self.run(self.made())

    async def made(self) -> list[Replica]:
        """Return the replicas that are asked."""
        return [replica(self.upstream, MemoryStore(1 << 20), self.hand)]

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what *work* returns."""
        return self.loop.run_until_complete(work)

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(SPINS):
            await asyncio.sleep(0)

    # What callers do

    @rule(
        query=QUERY, token=TOKEN, limit=LIMIT, marker=ANY, head=st.booleans(), control=st.sampled_from(CONTROLS), at=ANY
    )
    def read(self, query: str, token: str, limit: int, marker: int, head: bool, control: str, at: int) -> None:
        """Ask for the head of a listing, or for a page behind any image that there ever was."""
        ever = sorted(self.history.ever)
        self.ask(query, token, "" if head else ever[marker % len(ever)], limit, control, at)

    @rule(which=ANY, limit=LIMIT, at=ANY)
    def page_on(self, which: int, limit: int, at: int) -> None:
        """Ask for the page behind one that was given, in another size perhaps."""
        if self.nexts:
            query, token, marker = self.nexts[which % len(self.nexts)]
            self.ask(query, token, marker, limit, "", at)

    def ask(self, query: str, token: str, marker: str, limit: int, control: str, at: int) -> None:
        number = at % len(self.replicas)
        chosen = self.replicas[number]
        target = "&".join(filter(None, (query, f"limit={limit}", f"marker={marker}" if marker else "")))
        ask = chosen.ask(target, token=token, control=control)
        one = Asked(
            query, token, marker, ask.row_count, control, self.floor_of(number), self.hand.now,
            self.loop.create_task(chosen.gateway.answer(ask)),
            troubled=self.upstream.failing is not None, unwelcome=token in self.upstream.refused,
        )  # fmt: skip
        one.task.add_done_callback(lambda _: setattr(one, "ended", self.hand.now))
        self.asked.append(one)
        self.run(self.settle())

    def floor_of(self, number: int) -> float:
        """Return when the latest write took effect that replica *number* has to know of."""
        return self.floor

    # What becomes of images

    @rule(which=ANY, told=st.booleans(), at=ANY, begins=st.booleans())
    def delete(self, which: int, told: bool, at: int, begins: bool) -> None:
        """Delete an image, through a replica or behind the proxy's back."""
        if len(self.history.now) > 3:
            gone = sorted(self.history.now)[which % len(self.history.now)]
            self.change({key: image for key, image in self.history.now.items() if key != gone}, told, at, begins)

    @rule(first=ANY, told=st.booleans(), at=ANY)
    def delete_a_page(self, first: int, told: bool, at: int) -> None:
        """Delete images that stand together, as a script does that cleans up."""
        ordered = sorted(self.history.now, key=lambda key: (str(self.history.now[key].document["created_at"]), key))
        if len(ordered) > 10:
            gone = set(ordered[first % len(ordered) :][:5])
            self.change({key: image for key, image in self.history.now.items() if key not in gone}, told, at, False)

    @rule(told=st.booleans(), at=ANY, begins=st.booleans())
    def create(self, told: bool, at: int, begins: bool) -> None:
        """Create an image."""
        if len(self.history.now) < 3 * LONGEST:
            made = an_image(self.number, created_at=self.hand.now)
            self.number += 1
            self.change({**self.history.now, made.id: made}, told, at, begins)

    @rule(which=ANY, changes=CHANGES, told=st.booleans(), at=ANY)
    def amend(self, which: int, changes: dict[str, object], told: bool, at: int) -> None:
        """Change an image, which may enter or leave listings by that, or move in them."""
        image = self.history.now[sorted(self.history.now)[which % len(self.history.now)]]
        self.change({**self.history.now, image.id: image.with_changes(now=self.hand.now, **changes)}, told, at, False)

    def change(self, images: dict[str, Image], told: bool, at: int, begins: bool) -> None:
        self.history.becomes(images)
        if told:
            self.tell(at, unsettled_s=30.0 if begins else 0.0)

    def tell(self, at: int, *, unsettled_s: float) -> None:
        """Let a replica see that a write was accepted."""
        effect = self.hand.now
        store = self.replicas[at % len(self.replicas)].store
        self.run(store.invalidate([ALL_TAG], pending_s=unsettled_s, now=effect))
        self.floor = effect

    # What becomes of the rest

    @rule(seconds=st.sampled_from((0.4, 1.0, 2.5, 6.0, 11.0, 16.0, 40.0)))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.hand.now += seconds

    @rule(failure=st.sampled_from(FAILURES))
    def fail(self, failure: Response | Exception) -> None:
        """Let the upstream fail from now on."""
        self.upstream.failing = failure
        for one in self.asked:
            one.troubled = True

    @rule()
    def recover(self) -> None:
        """Let the upstream work again, and accept every token."""
        self.upstream.failing = None
        self.upstream.refused.clear()

    @rule(token=TOKEN)
    def revoke(self, token: str) -> None:
        """Let the upstream answer 401 to a token."""
        self.upstream.refused.add(token)
        for one in self.asked:
            one.unwelcome |= one.token == token

    @rule(query=QUERY, everything=st.booleans(), at=ANY)
    def purge(self, query: str, everything: bool, at: int) -> None:
        """Purge a listing, or all of them."""
        chosen = self.replicas[at % len(self.replicas)]
        scope = ALL_TAG if everything else listing_tag("/v2/images", chosen.ask(query).key.query)
        self.run(chosen.store.invalidate([scope], now=self.hand.now))

    @rule()
    def hold(self) -> None:
        """Hold what the upstream is asked from now on."""
        self.upstream.holding = True

    @rule(which=ANY)
    def release(self, which: int) -> None:
        """Let the upstream answer one call that it holds."""
        if self.upstream.held:
            self.upstream.release(which % len(self.upstream.held))
            self.run(self.settle())

    @rule()
    def release_all(self) -> None:
        """Let the upstream answer every call, those that follow too."""
        self.upstream.holding = False
        while self.upstream.held:
            self.upstream.release(0)
            self.run(self.settle())

    # What has to hold

    @invariant()
    def every_answer_is_lawful(self) -> None:
        """Hold each answer that has come against the upstream's history."""
        left = []
        for one in self.asked:
            if one.task.done():
                self.check(one)
            else:
                left.append(one)
        self.asked = left
        assert not left or self.upstream.held, f"nobody works on {left}"

    def teardown(self) -> None:
        """Answer what is left, and close."""
        try:
            self.release_all()
            self.every_answer_is_lawful()
            assert not self.asked
        finally:
            self.run(self.closed())
            self.loop.close()

    async def closed(self) -> None:
        """Close every replica."""
        for each in self.replicas:
            await each.gateway.close()
            await each.store.close()

    def check(self, one: Asked) -> None:
        one.ended = one.ended or self.hand.now
        error = one.task.exception()
        if error is not None:
            if not isinstance(error, ProxyError):
                raise error
            assert one.troubled or one.control == "only-if-cached", f"{one} failed"
            return
        got = one.task.result()
        if got.response is not None:
            self.check_refusal(one, got.response.status)
            return
        assert got.page is not None
        body = orjson.loads(render_page(got.page, self.replicas[0].ask(one.query).key, _window(one), ""))
        shown = [orjson.dumps(image) for image in body["images"]]
        ids = [image["id"] for image in body["images"]]
        assert len(set(ids)) == len(ids) <= one.rows, f"{one}: {ids}"
        assert ("next" in body) is (len(ids) == one.rows), f"{one}: {body.get('next')} after {ids}"
        if "next" in body:
            assert body["next"].endswith(f"marker={ids[-1]}")
            self.nexts = [*self.nexts[-20:], (one.query, one.token, ids[-1])]
        if got.cache_status.fwd is None:
            assert got.age_s <= LIFETIMES.ttl_s + LIFETIMES.stale_while_revalidate_s, f"{one}: {got.age_s}"
        if got.cache_status.detail == "stale-if-error":
            assert one.troubled
            assert got.age_s <= LIFETIMES.ttl_s + LIFETIMES.stale_if_error_s, f"{one}: {got.age_s}"
        oldest = max(one.ended - got.age_s, one.floor)
        states = list(self.history.during(oldest, one.ended))
        same = [state for state in states if _rendered(self.found(state, one, one.rows)) == shown]
        assert same or len(got.page.parts) > 1 or one.marker not in self.history.now, f"{one}: {ids}"
        if not same:
            self.check_parts(one, got.page.parts, oldest)
            self.check_nothing_is_lost(one, ids, oldest)

    def check_refusal(self, one: Asked, status: int) -> None:
        if status == 401:
            assert one.unwelcome, f"{one}: 401"
        elif status in (429, 503):
            assert one.troubled, f"{one}: {status}"
        else:
            begin = max(one.begun - NEGATIVE_S, one.floor)
            states = self.history.during(begin, one.ended)
            refused = [self.history.refused(state, one.token, one.query, marker=one.marker) for state in states]
            assert any(refused), f"{one}: {status}"

    def check_parts(self, one: Asked, parts: tuple[PagePart, ...], oldest: float) -> None:
        """Each part is what the upstream gave behind the one before it, at a moment of its own."""
        marker = one.marker
        for part in parts:
            own = [part.span.body[part.span.starts[at] : part.span.ends[at]] for at in range(part.start, part.stop)]
            states = self.history.during(max(oldest, part.span.fetched_at), one.ended)
            given = [self.found(state, one, len(own), marker=marker) for state in states]
            assert not own or own in [_rendered(images) for images in given], f"{one}: part behind {marker!r}"
            marker = part.span.next_marker or ""

    def check_nothing_is_lost(self, one: Asked, ids: list[str], oldest: float) -> None:
        """What was in the listing all the time, and stands before the page's end, is on the page."""
        lists = [
            [image.id for image in self.found(state, one, 1000)] for state in self.history.during(oldest, one.ended)
        ]
        stayed: set[str] = set.intersection(*[set(each) for each in lists])
        ends = [each.index(ids[-1]) if ids and ids[-1] in each else None for each in lists]
        if len(ids) < one.rows:
            expected = stayed
        else:
            before = [set(each[:end]) for each, end in zip(lists, ends, strict=True) if end is not None]
            expected = stayed.intersection(*before) if before else set()
        assert expected <= set(ids), f"{one}: lost {expected - set(ids)} of {ids}"

    def found(self, state: Any, one: Asked, most: int, *, marker: str | None = None) -> list[Image]:
        return self.history.found(
            state, one.token, one.query, marker=one.marker if marker is None else marker, most=max(most, 1)
        )[:most]


def _rendered(images: list[Image]) -> list[bytes]:
    return [image.json_bytes for image in images]


def _window(one: Asked) -> Any:
    from proxy.core.list_query import Window

    return Window(one.rows, one.marker or None)


LONG = int(os.environ.get("IMS_PROXY_TEST_EXAMPLES", "0"))


def bounds(examples: int, *, steps: int) -> settings:
    """Return how much is tried: *examples*, or as many as a long run asks for."""
    return settings(
        max_examples=LONG or examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not LONG,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


TestLaws = Laws.TestCase
TestLaws.settings = bounds(150, steps=50)
