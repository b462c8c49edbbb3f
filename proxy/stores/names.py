"""The names of keys in Redis. No credential, no query and no caller's text but an image id stands in one."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.keys import ListingKey, digest


@dataclass(frozen=True, slots=True)
class Names:
    """Every name begins with *prefix*; by the braces around the listing, one listing lives on one cluster node."""

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
        return f"{self.prefix}g:{scope}"

    def listings(self, scope: str) -> str:
        """The listings that are kept under a scope, by when they expire."""
        return f"{self.prefix}l:{scope}"

    @property
    def unsettled(self) -> str:
        """Until when every listing is unsettled."""
        return f"{self.prefix}unsettled"

    @property
    def secret(self) -> str:
        """The partitions' shared secret."""
        return f"{self.prefix}secret"

    def own(self, identity: str) -> str:
        """The token of the proxy's own, sealed, of the identity with that digest."""
        return f"{self.prefix}own:{identity}"

    @property
    def run(self) -> str:
        """The run of the server whose contents are believed."""
        return f"{self.prefix}run"

    @property
    def replicas(self) -> str:
        """The replicas that may trust their memory, by when they no longer do."""
        return f"{self.prefix}replicas"

    @property
    def channel(self) -> str:
        """Where replicas tell each other of invalidations, and of claims that were given back."""
        return f"{self.prefix}events"

    def budget(self, scope: str) -> tuple[str, str]:
        """The calls that count towards the budget of a scope, and its gate and limits."""
        return f"{self.prefix}{{b:{scope}}}:calls", f"{self.prefix}{{b:{scope}}}:gate"

    @property
    def budgets(self) -> str:
        """The life of the budgets in this server: another value, and what was called is not all logged here."""
        return f"{self.prefix}budgets"

    def woken(self, listing: str, after: str) -> str:
        """The message that a claim was given back."""
        return f"w:{listing}:{digest((after,))}"
