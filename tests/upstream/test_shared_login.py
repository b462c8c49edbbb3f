"""One login for all replicas, whose identity may change on the way."""

from __future__ import annotations

import asyncio

from proxy.upstream.auth import SharedLogin
from proxy.upstream.keystone import IssuedToken


class Shelf:
    """A vault that keeps one secret for each order."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}
        self.kept_by_another: bytes | None = None
        self.released: list[str] = []

    async def load(self, order: str) -> bytes | None:
        return self.secrets.get(order)

    async def save(self, order: str, value: bytes, *, for_s: float) -> None:
        assert for_s > 0
        self.secrets[order] = value

    async def acquire_lock(self, order: str) -> bool:
        """What another replica kept just before is there afterwards."""
        if self.kept_by_another is not None:
            self.secrets[order] = self.kept_by_another
        return True

    async def release_lock(self, order: str) -> None:
        self.released.append(order)


class Replica:
    """A login over a shelf, and an IAM that answers when the *gate* is open."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.gate = asyncio.Event()
        self.gate.set()
        self.login = SharedLogin(self._issue, self.shelf, clock=lambda: 0.0)

    async def _issue(self, order: str) -> IssuedToken:
        await self.gate.wait()
        return IssuedToken(f"of {order}", 0.0, 1000.0)

    async def token(self, order: str) -> str:
        """Return the token that the login gives."""
        return (await self.login.get_token(order, None)).token


async def test_a_token_is_kept_for_the_other_replicas() -> None:
    """Who asks next is given it, and IAM is not asked."""
    replica = Replica()
    assert await replica.token("a user") == "of a user"
    replica.gate.clear()
    async with asyncio.timeout(60):
        assert await replica.token("a user") == "of a user"


async def test_a_token_is_kept_under_nobody_elses_name() -> None:
    """One that comes after its identity was replaced is kept for who it was ordered for."""
    replica = Replica()
    replica.gate.clear()
    late, next_one = (asyncio.ensure_future(replica.token(order)) for order in ("a user", "another user"))
    await asyncio.sleep(0)
    replica.gate.set()
    assert list(await asyncio.gather(late, next_one)) == ["of a user", "of another user"]
    assert {order: value.count(b'"of %b"' % order.encode()) for order, value in replica.shelf.secrets.items()} == {
        "a user": 1,
        "another user": 1,
    }


async def test_token_kept_just_before_the_claim_was_given_is_taken() -> None:
    """Another replica kept its token and gave its claim back after this one had looked for a token."""
    other, replica = Replica(), Replica()
    await other.token("a user")
    replica.shelf.kept_by_another = other.shelf.secrets["a user"]
    replica.gate.clear()
    async with asyncio.timeout(60):
        assert await replica.token("a user") == "of a user"
    assert replica.shelf.released == ["a user"]
