"""The names of keys in Redis. No credential, no query and no caller's text but an image id stands in one."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from proxy.core.cache_key import ListingKey, digest
from proxy.core.values import immutable

_ORIGIN_DIGITS: Final = 16
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def of_upstream(prefix: str, origin: str) -> str:
    """Return what the names of all that is kept for the upstream *origin*, a URL, begin with, behind *prefix*.

    A token may be good at several upstreams, and what one of them shows is not what another does.
    """
    parts = urlsplit(origin)
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return f"{prefix}{digest((parts.scheme, parts.hostname or '', str(port)))[:_ORIGIN_DIGITS]}:"


@immutable
class Names:
    """Every name begins with *prefix*. A cluster keeps together what has the same in its first braces: a listing; what
    all listings have in common, which invalidations change; and the budgets.
    """

    prefix: str

    def spans(self, key: ListingKey) -> str:
        """What the names of a listing's spans begin with; the marker follows."""
        return f"{self.prefix}{{{key.digest}}}:s:"

    def index(self, key: ListingKey) -> str:
        """The listing's index: image id -> where it stands."""
        return f"{self.prefix}{{{key.digest}}}:i"

    def claim(self, key: ListingKey, after: str) -> str:
        """The claim on the span after a marker."""
        return f"{self.prefix}{{{key.digest}}}:c:{digest((after,))}"

    def claims(self, key: ListingKey) -> str:
        """The count of the listing's claims."""
        return f"{self.prefix}{{{key.digest}}}:n"

    def generation(self, scope: str) -> str:
        """The generation of a scope."""
        return f"{self._common}g:{scope}"

    def listings(self, scope: str) -> str:
        """The listings that are kept under a scope, by when they expire."""
        return f"{self._common}l:{scope}"

    @property
    def unsettled(self) -> str:
        """Until when every listing is unsettled."""
        return f"{self._common}unsettled"

    @property
    def secret(self) -> str:
        """The partitions' shared secret."""
        return f"{self._common}secret"

    def own(self, identity: str) -> str:
        """The token of the proxy's own, sealed, of the identity with that digest."""
        return f"{self.prefix}own:{identity}"

    @property
    def run(self) -> str:
        """The run of the server whose contents are believed."""
        return f"{self._common}run"

    @property
    def replicas(self) -> str:
        """The replicas that may trust their memory, by when they no longer do."""
        return f"{self._common}replicas"

    @property
    def news(self) -> str:
        """The number of invalidations that were published."""
        return f"{self._common}news"

    @property
    def channel(self) -> str:
        """Where replicas tell each other of invalidations, and of claims that were given back."""
        return f"{self.prefix}events"

    def budget(self, scope: str) -> tuple[str, str]:
        """The calls that count towards the budget of a scope, and its gate and limits."""
        return f"{self._budgets}calls:{scope}", f"{self._budgets}gate:{scope}"

    @property
    def budgets(self) -> str:
        """The life of the budgets in this server: another value, and what was called is not all logged here.

        A cluster keeps all budgets on one node for its sake.
        """
        return f"{self._budgets}life"

    @property
    def budget_replicas(self) -> str:
        """The replicas that lately asked for calls, by when they last did."""
        return f"{self._budgets}replicas"

    def woken(self, listing: str, after: str) -> str:
        """The message that a claim was given back."""
        return f"w:{listing}:{digest((after,))}"

    @property
    def _common(self) -> str:
        return f"{self.prefix}{{lists}}:"

    @property
    def _budgets(self) -> str:
        return f"{self.prefix}{{budgets}}:"
