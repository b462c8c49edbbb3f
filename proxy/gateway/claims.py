"""For whom a request goes upstream: whose budget, who shares fairly with others, how urgent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.core.claimant import Claimant, Priority
from proxy.core.identity import Partition, Partitioner, Unshared, Who
from proxy.core.messages import Fields, Request
from proxy.core.signing import signature

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER: Final = "bearer "
_CHOSEN: Final = {"interactive": Priority.INTERACTIVE, "batch": Priority.BATCH}


@dataclass(frozen=True, slots=True)
class Claims:
    """How claimants are made. *usual* is the class of a read; `X-Request-Priority` may lower it, and raise it if
    *chosen*.
    """

    partitioner: Partitioner
    usual: Priority = Priority.INTERACTIVE
    chosen: bool = False

    def claimant(self, request: Request, who: Who | Unshared, *, peer: str | None) -> Claimant:
        """Return for whom *request* of *who* goes upstream."""
        return Claimant(self._priority(request), self.caller(request.fields, peer=peer), self._partition(request, who))

    def caller(self, fields: Fields, *, peer: str | None) -> str:
        """Return who asks: an API key, a token, else the address; nothing of a credential can be read from it."""
        authorization = fields.get("authorization") or ""
        bearer = authorization[len(_BEARER) :] if authorization[: len(_BEARER)].lower() == _BEARER else None
        key = fields.get("x-api-key") or bearer or fields.get("x-auth-token")
        return self.partitioner.token(key).digest if key else f"at {peer}"

    def _priority(self, request: Request) -> Priority:
        if request.method not in _SAFE:
            return Priority.WRITE
        wanted = _CHOSEN.get((request.fields.get("x-request-priority") or "").lower(), self.usual)
        return wanted if self.chosen else max(wanted, self.usual)

    def _partition(self, request: Request, who: Who | Unshared) -> str:
        """Return whose budget counts: those who can't be told apart share one."""
        if isinstance(who, Who):
            return who.partition.digest
        partition = self.partitioner.of(request.fields)
        if isinstance(partition, Partition):
            return partition.digest
        given = signature(request.fields)
        return self.partitioner.keyed(given.access, request.fields).digest if given else ""
