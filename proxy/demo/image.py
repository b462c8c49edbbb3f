"""One image as the store keeps it: its JSON document and the projects it is shared with. Immutable."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import NamedTuple

import orjson


class Member(NamedTuple):
    """A project that an image is shared with, and what it made of the offer: pending, accepted or rejected."""

    project: str
    status: str
    created_at: str
    updated_at: str


@lru_cache(maxsize=1 << 16)
def parse_time(text: str) -> datetime:
    """Return the UTC time of an ISO 8601 *text*; one without offset is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text}: out of range") from None


def format_time(now: float) -> str:
    """Return *now*, in seconds since the epoch, as images spell it: to the second, with a Z."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Image:
    """*document* is what clients get to see, in this key order; every replacement renders anew, once."""

    document: Mapping[str, object]
    members: Mapping[str, Member] = field(default_factory=dict)

    @cached_property
    def json_bytes(self) -> bytes:
        """The document as JSON in raw UTF-8: the same bytes in a list and on its own."""
        return orjson.dumps(self.document)

    @cached_property
    def id(self) -> str:
        return str(self.document["id"])

    @cached_property
    def tags(self) -> frozenset[str]:
        tags = self.document.get("tags")
        return frozenset(tags) if isinstance(tags, list) else frozenset()

    @cached_property
    def owner(self) -> str | None:
        return self.get_text("owner")

    @cached_property
    def visibility(self) -> str | None:
        return self.get_text("visibility")

    def get_text(self, name: str) -> str | None:
        """Return an attribute as the database compares it with a filter, or None for what no filter equals."""
        match self.document.get(name):
            case bool(truth):
                return "true" if truth else "false"
            case str(text):
                return text
            case int(number):
                return str(number)
            case _:
                return None

    def get_number(self, name: str) -> int | None:
        number = self.document.get(name)
        return number if isinstance(number, int) and not isinstance(number, bool) else None

    def get_time(self, name: str) -> datetime | None:
        text = self.document.get(name)
        return parse_time(text) if isinstance(text, str) else None

    def with_changes(self, *, now: float, **changes: object) -> "Image":
        """Return this image with *changes* made and its ``updated_at`` moved to *now*."""
        return replace(self, document={**self.document, **changes, "updated_at": format_time(now)})

    def with_member(self, member: Member) -> "Image":
        """Return this image with *member* added, or in place of what that project had answered before."""
        return replace(self, members={**self.members, member.project: member})

    def without_member(self, project: str) -> "Image":
        """Return this image without the member *project*."""
        return replace(self, members={name: member for name, member in self.members.items() if name != project})
