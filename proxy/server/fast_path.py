"""Answers a request like one that was answered before, from the connection, before it is parsed.

Callers send the same head all day, but for fields that nothing is decided by: a trace, a time, an id. Such a request
costs a look at its lines and a digest here, in the place of a parser, a task and a walk through the gateway; one that
is byte for byte the connection's latest costs a comparison. This is a memory only, and decides nothing: what it gives
was decided for an equal request on its whole way through.

An answer is repeated while nothing has become wrong with it:

- until its lifetime or its caller's admission ends (`ReplayTerms.until`). What it says in whole seconds, `Date`, `Age`
  and how long it lives, is counted on;
- while no invalidation, purge or rejected credential that was shown anything was heard of, and what tells of them is
  trusted: `epoch`;
- from the same address, over the same kind of connection: what a proxy that is trusted says may change links.

The `X-Request-Id` is made anew each time, and the request's own is no part of what is compared.

Why a mistake here can't show one caller what belongs to another: no partition, listing or window is worked out here, so
none can be worked out wrong. All that the gateway decides by is compared, credentials included (see `relevant_head`),
and who sends another token has another digest: 128 bits of BLAKE2b under a key that only this process has. An answer is
remembered only with the head that the same connection gave it to, alone, with nothing before or behind. No token is
kept here; a connection keeps its latest head, and no longer than it is open.

What of a request's head has to be compared to know that two requests are answered alike from the store.

The gateway decides by the fields in `proxy.gateway.relevant_headers`; this file leaves out the others, and that is all
it knows of HTTP. What it does not understand at a glance is None, and goes to a real parser: anything that frames a
message or a connection, a line that is folded, ends otherwise than by CRLF, or has a byte in it that is not plain.

Why a mistake here can't show one caller what belongs to another: lines that count are not read but compared, byte for
byte and in their order, request line and credentials included, with those of a head that the parser has taken. A line
may be left out only if it is well-formed on its own, so that it can neither end the head, nor continue another line,
nor be another spelling of a name that counts.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from itertools import count
from typing import Final, NamedTuple

from proxy.core.freshness import head_valid_until
from proxy.gateway.relevant_headers import BEARER, RELEVANT_FIELDS
from proxy.listing.lookup import ReplayTerms
from proxy.observability.metrics import RequestRecorder
from proxy.server.adapter import format_http_date
from proxy.storage.segmented_lru import SegmentedLRU

_HEAD_END: Final = b"\r\n\r\n"
REPLAYED_METHODS: Final = (b"GET ", b"HEAD ")
_MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_LINES: Final = 100
_BEARER: Final = BEARER.encode()
_REQUEST_ID_VALUE: Final = re.compile(rb"[ \t]*([A-Za-z0-9._:-]{1,128})[ \t]*").fullmatch
# token, colon, visible ASCII, blanks (RFC 9110 §5.1, §5.5): stricter than the RFC, which lets old bytes pass.
_IGNORED_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*").fullmatch


# What to do with a field's line: a member of an enumeration would take longer to look up than all of the rest.
_COUNTS, _FRAMES, _CONNECTION, _AUTHORIZATION, _REQUEST_ID = range(1, 6)


def _line_roles() -> dict[bytes, int]:
    """Return what to do with a field, by its name in lower case and as most clients spell it."""
    framing = (
        *("content-length", "content-encoding", "transfer-encoding", "te", "trailer", "expect", "upgrade"),
        *("keep-alive", "proxy-connection", "http2-settings"),
    )
    roles = dict.fromkeys(RELEVANT_FIELDS | {"host"}, _COUNTS) | dict.fromkeys(framing, _FRAMES)
    roles |= {"authorization": _AUTHORIZATION, "connection": _CONNECTION, "x-request-id": _REQUEST_ID}
    spelt = {name.title(): role for name, role in roles.items()}
    return {name.encode(): role for name, role in (roles | spelt).items()}


_ROLES: Final = _line_roles()


def is_single_head(received: bytes) -> bool:
    """Whether *received* looks like one complete head of a request that changes nothing, and nothing behind it."""
    return received.startswith(REPLAYED_METHODS) and received.find(_HEAD_END) == len(received) - len(_HEAD_END)


def relevant_head(head: bytes) -> tuple[bytes, bytes] | None:
    """Return what of *head* counts, and the id that the request came with, empty for none.

    None where that can't be said at a glance.
    """
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    if breaks > _MAX_LINES or len(head) > _MAX_HEAD_BYTES or not head.endswith(_HEAD_END):
        return None
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        return None
    counting, request_id = [lines[0]], b""
    for line in lines[1:-2]:
        name = line[: line.find(b":")]
        role = _ROLES.get(name) or _ROLES.get(name.lower())
        if role == _COUNTS:
            counting.append(line)
        elif role is None:
            if _IGNORED_LINE(line) is None:
                return None
        elif role == _REQUEST_ID:
            value = _REQUEST_ID_VALUE(line, len(name) + 1)
            if value is None or request_id:
                return None  # not one that is echoed
            request_id = value[1]
        elif role == _AUTHORIZATION and line[len(name) + 1 :].lstrip(b" ").lower().startswith(_BEARER):
            counting.append(line)
        elif role != _CONNECTION or line[len(name) + 1 :].strip(b" ").lower() != b"keep-alive":
            return None
    return b"\r\n".join(counting), request_id


_OVERHEAD_BYTES: Final = 1000  # what an entry takes beside its head, twice, and its body


class HeadDigest(NamedTuple):
    """A head as it is compared, by its *digest*, and the id that the request came with, empty for none."""

    digest: bytes
    request_id: bytes


class ReplayEntry:
    """An answer to give again from *since* on, epoch seconds, as far as *terms*, in one *epoch*.

    *head* is as it reads until *steady_until*; it ends before the request id. *recorder* counts who got the answer.
    """

    __slots__ = ("_template", "body", "epoch", "head", "recorder", "since", "steady_until", "terms", "until")

    def __init__(
        self, head: bytes, body: bytes, terms: ReplayTerms, *, since: float, epoch: int, recorder: RequestRecorder
    ) -> None:
        self._template = make_head_template(head)
        self.body = body
        self.since = since
        self.terms = terms
        self.until = terms.until
        self.epoch = epoch
        self.recorder = recorder
        self.update_head(since)

    def update_head(self, now: float) -> None:
        """Let *head* say what is true at *now*."""
        age_s, ttl_s = max(0.0, now - self.terms.fetched_at), self.terms.fresh_until - now
        said = {b"age": int(age_s), b"left": int(ttl_s), b"date": format_http_date(int(now)).encode()}
        self.head = self._template % said
        self.steady_until = head_valid_until(age_s=age_s, ttl_s=ttl_s, now=now)

    @property
    def size_bytes(self) -> int:
        """About what the entry takes; a body that is also kept elsewhere counts all the same."""
        return 2 * len(self._template) + len(self.body) + self.terms.size_bytes + _OVERHEAD_BYTES


class ReplayPeer:
    """One connection as the memory sees it: its origin, which every digest begins with, and its latest head.

    The head is kept to be compared with the next, which costs less than a digest does, above all with a long token.
    """

    __slots__ = ("_begun", "_counting", "_digest", "_head", "_known")

    def __init__(self, key: bytes, origin: str) -> None:
        self._begun = hashlib.blake2b(origin.encode() + b"\n", digest_size=16, key=key)
        self._head = self._counting = self._digest = b""
        self._known: HeadDigest | None = None

    def digest_head(self, head: bytes) -> HeadDigest | None:
        """Return what *head*, sent by this peer, is compared by; None if it has to go to the parser."""
        if head == self._head:
            return self._known
        found = relevant_head(head)
        if found is None:
            return None
        counting, request_id = found
        if counting != self._counting:
            state = self._begun.copy()
            state.update(counting)
            self._counting, self._digest = counting, state.digest()
        known = self._known = HeadDigest(self._digest, request_id)
        self._head = head
        return known

    def forget(self) -> None:
        """Keep nothing of what was sent."""
        self._head = self._counting = self._digest = b""
        self._known = None


class ReplayCache:
    """The answers that may be repeated: at most *max_bytes* of them; those that are repeated for long go last.

    *epoch* gives a number that changes with every invalidation, None while none can be heard of. *clock* gives epoch
    seconds; should it step back, nothing from the future is given.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        epoch: Callable[[], int | None],
        clock: Callable[[], float],
    ) -> None:
        self._lru: SegmentedLRU[bytes] = SegmentedLRU(max_bytes)
        self.epoch = epoch
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._entries: dict[bytes, ReplayEntry] = {}
        self._open = True
        self._run = secrets.token_hex(8).encode()
        self._ids = count(1)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def stored_bytes(self) -> int:
        """About how many bytes are taken."""
        return self._lru.stored_bytes

    def peer(self, address: str, *, tls: bool) -> ReplayPeer:
        """Return what begins the digests of a connection from *address*."""
        return ReplayPeer(self._key, f"{address} {tls}")

    def find(self, head_digest: HeadDigest) -> ReplayEntry | None:
        """Return the answer to give, now, to who sent a head that is *head_digest*."""
        found = self._entries.get(head_digest.digest)
        if found is None:
            return None
        now = self._clock()
        if not found.since <= now < found.until or found.epoch != self.epoch():
            return None
        if now >= found.steady_until:
            # Once in a second is enough to know what is in use.
            found.update_head(now)
            found.terms.on_use()
            self._lru.use(head_digest.digest)
        return found

    def new_id(self) -> bytes:
        """Return an id that no request had."""
        return b"%b%016x" % (self._run, next(self._ids))

    def put(
        self,
        head_digest: HeadDigest,
        terms: ReplayTerms,
        *,
        epoch: int | None,
        head: bytes,
        body: bytes,
        recorder: RequestRecorder,
    ) -> None:
        """Give the answer, *head* and *body*, to whoever sends the same, as far as *terms*.

        *epoch* is from before anything was looked up for it. *recorder* counts who gets the answer.
        """
        if not self._open or epoch is None:
            return
        kept = ReplayEntry(head, body, terms, since=self._clock(), epoch=epoch, recorder=recorder)
        self._entries[head_digest.digest] = kept
        for forgotten in self._lru.add(head_digest.digest, kept.size_bytes):
            self._entries.pop(forgotten, None)

    def close(self) -> None:
        """Forget everything, and remember nothing more."""
        self._open = False
        self._entries.clear()
        self._lru = SegmentedLRU(0)


# The parts of our own heads that change with the second, each behind what tells it from all else.
_SECONDS: Final = re.compile(
    rb"(?:(\r\nCache-Control: private, max-age=)|(\r\nAge: )|(\r\nCache-Status: ims-proxy; hit; ttl=))-?\d+(?=\r\n)"
    rb"|(\r\nDate: )[^\r]*"
)


def make_head_template(head: bytes) -> bytes:
    """Return *head*, of a page from the store, as a template that lacks its seconds and its date."""

    def opened(found: re.Match[bytes]) -> bytes:
        left, age, ttl, date = found.groups()
        if date is not None:
            return date + b"%(date)b"
        return (age + b"%(age)d") if age is not None else ((left or ttl) + b"%(left)d")

    return _SECONDS.sub(opened, head.replace(b"%", b"%%"))
