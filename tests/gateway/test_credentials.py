"""Whose rejection makes what was given so far unfit to be given again."""

from __future__ import annotations

import pytest

from proxy.auth import token_acceptance as credentials
from proxy.auth.token_acceptance import Credentials
from proxy.core.freshness import Verdicts
from proxy.core.partition import Partition, Who
from proxy.storage.memory import MemoryStore

NOW = 1_767_225_600.0


def who(name: str, *, token: str | None = None) -> Who:
    """Return who has the credential *name*; a *token* is one that IAM was asked about."""
    partition = Partition("token", name)
    return Who(partition, partition, verified=token is not None, token=token)


@pytest.fixture
def made() -> Credentials:
    """What the upstream said so far: nothing."""

    async def drop(digest: str, surely: bool) -> None:
        """Nobody keeps a verdict."""

    return Credentials(MemoryStore(1 << 20), verdicts=Verdicts(ttl_s=300.0), clock=lambda: NOW, drop=drop)


async def test_who_was_shown_nothing_ends_nothing(made: Credentials) -> None:
    """A 401 to one that was shown something counts each time, one to a stranger only where an operator orders it."""
    made.shown(who("alpha"))
    made.shown(who("a project", token="t1"))
    await made.rejected(who("made-up"))
    await made.rejected(who("a project", token="t2"))
    assert made.rejections == 0
    for number, each in enumerate((who("alpha"), who("another spelling", token="t1"), who("alpha")), 1):
        await made.rejected(each)
        assert made.rejections == number
    await made.rejected(who("made-up"), surely=True)
    assert made.rejections == 4


async def test_too_many_to_note(made: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some are forgotten, all that was given counts as unfit, so that nothing of theirs is left."""
    monkeypatch.setattr(credentials, "_MOST_SHOWN", 3)
    for name in ("a", "b", "c", "a"):
        made.shown(who(name))
    assert made.rejections == 0
    made.shown(who("d"))
    assert made.rejections == 1
    await made.rejected(who("a"))
    assert made.rejections == 1
    await made.rejected(who("d"))
    assert made.rejections == 2
