"""An upstream that remembers every state it has been in, so that a page can be held against the right one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

from proxy.core.list_api import CLOUDIMAGES
from proxy.core.messages import Fields, Request, Response, StreamedResponse
from proxy.demo.catalogue import Catalogue
from proxy.demo.filters import Caller
from proxy.demo.image import Image, format_time
from proxy.demo.query import ImsError, parse_query_pairs
from proxy.demo.rendering import render_cloudimages, render_error, render_list

START = 1_767_225_600.0
TICK_S = 0.001
PROJECT = "me"
TOKENS: Mapping[str, Caller] = {"mine": Caller("me", PROJECT), "theirs": Caller("you", "you")}
LONGEST = 12


class Hand:
    """A clock that moves when it is told to; *now* is epoch seconds."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def an_image(number: int, *, created_at: float, **attributes: object) -> Image:
    """Return a small image; its id tells nothing of its place in any order."""
    image_id = f"{number * 7919 % 10_000:04}"
    document = {
        "id": image_id,
        "name": f"name {number % 5}",
        "status": "active",
        "visibility": "private",
        "owner": PROJECT,
        "protected": False,
        "container_format": "bare",
        "disk_format": "raw",
        "size": number,
        "tags": [],
        "created_at": format_time(created_at),
        "updated_at": format_time(created_at),
        "self": f"/v2/images/{image_id}",
    }
    return Image(document | attributes)


@dataclass(frozen=True, slots=True)
class State:
    """What the upstream held from *since* on, until the next state."""

    since: float
    images: Mapping[str, Image]


class History:
    """The states of a catalogue, each with the moment it began. Changes move the clock on a little."""

    def __init__(self, hand: Hand, images: Iterable[Image]) -> None:
        self._hand = hand
        self.states = [State(hand.now, {image.id: image for image in images})]
        self.ever = dict(self.states[0].images)

    @property
    def now(self) -> Mapping[str, Image]:
        """The images that there are."""
        return self.states[-1].images

    def becomes(self, images: Mapping[str, Image]) -> None:
        """Enter the next state."""
        self._hand.now += TICK_S
        self.states.append(State(self._hand.now, images))
        self.ever |= images

    def during(self, begin: float, end: float) -> Iterator[State]:
        """Yield the states that the upstream was in at some moment from *begin* to *end*."""
        for state, following in pairwise(self.states):
            if state.since <= end and following.since > begin:
                yield state
        if self.states[-1].since <= end:
            yield self.states[-1]

    def found(self, state: State, token: str, query: str, *, marker: str, most: int) -> list[Image]:
        """Return the *most* images that *query* found in *state* behind *marker*, "" for the head of the listing.

        A marker that was gone by then counts as if it were still there.
        """
        images = dict(state.images)
        if marker not in images and marker in self.ever:
            images[marker] = self.ever[marker]
        pairs = [*parse_query_pairs(query), ("limit", str(most)), *([("marker", marker)] if marker else [])]
        try:
            return list(Catalogue(images.values(), max_limit=most).list_images(TOKENS[token], pairs).images)
        except ImsError:
            return []

    def refused(self, state: State, token: str, query: str, *, marker: str) -> bool:
        """Return whether *query* was refused in *state*."""
        pairs = [*parse_query_pairs(query), *([("marker", marker)] if marker else [])]
        try:
            Catalogue(state.images.values(), max_limit=LONGEST).list_images(TOKENS[token], pairs)
        except ImsError:
            return True
        return False


@dataclass(slots=True)
class Held:
    """A call that the upstream has not answered yet."""

    request: Request
    answer: asyncio.Future[Response | Exception]


class Upstream:
    """Answers from *history* at once, or holds each call until it is told to answer.

    What *failing* holds is given in place of the next answers that are no refusal of their own.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.targets: list[str] = []
        self.held: list[Held] = []
        self.holding = False
        self.failing: Response | Exception | None = None
        self.refused: set[str] = set()

    async def fetch(self, request: Request) -> Response:
        self.targets.append(request.target)
        if not self.holding:
            return self._given(self._now(request))
        held = Held(request, asyncio.get_running_loop().create_future())
        self.held.append(held)
        try:
            return self._given(await held.answer)
        finally:
            if held in self.held:
                self.held.remove(held)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Lists are fetched whole."""
        raise AssertionError(request.target)
        yield

    def release(self, position: int) -> None:
        """Answer the held call at *position*, as of now."""
        held = self.held.pop(position)
        held.answer.set_result(self._now(held.request))

    def _now(self, request: Request) -> Response | Exception:
        token = request.fields.get("x-auth-token") or ""
        if token in self.refused or token not in TOKENS:
            return Response(401, Fields([("Content-Type", "application/json")]), b'{"error":"token"}')
        if self.failing is not None:
            return self.failing
        pairs = parse_query_pairs(request.query)
        catalogue = Catalogue(self.history.now.values(), max_limit=LONGEST)
        try:
            if request.path == CLOUDIMAGES.path:
                made = render_cloudimages(catalogue.list_cloudimages(TOKENS[token], pairs))
            else:
                made = render_list(catalogue.list_images(TOKENS[token], pairs), pairs)
        except ImsError as error:
            made = render_error(error)
        return Response(made.status, Fields([("Content-Type", made.content_type)]), made.body)

    @staticmethod
    def _given(answer: Response | Exception) -> Response:
        if isinstance(answer, Exception):
            raise answer
        return answer
