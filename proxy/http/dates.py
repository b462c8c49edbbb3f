"""HTTP dates in their three forms (RFC 9110 §5.6.7), read to the letter: what is nearly a date is none.

A date that a cache reads where others don't makes an answer live longer here than elsewhere.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Final

from proxy.core.messages import Fields

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY: Final = r"(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY: Final = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_TIME: Final = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_FORMS: Final = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        rf"{_DAY}, (?P<day>\d\d) (?P<month>[a-z]{{3}}) (?P<year>\d{{4}}) {_TIME} GMT",
        rf"{_LONG_DAY}, (?P<day>\d\d)-(?P<month>[a-z]{{3}})-(?P<year>\d\d) {_TIME} GMT",
        rf"{_DAY} (?P<month>[a-z]{{3}}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
_CENTURY: Final = 100
_FUTURE_YEARS: Final = 50  # a two-digit year further ahead than this is in the past (RFC 9110 §5.6.7)


def parse_http_date(text: str, *, now: float) -> float | None:
    """Return the moment that *text* names, epoch seconds, None where it is no HTTP date; *now* tells the century."""
    found = next((match for form in _FORMS if (match := form.fullmatch(text))), None)
    if found is None or found["month"].lower() not in _MONTHS:
        return None
    year = int(found["year"])
    if year < _CENTURY:
        this_year = datetime.fromtimestamp(now, UTC).year
        year += this_year - this_year % _CENTURY
        if year > this_year + _FUTURE_YEARS:
            year -= _CENTURY
    month, second = 1 + _MONTHS.index(found["month"].lower()), min(59, int(found["second"]))  # or a leap second
    try:
        moment = datetime(year, month, int(found["day"]), int(found["hour"]), int(found["minute"]), second, tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp()


def with_date(fields: Fields, *, now: float) -> Fields:
    """Return *fields* with a `Date` that can be read: who receives none puts it in (RFC 9110 §6.6.1)."""
    if parse_http_date(fields.get("date") or "", now=now) is not None:
        return fields
    return fields.without(["date"]).plus(("Date", formatdate(now, usegmt=True)))
