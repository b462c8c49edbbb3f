"""Answers a request that is byte for byte one that was answered before, from the connection, before it is parsed.

Batch clients send the same head all day. Such a request costs a digest of its bytes here, in the place of a parser, a
task and a walk through the gateway. This is a memory only, and decides nothing: what it gives was decided for the same
bytes on their whole way through, moments ago.

An answer is repeated while nothing in it has become wrong:

- until its lifetime or its caller's admission ends (`Repeatable.until`);
- until its `Date`, `Age` or lifetime, all in whole seconds, would read differently (`Repeatable.steady_until`). Then
  the first request like it goes the whole way, and those that come meanwhile neither wait for it nor do the same: they
  get what there is, for a tenth of a second at the most;
- while no invalidation, purge or rejected credential was heard of, and what tells of them is trusted: `epoch`;
- from the same address, over the same kind of connection: what a proxy that is trusted says may change links.

One thing in it is made anew each time, the `X-Request-Id`, whose value in the request is no part of what is compared.

Why a mistake here can't show one caller what belongs to another: no partition, listing or window is worked out here, so
none can be worked out wrong. All of the head but that one value goes into the digest, credentials included, and who
sends another token has another digest: 128 bits of BLAKE2b under a key that only this process has. Bytes are
remembered only with the answer that the same connection gave to them, alone, with nothing before or behind. No token is
kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

from proxy.gateway.listing import Repeatable
from proxy.seen import Seen

_METHODS: Final = (b"GET ", b"HEAD ")
_END: Final = b"\r\n\r\n"
_ID_LINE: Final = b"\r\nx-request-id:"
_ID: Final = re.compile(rb"[ \t]*([A-Za-z0-9._:-]{1,128})[ \t]*")
_MAX_ENTRIES: Final = 20_000
_RENEWAL_S: Final = 0.1
_OVERHEAD_BYTES: Final = 400


class Asked(NamedTuple):
    """A head as it is compared: its *digest*, the *epoch* before anything was looked up for it, the id it came with."""

    digest: bytes
    epoch: int
    request_id: str


@dataclass(slots=True)
class Repeat:
    """An answer to give again from *since*, epoch seconds, as far as *allowed*, in one *epoch*.

    *head* ends before the request id. *renewing* says that a request like it has gone the whole way since.
    """

    head: bytes
    body: bytes
    since: float
    allowed: Repeatable
    epoch: int
    seen: Seen
    renewing: bool = False

    @property
    def size_bytes(self) -> int:
        """About what the entry takes; a body that is also kept elsewhere counts all the same."""
        return len(self.head) + len(self.body) + _OVERHEAD_BYTES


class Peer:
    """What all heads of one connection have in common: where it comes from, as the beginning of a digest."""

    __slots__ = ("_begun",)

    def __init__(self, key: bytes, origin: str) -> None:
        self._begun = hashlib.blake2b(origin.encode() + b"\n", digest_size=16, key=key)

    def digest(self, head: bytes) -> bytes:
        """Return what *head*, sent by this peer, is known by."""
        state = self._begun.copy()
        state.update(head)
        return state.digest()


class HeadMemo:
    """The answers that may be repeated: at most *max_bytes* of them, the oldest go first.

    *epoch* gives a number that changes with every invalidation, None while none can be heard of. *clock* gives epoch
    seconds; should it step back, nothing from the future is given.
    """

    def __init__(self, *, max_bytes: int, epoch: Callable[[], int | None], clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._epoch = epoch
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._repeats: dict[bytes, Repeat] = {}
        self._bytes = 0
        self._open = True
        self._run = secrets.token_hex(8)
        self._ids = count(1)

    def __len__(self) -> int:
        return len(self._repeats)

    @property
    def stored_bytes(self) -> int:
        """About how many bytes are taken."""
        return self._bytes

    def peer(self, address: str, *, tls: bool) -> Peer:
        """Return what begins the digests of a connection from *address*."""
        return Peer(self._key, f"{address} {tls}")

    def asked(self, peer: Peer, head: bytes) -> Asked | None:
        """Return *head*, one complete head from *peer*, as it is compared, or None where it can't be."""
        epoch = self._epoch()
        split = without_id(head)
        if epoch is None or split is None or not self._open:
            return None
        return Asked(peer.digest(split[0]), epoch, split[1])

    def find(self, asked: Asked) -> Repeat | None:
        """Return the answer to give to whoever *asked*, now."""
        found = self._repeats.get(asked.digest)
        now = self._clock()
        if found is None or found.epoch != asked.epoch or not found.since <= now < found.allowed.until:
            return None
        late_s = now - found.allowed.steady_until
        if late_s < 0 or (found.renewing and late_s < _RENEWAL_S):
            return found
        found.renewing = True
        return None

    def new_id(self) -> str:
        """Return an id that no request had."""
        return f"{self._run}{next(self._ids):016x}"

    def remember(self, asked: Asked, allowed: Repeatable, *, head: bytes, body: bytes, seen: Seen) -> None:
        """Give the answer, *head* and *body*, to whoever has *asked* the same, as far as *allowed*."""
        kept = Repeat(head, body, self._clock(), allowed, asked.epoch, seen)
        self._forget(asked.digest)
        if not self._open or kept.size_bytes > self._max_bytes:
            return
        self._repeats[asked.digest] = kept
        self._bytes += kept.size_bytes
        while self._bytes > self._max_bytes or len(self._repeats) > _MAX_ENTRIES:
            self._forget(next(iter(self._repeats)))

    def close(self) -> None:
        """Forget everything, and remember nothing more."""
        self._open = False
        self._repeats.clear()
        self._bytes = 0

    def _forget(self, digest: bytes) -> None:
        kept = self._repeats.pop(digest, None)
        if kept is not None:
            self._bytes -= kept.size_bytes


def alone(received: bytes) -> bool:
    """Whether *received* looks like one complete head of a request that changes nothing, and nothing behind it."""
    return received.startswith(_METHODS) and received.find(_END) == len(received) - len(_END)


def without_id(head: bytes) -> tuple[bytes, str] | None:
    """Return *head* without the value of its `X-Request-Id`, and that value, "" where there is none.

    None for an id that is not echoed: one that is not sane, or stands twice.
    """
    lower = head.lower()
    at = lower.find(_ID_LINE)
    if at < 0:
        return head, ""
    begin = at + len(_ID_LINE)
    end = head.index(b"\r\n", begin)
    value = _ID.fullmatch(head, begin, end)
    if value is None or lower.find(_ID_LINE, begin) >= 0:
        return None
    return head[:begin] + head[end:], value[1].decode()
