"""Parses `Cache-Control`: a request's (RFC 9111 §5.2.1), and a response's (§5.2.2) or its targeted form (RFC 9213)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import http_sf

from proxy.core.messages import Fields
from proxy.core.values import immutable

# What stands between commas that are in no quoted string; possessive, for a caller may send 64 KiB that match nothing.
_REQUEST_MEMBER: Final = re.compile(r'(?:[^",]++|"[^"]*+"|")++')
_DIRECTIVE_FIELDS: Final = frozenset({"cache-control", "pragma"})
_REQUEST_DELTA_SECONDS: Final = re.compile(r"[0-9]{1,10}", re.ASCII)


@immutable
class RequestDirectives:
    """The directives of a request, seconds: an answer is at most *max_age_s* old and stays fresh for *min_fresh_s*.

    `no-cache` is `max-age=0`. A bound that is malformed is 0, the careful reading of an age.
    """

    max_age_s: float | None = None
    min_fresh_s: float = 0.0
    no_store: bool = False
    only_if_cached: bool = False

    def excludes(self, *, age_s: float, left_s: float) -> bool:
        """Whether the caller won't take an answer of this age that stays fresh for *left_s* more seconds.

        `max-age=0` excludes every stored answer, one that was stored this very moment included.
        """
        too_old = self.max_age_s is not None and (age_s > self.max_age_s or self.max_age_s == 0)
        return too_old or 0 < self.min_fresh_s > left_s


NO_DIRECTIVES: Final = RequestDirectives()


def parse_request_directives(fields: Fields) -> RequestDirectives:
    """Return what *fields* ask for; `Pragma: no-cache` counts where there is no `Cache-Control` (RFC 9111 §5.4)."""
    if not fields.contains_any(_DIRECTIVE_FIELDS):
        return NO_DIRECTIVES
    lines = fields.get_all("cache-control")
    if not lines:
        no_cache = any("no-cache" in line.lower() for line in fields.get_all("pragma"))
        return RequestDirectives(max_age_s=0.0) if no_cache else NO_DIRECTIVES
    said: dict[str, str] = {}
    for member in _REQUEST_MEMBER.findall(", ".join(lines)):
        name, _, value = member.partition("=")
        said.setdefault(name.strip().lower(), _unquote(value.strip()))
    max_age_s = _parse_request_seconds(said["max-age"]) if "max-age" in said else None
    return RequestDirectives(
        max_age_s=0.0 if "no-cache" in said else max_age_s,
        min_fresh_s=_parse_request_seconds(said.get("min-fresh", "0")),
        no_store="no-store" in said,
        only_if_cached="only-if-cached" in said,
    )


def _unquote(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _parse_request_seconds(text: str) -> float:
    return float(text) if _REQUEST_DELTA_SECONDS.fullmatch(text) else 0.0


# Fields that speak to caches like this one, the most particular first (RFC 9213 §2.2, §3.1).
TARGETED_FIELDS: Final = ("cdn-cache-control",)
# What stands between commas that are in no quoted string, and what a directive is in there. Both are possessive, and
# what is longer than *_LONGEST_CHARS* is not read, so that no upstream holds up everybody by a field.
_MEMBER: Final = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+"|")++', re.DOTALL)
_DIRECTIVE: Final = re.compile(
    r"""(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]++)
        (?:=(?:"(?P<quoted>(?:[^"\\]++|\\.)*+)"|(?P<plain>[^\s,"]*+)))?+
        (?P<odd>.*+)""",
    re.ASCII | re.DOTALL | re.VERBOSE,
)
_MAX_CHARS: Final = 4096
_DELTA_SECONDS: Final = re.compile(r"[0-9]+", re.ASCII)
MAX_DELTA_SECONDS: Final = float(2**31)  # RFC 9111 §1.2.2


@immutable
class ResponseDirectives:
    """The directives of a response that a shared cache looks at, seconds.

    *max_age_s* is the lifetime that is stated for a shared cache, None where there is none; a malformed one is 0.
    *is_targeted* says that they came in a field meant for us, so that `Expires` counts no more than `Cache-Control`.
    *restricted_fields* are the fields that `no-cache` or `private` names.
    """

    max_age_s: float | None = None
    has_s_maxage: bool = False
    no_store: bool = False
    no_cache: bool = False
    private: bool = False
    public: bool = False
    must_revalidate: bool = False
    must_understand: bool = False
    stale_while_revalidate_s: float | None = None
    stale_if_error_s: float | None = None
    restricted_fields: frozenset[str] = frozenset()
    is_targeted: bool = False

    @property
    def forbids_stale(self) -> bool:
        """Whether a shared cache must not use it once stale (RFC 9111 §4.2.4)."""
        return self.must_revalidate or self.no_cache or self.has_s_maxage


def parse_response_directives(fields: Fields, *, targets: Sequence[str] = TARGETED_FIELDS) -> ResponseDirectives:
    """Return what *fields* say; the first of *targets* that is valid and not empty replaces `Cache-Control`."""
    for name in targets:
        members = _parse_dictionary(", ".join(fields.get_all(name))) if fields.get(name) is not None else None
        if members and (made := _parse_targeted(members)):
            return made
    return _parse_cache_control(", ".join(fields.get_all("cache-control")))


def _parse_cache_control(text: str) -> ResponseDirectives:
    if len(text) > _MAX_CHARS:
        return ResponseDirectives(no_store=True)
    said: dict[str, list[str | None]] = {}
    for found in filter(None, map(_DIRECTIVE.search, _MEMBER.findall(text))):
        value = found["quoted"] if found["plain"] is None else found["plain"]
        if found["odd"].strip():
            value = f"{value or ''}{found['odd']}"  # what follows a value makes it malformed
        said.setdefault(found["name"].lower(), []).append(value)
    shared = "s-maxage" in said
    lifetimes = said.get("s-maxage") or said.get("max-age")
    named = [value for name in ("no-cache", "private") for value in said.get(name, ()) if value]
    return ResponseDirectives(
        max_age_s=min(map(_parse_seconds, lifetimes)) if lifetimes else None,
        has_s_maxage=shared,
        no_store="no-store" in said,
        no_cache=None in said.get("no-cache", ()) or "" in said.get("no-cache", ()),
        private=None in said.get("private", ()) or "" in said.get("private", ()),
        public="public" in said,
        must_revalidate="must-revalidate" in said or "proxy-revalidate" in said,
        must_understand="must-understand" in said,
        stale_while_revalidate_s=_parse_stale_window(said.get("stale-while-revalidate")),
        stale_if_error_s=_parse_stale_window(said.get("stale-if-error")),
        restricted_fields=frozenset(
            name.strip().lower() for value in named for name in value.split(",") if name.strip()
        ),
    )


def _parse_dictionary(text: str) -> dict[str, object] | None:
    """Return the members of the dictionary *text* without their parameters (RFC 9651 §4.2.2), None if it is none."""
    if len(text) > _MAX_CHARS:
        return None
    try:
        members = http_sf.parse(text.encode("latin-1"), tltype="dictionary")
    except ValueError:  # of `StructuredFieldError` and of text that is not Latin-1
        return None
    assert isinstance(members, dict)
    return {name: item[0] for name, item in members.items() if isinstance(item, tuple)}


def _parse_targeted(members: dict[str, object]) -> ResponseDirectives | None:
    """Return what the dictionary says, None where a directive is of a kind that it can't have (RFC 9213 §2.1)."""
    numbers: dict[str, float | None] = {}
    for name in ("s-maxage", "max-age", "stale-while-revalidate", "stale-if-error"):
        value = members.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            return None
        numbers[name] = None if value is None else min(MAX_DELTA_SECONDS, max(0.0, float(value)))
    shared = numbers["s-maxage"] is not None
    return ResponseDirectives(
        max_age_s=numbers["s-maxage"] if shared else numbers["max-age"],
        has_s_maxage=shared,
        no_store="no-store" in members,
        no_cache="no-cache" in members,
        private="private" in members,
        public="public" in members,
        must_revalidate="must-revalidate" in members or "proxy-revalidate" in members,
        must_understand="must-understand" in members,
        stale_while_revalidate_s=numbers["stale-while-revalidate"],
        stale_if_error_s=numbers["stale-if-error"],
        is_targeted=True,
    )


def _parse_seconds(text: str | None) -> float:
    return min(MAX_DELTA_SECONDS, float(text)) if text and _DELTA_SECONDS.fullmatch(text) else 0.0


def _parse_stale_window(values: list[str | None] | None) -> float | None:
    return min(map(_parse_seconds, values)) if values else None
