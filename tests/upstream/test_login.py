"""One login for all replicas, whose identity may change on the way."""

from __future__ import annotations

import asyncio

from proxy.upstream.iam import Issued
from proxy.upstream.login import SharedLogin


class Shelf:
    """A vault that keeps one secret for each identity; *whose* is the one that the proxy has now."""

    def __init__(self) -> None:
        self.whose = "a user"
        self.secrets: dict[str, bytes] = {}

    async def kept(self) -> bytes | None:
        """See `proxy.upstream.login.Vault`."""
        return self.secrets.get(self.whose)

    async def keep(self, value: bytes, *, for_s: float) -> None:
        """See `proxy.upstream.login.Vault`."""
        assert for_s > 0
        self.secrets[self.whose] = value

    async def claimed(self) -> bool:
        """See `proxy.upstream.login.Vault`."""
        return True


class Replica:
    """A login over a shelf, and an IAM that answers when the *gate* is open."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.gate = asyncio.Event()
        self.gate.set()
        self.login = SharedLogin(self._issue, self.shelf, whose=lambda: self.shelf.whose, clock=lambda: 0.0)

    async def _issue(self) -> Issued:
        token = f"of {self.shelf.whose}"
        await self.gate.wait()
        return Issued(token, 0.0, 1000.0)

    async def token(self) -> str:
        """Return the token that the login gives."""
        return (await self.login.issued(None)).token


async def test_a_token_is_kept_for_the_other_replicas() -> None:
    """Who asks next is given it, and IAM is not asked."""
    replica = Replica()
    assert await replica.token() == "of a user"
    replica.gate.clear()
    async with asyncio.timeout(60):
        assert await replica.token() == "of a user"


async def test_a_token_is_kept_under_nobody_elses_name() -> None:
    """One that comes after its identity was replaced would be every replica's token of the next identity."""
    replica = Replica()
    replica.gate.clear()
    late = asyncio.ensure_future(replica.token())
    await asyncio.sleep(0)
    replica.shelf.whose = "another user"
    replica.gate.set()
    assert await late == "of a user"
    assert replica.shelf.secrets == {}
    assert await replica.token() == "of another user"
