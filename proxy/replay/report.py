"""What a replay came to, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.core.values import immutable
from proxy.replay.entries import Entry, MalformedLine
from proxy.replay.listings import is_listed
from proxy.replay.simulation import Outcome, ReplayResult

_SHOWN_MALFORMED: Final = 5


@dataclass(slots=True)
class LinesRead:
    """What became of a log's lines: each is of a list or of something else, blank, or malformed."""

    lists: int = 0
    others: int = 0
    blank: int = 0
    malformed: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    callers: set[str] = field(default_factory=set)
    first: float | None = None
    last: float = 0.0

    @property
    def lines(self) -> int:
        """How many lines there were."""
        return self.lists + self.others + self.blank + self.malformed

    def add(self, read: Entry | MalformedLine | None) -> None:
        """One more line was read; None is a blank one."""
        if read is None:
            self.blank += 1
            return
        if isinstance(read, MalformedLine):
            self.malformed += 1
            if len(self.examples) < _SHOWN_MALFORMED:
                self.examples.append((self.lines, read.reason))
            return
        if is_listed(read) is None:
            self.others += 1
        else:
            self.lists += 1
        self.callers.add(read.caller)
        self.first = read.at if self.first is None else min(self.first, read.at)
        self.last = max(self.last, read.at)


@immutable
class Row:
    """What is said of a listing, or of a route that is no list."""

    label: str
    outcome: Outcome

    @property
    def saved(self) -> int:
        """Calls that were not made."""
        return self.outcome.requests - self.outcome.calls


def report_rows(replayed: ReplayResult) -> list[Row]:
    """Return the listings whoever asked for them, then the routes, those that are asked most first."""
    sums: dict[tuple[bool, str], Outcome] = {}
    for (_, path, query), outcome in replayed.outcomes.items():
        is_list = path.startswith("/")
        label = path + (f"?{query}" if query else "") if is_list else f"({path})"
        total = sums.setdefault((not is_list, label), Outcome())
        total.requests += outcome.requests
        total.hits += outcome.hits
        total.calls += outcome.calls
    ordered = sorted(sums.items(), key=lambda each: (each[0][0], -each[1].requests, each[0][1]))
    return [Row(label, outcome) for (_, label), outcome in ordered]


def sum_outcomes(each: Sequence[Row], label: str = "all") -> Row:
    """Return the sum of rows."""
    fields = ("requests", "hits", "calls")
    return Row(label, Outcome(*(sum(getattr(row.outcome, name) for row in each) for name in fields)))


def to_json(read: LinesRead, replayed: ReplayResult) -> dict[str, Any]:
    """Return everything, fit for JSON."""
    each = report_rows(replayed)
    return {
        "lines": {
            "total": read.lines,
            **{name: getattr(read, name) for name in ("lists", "others", "blank", "malformed")},
        },
        "malformed": [{"line": line, "reason": reason} for line, reason in read.examples],
        "from": read.first,
        "to": read.last if read.first is not None else None,
        "callers": len(read.callers),
        "listings": [_row_to_json(row) for row in each],
        "total": _row_to_json(sum_outcomes(each)),
        "busiest_minute": {"without": replayed.busiest[0], "with": replayed.busiest[1]},
    }


def _row_to_json(row: Row) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "listing": row.label,
        "requests": outcome.requests,
        "hits": outcome.hits,
        "calls": outcome.calls,
        "saved": row.saved,
    }


def describe_lines(read: LinesRead) -> Iterator[str]:
    """Yield what became of the log's lines."""
    yield (
        f"{read.lines:,} lines: {read.lists:,} lists, {read.others:,} other requests, {read.blank:,} blank, "
        f"{read.malformed:,} malformed"
    )
    for line, reason in read.examples:
        yield f"  line {line:,}: {reason}"
    if read.malformed > len(read.examples):
        yield f"  and {read.malformed - len(read.examples):,} more"
