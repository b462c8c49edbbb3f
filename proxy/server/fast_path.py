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
none can be worked out wrong. All that the gateway decides by is compared, credentials included (see
`extract_relevant_head`), and who sends another token has another digest: 128 bits of BLAKE2b under a key that only this
process has. An answer is remembered only with the head that the same connection gave it to, alone, with nothing before
or behind. No token is kept here; a connection keeps its latest head, and no longer than it is open.

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
from proxy.core.replay import ReplayTerms
from proxy.gateway.relevant_headers import BEARER_PREFIX, RELEVANT_FIELDS
from proxy.observability.metrics import RequestRecorder
from proxy.server.adapter import format_http_date
from proxy.storage.segmented_lru import SegmentedLRU

_HEAD_END: Final = b"\r\n\r\n"
REPLAYED_METHODS: Final = (b"GET ", b"HEAD ")
_MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_LINES: Final = 100
_BEARER: Final = BEARER_PREFIX.encode()
_REQUEST_ID_VALUE: Final = re.compile(rb"[ \t]*([A-Za-z0-9._:-]{1,128})[ \t]*").fullmatch
# token, colon, visible ASCII, blanks (RFC 9110 §5.1, §5.5): stricter than the RFC, which lets old bytes pass.
_IGNORED_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*").fullmatch


# What to do with a field's line: a member of an enumeration would take longer to look up than all of the rest.
_RELEVANT, _FRAMING, _CONNECTION, _AUTHORIZATION, _REQUEST_ID = range(1, 6)


def _make_line_roles() -> dict[bytes, int]:
    """Return what to do with a field, by its name in lower case and as most clients spell it."""
    framing = (
        *("content-length", "content-encoding", "transfer-encoding", "te", "trailer", "expect", "upgrade"),
        *("keep-alive", "proxy-connection", "http2-settings"),
    )
    roles = dict.fromkeys(RELEVANT_FIELDS | {"host"}, _RELEVANT) | dict.fromkeys(framing, _FRAMING)
    roles |= {"authorization": _AUTHORIZATION, "connection": _CONNECTION, "x-request-id": _REQUEST_ID}
    title_cased = {name.title(): role for name, role in roles.items()}
    return {name.encode(): role for name, role in (roles | title_cased).items()}


_LINE_ROLES: Final = _make_line_roles()


def is_single_head(data: bytes) -> bool:
    """Whether *data* looks like one complete head of a request that changes nothing, and nothing behind it."""
    return data.startswith(REPLAYED_METHODS) and data.find(_HEAD_END) == len(data) - len(_HEAD_END)


def extract_relevant_head(head: bytes) -> tuple[bytes, bytes] | None:
    """Return what of *head* counts, and the id that the request came with, empty for none.

    None where that can't be said at a glance.
    """
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    if breaks > _MAX_LINES or len(head) > _MAX_HEAD_BYTES or not head.endswith(_HEAD_END):
        return None
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        return None
    relevant_lines, request_id = [lines[0]], b""
    for line in lines[1:-2]:
        name = line[: line.find(b":")]
        role = _LINE_ROLES.get(name) or _LINE_ROLES.get(name.lower())
        if role == _RELEVANT:
            relevant_lines.append(line)
        elif role is None:
            if _IGNORED_LINE(line) is None:
                return None
        elif role == _REQUEST_ID:
            value = _REQUEST_ID_VALUE(line, len(name) + 1)
            if value is None or request_id:
                return None  # not one that is echoed
            request_id = value[1]
        elif role == _AUTHORIZATION and line[len(name) + 1 :].lstrip(b" ").lower().startswith(_BEARER):
            relevant_lines.append(line)
        elif role != _CONNECTION or line[len(name) + 1 :].strip(b" ").lower() != b"keep-alive":
            return None
    return b"\r\n".join(relevant_lines), request_id


_ENTRY_OVERHEAD_BYTES: Final = 1000  # what an entry takes beside its head, twice, and its body


class HeadDigest(NamedTuple):
    """A head as it is compared, by its *digest*, and the id that the request came with, empty for none."""

    digest: bytes
    request_id: bytes


class ReplayEntry:
    """An answer to give again from *valid_from* on, epoch seconds, as far as *terms*, in one *epoch*.

    *head* is as it reads until *head_expires_at*; it ends before the request id. *recorder* counts who got the answer.
    """

    __slots__ = (
        "_template",
        "body",
        "epoch",
        "head",
        "head_expires_at",
        "recorder",
        "terms",
        "valid_from",
        "valid_until",
    )

    def __init__(
        self, head: bytes, body: bytes, terms: ReplayTerms, *, valid_from: float, epoch: int, recorder: RequestRecorder
    ) -> None:
        self._template = make_head_template(head)
        self.body = body
        self.valid_from = valid_from
        self.terms = terms
        self.valid_until = terms.until
        self.epoch = epoch
        self.recorder = recorder
        self.update_head(valid_from)

    def update_head(self, now: float) -> None:
        """Let *head* say what is true at *now*."""
        age_s, ttl_s = max(0.0, now - self.terms.fetched_at), self.terms.fresh_until - now
        values = {b"age": int(age_s), b"left": int(ttl_s), b"date": format_http_date(int(now)).encode()}
        self.head = self._template % values
        self.head_expires_at = head_valid_until(age_s=age_s, ttl_s=ttl_s, now=now)

    @property
    def size_bytes(self) -> int:
        """About what the entry takes; a body that is also kept elsewhere counts all the same."""
        return 2 * len(self._template) + len(self.body) + self.terms.size_bytes + _ENTRY_OVERHEAD_BYTES


