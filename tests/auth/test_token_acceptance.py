"""Whose rejection makes what was given so far unfit to be given again."""

from __future__ import annotations

import pytest

from proxy.auth import token_acceptance as credentials
from proxy.auth.token_acceptance import TokenAcceptance
from proxy.core.freshness import TrustPeriod
from proxy.core.partition import Partition, Principal
from proxy.storage.memory import MemoryStore

NOW = 1_767_225_600.0


def who(name: str, *, token: str | None = None) -> Principal:
    """Return who has the credential *name*; a *token* is one that IAM was asked about."""
    partition = Partition("token", name)
    return Principal(partition, partition, is_verified=token is not None, token_digest=token)


@pytest.fixture
def made() -> TokenAcceptance:
    """What the upstream said so far: nothing."""

    async def drop(digest: str, surely: bool) -> None:
        """Nobody keeps a verdict."""

    return TokenAcceptance(MemoryStore(1 << 20), trust=TrustPeriod(ttl_s=300.0), clock=lambda: NOW, revoke_token=drop)


async def test_who_was_shown_nothing_ends_nothing(made: TokenAcceptance) -> None:
    """A 401 to one that was shown something counts each time, one to a stranger only where an operator orders it."""
    made.mark_served(who("alpha"))
    made.mark_served(who("a project", token="t1"))
    await made.record_rejection(who("made-up"))
    await made.record_rejection(who("a project", token="t2"))
    assert made.rejection_count == 0
    for number, each in enumerate((who("alpha"), who("another spelling", token="t1"), who("alpha")), 1):
        await made.record_rejection(each)
        assert made.rejection_count == number
    await made.record_rejection(who("made-up"), force=True)
    assert made.rejection_count == 4


async def test_too_many_to_note(made: TokenAcceptance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some are forgotten, all that was given counts as unfit, so that nothing of theirs is left."""
    monkeypatch.setattr(credentials, "_MAX_SERVED_CREDENTIALS", 3)
    for name in ("a", "b", "c", "a"):
        made.mark_served(who(name))
    assert made.rejection_count == 0
    made.mark_served(who("d"))
    assert made.rejection_count == 1
    await made.record_rejection(who("a"))
    assert made.rejection_count == 1
    await made.record_rejection(who("d"))
    assert made.rejection_count == 2
