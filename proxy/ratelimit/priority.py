"""For whom a request goes upstream: whose budget, who shares fairly with others, how urgent."""

from __future__ import annotations

from typing import Final

from proxy.core.call_context import CallContext, Priority
from proxy.core.messages import Fields, Request
from proxy.core.partition import NotShareable, Partition, Partitioner, Principal
from proxy.core.signing import parse_signature
from proxy.core.values import immutable
from proxy.core.write_effect import SAFE_METHODS

_BEARER: Final = "bearer "
_BY_NAME: Final = {"interactive": Priority.INTERACTIVE, "batch": Priority.BATCH}


@immutable
class CallPriorities:
    """How claimants are made. *default* is the class of a read; `X-Request-Priority` may lower it, and raise it if
    *may_choose*. *by_api_key* says that callers come in by keys of the proxy's own; elsewhere nobody looks at those.
    """

    partitioner: Partitioner
    default: Priority = Priority.INTERACTIVE
    may_choose: bool = False
    by_api_key: bool = False

    def call_context(self, request: Request, principal: Principal | NotShareable, *, caller: str) -> CallContext:
        """Return for whom *request* of *principal* goes upstream; *caller_id* is who asks, see below."""
        return CallContext(self._priority(request), caller, self._partition(request, principal))

    def caller_id(self, fields: Fields, *, peer: str | None) -> str:
        """Return a name for who asks, made from its one credential, else from its address; it gives nothing away.

        Only a credential that somebody checks counts: with any other, a caller could take a new name, and with it a new
        share, for every request.
        """
        keys = self._keys(fields) if self.by_api_key else fields.get_all("x-auth-token")
        return self.partitioner.for_token(keys[0]).digest if len(keys) == 1 and keys[0] else f"at {peer}"

    def _keys(self, fields: Fields) -> list[str]:
        said = fields.get_all("authorization")
        bearers = [value[len(_BEARER) :].strip() for value in said if value[: len(_BEARER)].lower() == _BEARER]
        return bearers + fields.get_all("x-api-key")

    def _priority(self, request: Request) -> Priority:
        if request.method not in SAFE_METHODS:
            return Priority.WRITE
        wanted = _BY_NAME.get((request.fields.get("x-request-priority") or "").lower(), self.default)
        return wanted if self.may_choose else max(wanted, self.default)

    def _partition(self, request: Request, principal: Principal | NotShareable) -> str:
        """Return whose budget counts: those who can't be told apart share one."""
        if isinstance(principal, Principal):
            return principal.partition.digest
        partition = self.partitioner.from_fields(request.fields)
        if isinstance(partition, Partition):
            return partition.digest
        given = parse_signature(request.fields)
        return self.partitioner.for_access_key(given.access_key, request.fields).digest if given else ""