class HeadDigester:
    """One connection as the memory sees it: its origin, which every digest begins with, and its latest head.

    The head is kept to be compared with the next, which costs less than a digest does, above all with a long token.
    """

    __slots__ = ("_base_hash", "_last_digest", "_last_head", "_last_head_digest", "_last_relevant_head")

    def __init__(self, key: bytes, origin: str) -> None:
        self._base_hash = hashlib.blake2b(origin.encode() + b"\n", digest_size=16, key=key)
        self._last_head = self._last_relevant_head = self._last_digest = b""
        self._last_head_digest: HeadDigest | None = None

    def digest_head(self, head: bytes) -> HeadDigest | None:
        """Return what *head*, sent by this peer, is compared by; None if it has to go to the parser."""
        if head == self._last_head:
            return self._last_head_digest
        found = extract_relevant_head(head)
        if found is None:
            return None
        relevant, request_id = found
        if relevant != self._last_relevant_head:
            state = self._base_hash.copy()
            state.update(relevant)
            self._last_relevant_head, self._last_digest = relevant, state.digest()
        known = self._last_head_digest = HeadDigest(self._last_digest, request_id)
        self._last_head = head
        return known

    def forget(self) -> None:
        """Keep nothing of what was sent."""
        self._last_head = self._last_relevant_head = self._last_digest = b""
        self._last_head_digest = None


class ReplayCache:
    """The answers that may be repeated: at most *max_bytes* of them; those that are repeated for long go last.

    *current_epoch* gives a number that changes with every invalidation, None while none can be heard of. *clock* gives
    epoch seconds; should it step back, nothing from the future is given.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        current_epoch: Callable[[], int | None],
        clock: Callable[[], float],
    ) -> None:
        self._lru: SegmentedLRU[bytes] = SegmentedLRU(max_bytes)
        self.current_epoch = current_epoch
        self._clock = clock
        self._digest_key = secrets.token_bytes(32)
        self._entries: dict[bytes, ReplayEntry] = {}
        self._is_open = True
        self._id_prefix = secrets.token_hex(8).encode()
        self._id_counter = count(1)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def stored_bytes(self) -> int:
        """About how many bytes are taken."""
        return self._lru.stored_bytes

    def make_digester(self, address: str, *, tls: bool) -> HeadDigester:
        """Return what begins the digests of a connection from *address*."""
        return HeadDigester(self._digest_key, f"{address} {tls}")

    def find(self, head_digest: HeadDigest) -> ReplayEntry | None:
        """Return the answer to give, now, to who sent a head that is *head_digest*."""
        found = self._entries.get(head_digest.digest)
        if found is None:
            return None
        now = self._clock()
        if not found.valid_from <= now < found.valid_until or found.epoch != self.current_epoch():
            return None
        if now >= found.head_expires_at:
            # Once in a second is enough to know what is in use.
            found.update_head(now)
            found.terms.on_use()
            self._lru.use(head_digest.digest)
        return found

    def generate_request_id(self) -> bytes:
        """Return an id that no request had."""
        return b"%b%016x" % (self._id_prefix, next(self._id_counter))

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

        *current_epoch* is from before anything was looked up for it. *recorder* counts who gets the answer.
        """
        if not self._is_open or epoch is None:
            return
        entry = ReplayEntry(head, body, terms, valid_from=self._clock(), epoch=epoch, recorder=recorder)
        self._entries[head_digest.digest] = entry
        for evicted in self._lru.add(head_digest.digest, entry.size_bytes):
            self._entries.pop(evicted, None)

    def close(self) -> None:
        """Forget everything, and remember nothing more."""
        self._is_open = False
        self._entries.clear()
        self._lru = SegmentedLRU(0)


# The parts of our own heads that change with the second, each behind what tells it from all else.
_TIME_VALUES: Final = re.compile(
    rb"(?:(\r\nCache-Control: private, max-age=)|(\r\nAge: )|(\r\nCache-Status: ims-proxy; hit; ttl=))-?\d+(?=\r\n)"
    rb"|(\r\nDate: )[^\r]*"
)


def make_head_template(head: bytes) -> bytes:
    """Return *head*, of a page from the store, as a template that lacks its seconds and its date."""

    def insert_placeholder(found: re.Match[bytes]) -> bytes:
        left, age, ttl, date = found.groups()
        if date is not None:
            return date + b"%(date)b"
        return (age + b"%(age)d") if age is not None else ((left or ttl) + b"%(left)d")

    return _TIME_VALUES.sub(insert_placeholder, head.replace(b"%", b"%%"))
