"""For whom a request goes upstream: whose budget, who shares fairly with others, how urgent."""

from __future__ import annotations

from typing import Final

from proxy.core.call_context import Claimant, Priority
from proxy.core.messages import Fields, Request
from proxy.core.partition import Partition, Partitioner, Unshared, Who
from proxy.core.signing import signature
from proxy.core.values import immutable
from proxy.core.write_effect import SAFE

_BEARER: Final = "bearer "
_CHOSEN: Final = {"interactive": Priority.INTERACTIVE, "batch": Priority.BATCH}


@immutable
class Claimants:
    """How claimants are made. *usual* is the class of a read; `X-Request-Priority` may lower it, and raise it if
    *chosen*. *keyed* says that callers come in by keys of the proxy's own; elsewhere nobody looks at those.
    """

    partitioner: Partitioner
    usual: Priority = Priority.INTERACTIVE
    chosen: bool = False
    keyed: bool = False

    def claimant(self, request: Request, who: Who | Unshared, *, caller: str) -> Claimant:
        """Return for whom *request* of *who* goes upstream; *caller* is who asks, see below."""
        return Claimant(self._priority(request), caller, self._partition(request, who))

    def caller(self, fields: Fields, *, peer: str | None) -> str:
        """Return a name for who asks, made from its one credential, else from its address; it gives nothing away.

        Only a credential that somebody checks counts: with any other, a caller could take a new name, and with it a new
        share, for every request.
        """
        keys = self._keys(fields) if self.keyed else fields.all("x-auth-token")
        return self.partitioner.token(keys[0]).digest if len(keys) == 1 and keys[0] else f"at {peer}"

    def _keys(self, fields: Fields) -> list[str]:
        said = fields.all("authorization")
        bearers = [value[len(_BEARER) :].strip() for value in said if value[: len(_BEARER)].lower() == _BEARER]
        return bearers + fields.all("x-api-key")

    def _priority(self, request: Request) -> Priority:
        if request.method not in SAFE:
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
