"""What a response says of being stored: `Cache-Control` (RFC 9111 §5.2.2), or a field meant for us (RFC 9213)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from proxy.core.messages import Fields
from proxy.core.values import immutable
from proxy.http.structured import Member, dictionary

# Fields that speak to caches like this one, the most particular first (RFC 9213 §2.2, §3.1).
TARGETS: Final = ("cdn-cache-control",)
# What stands between commas that are in no quoted string, and what a directive is in there. Both are possessive, and
# what is longer than *_LONGEST_CHARS* is not read, so that no upstream holds up everybody by a field.
_MEMBER: Final = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+"|")++', re.DOTALL)
_DIRECTIVE: Final = re.compile(
    r"""(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]++)
        (?:=(?:"(?P<quoted>(?:[^"\\]++|\\.)*+)"|(?P<plain>[^\s,"]*+)))?+
        (?P<odd>.*+)""",
    re.ASCII | re.DOTALL | re.VERBOSE,
)
_LONGEST_CHARS: Final = 4096
_SECONDS: Final = re.compile(r"[0-9]+", re.ASCII)
LONGEST_S: Final = float(2**31)  # RFC 9111 §1.2.2


@immutable
class Control:
    """The directives of a response that a shared cache looks at, seconds.

    *max_age_s* is the lifetime that is stated for a shared cache, None where there is none; a malformed one is 0.
    *targeted* says that they came in a field meant for us, so that `Expires` counts no more than `Cache-Control`.
    *withheld* are the fields that `no-cache` or `private` names.
    """

    max_age_s: float | None = None
    shared_max_age: bool = False
    no_store: bool = False
    no_cache: bool = False
    private: bool = False
    public: bool = False
    must_revalidate: bool = False
    must_understand: bool = False
    stale_while_revalidate_s: float | None = None
    stale_if_error_s: float | None = None
    withheld: frozenset[str] = frozenset()
    targeted: bool = False

    @property
    def never_stale(self) -> bool:
        """Whether a shared cache must not use it once stale (RFC 9111 §4.2.4)."""
        return self.must_revalidate or self.no_cache or self.shared_max_age


def control(fields: Fields, *, targets: Sequence[str] = TARGETS) -> Control:
    """Return what *fields* say; the first of *targets* that is valid and not empty replaces `Cache-Control`."""
    for name in targets:
        members = dictionary(", ".join(fields.all(name))) if fields.get(name) is not None else None
        if members and (made := _targeted(members)):
            return made
    return _plain(", ".join(fields.all("cache-control")))


def _plain(text: str) -> Control:
    if len(text) > _LONGEST_CHARS:
        return Control(no_store=True)
    said: dict[str, list[str | None]] = {}
    for found in filter(None, map(_DIRECTIVE.search, _MEMBER.findall(text))):
        value = found["quoted"] if found["plain"] is None else found["plain"]
        if found["odd"].strip():
            value = f"{value or ''}{found['odd']}"  # what follows a value makes it malformed
        said.setdefault(found["name"].lower(), []).append(value)
    shared = "s-maxage" in said
    lifetimes = said.get("s-maxage") or said.get("max-age")
    named = [value for name in ("no-cache", "private") for value in said.get(name, ()) if value]
    return Control(
        max_age_s=min(map(_seconds, lifetimes)) if lifetimes else None,
        shared_max_age=shared,
        no_store="no-store" in said,
        no_cache=None in said.get("no-cache", ()) or "" in said.get("no-cache", ()),
        private=None in said.get("private", ()) or "" in said.get("private", ()),
        public="public" in said,
        must_revalidate="must-revalidate" in said or "proxy-revalidate" in said,
        must_understand="must-understand" in said,
        stale_while_revalidate_s=_window(said.get("stale-while-revalidate")),
        stale_if_error_s=_window(said.get("stale-if-error")),
        withheld=frozenset(name.strip().lower() for value in named for name in value.split(",") if name.strip()),
    )


def _targeted(members: dict[str, Member]) -> Control | None:
    """Return what the dictionary says, None where a directive is of a kind that it can't have (RFC 9213 §2.1)."""
    numbers: dict[str, float | None] = {}
    for name in ("s-maxage", "max-age", "stale-while-revalidate", "stale-if-error"):
        value = members.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            return None
        numbers[name] = None if value is None else min(LONGEST_S, max(0.0, float(value)))
    shared = numbers["s-maxage"] is not None
    return Control(
        max_age_s=numbers["s-maxage"] if shared else numbers["max-age"],
        shared_max_age=shared,
        no_store="no-store" in members,
        no_cache="no-cache" in members,
        private="private" in members,
        public="public" in members,
        must_revalidate="must-revalidate" in members or "proxy-revalidate" in members,
        must_understand="must-understand" in members,
        stale_while_revalidate_s=numbers["stale-while-revalidate"],
        stale_if_error_s=numbers["stale-if-error"],
        targeted=True,
    )


def _seconds(text: str | None) -> float:
    return min(LONGEST_S, float(text)) if text and _SECONDS.fullmatch(text) else 0.0


def _window(values: list[str | None] | None) -> float | None:
    return min(map(_seconds, values)) if values else None
