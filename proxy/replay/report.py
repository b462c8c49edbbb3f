"""What a replay came to, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.core.values import immutable
from proxy.replay.entries import LogEntry, MalformedLine
from proxy.replay.listings import list_query_of
from proxy.replay.simulation import ReplayCounts, ReplayResult

_MAX_MALFORMED_EXAMPLES: Final = 5


@dataclass(slots=True)
class LogSummary:
    """What became of a log's lines: each is of a list or of something else, blank, or malformed."""

    list_count: int = 0
    other_count: int = 0
    blank_count: int = 0
    malformed_count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    callers: set[str] = field(default_factory=set)
    first_timestamp: float | None = None
    last_timestamp: float = 0.0

    @property
    def line_count(self) -> int:
        """How many lines there were."""
        return self.list_count + self.other_count + self.blank_count + self.malformed_count

    def add(self, parsed_line: LogEntry | MalformedLine | None) -> None:
        """One more line was read; None is a blank one."""
        if parsed_line is None:
            self.blank_count += 1
            return
        if isinstance(parsed_line, MalformedLine):
            self.malformed_count += 1
            if len(self.examples) < _MAX_MALFORMED_EXAMPLES:
                self.examples.append((self.line_count, parsed_line.reason))
            return
        if list_query_of(parsed_line) is None:
            self.other_count += 1
        else:
            self.list_count += 1
        self.callers.add(parsed_line.caller)
        self.first_timestamp = (
            parsed_line.timestamp if self.first_timestamp is None else min(self.first_timestamp, parsed_line.timestamp)
        )
        self.last_timestamp = max(self.last_timestamp, parsed_line.timestamp)


@immutable
class ReportRow:
    """What is said of a listing, or of a route that is no list."""

    label: str
    counts: ReplayCounts

    @property
    def calls_saved(self) -> int:
        """Calls that were not made."""
        return self.counts.requests - self.counts.calls


def report_rows(result: ReplayResult) -> list[ReportRow]:
    """Return the listings whoever asked for them, then the routes, those that are asked most first."""
    sums: dict[tuple[bool, str], ReplayCounts] = {}
    for (_, path, query), outcome in result.counts_by_listing.items():
        is_list = path.startswith("/")
        label = path + (f"?{query}" if query else "") if is_list else f"({path})"
        total = sums.setdefault((not is_list, label), ReplayCounts())
        total.requests += outcome.requests
        total.hits += outcome.hits
        total.calls += outcome.calls
    ordered = sorted(sums.items(), key=lambda each: (each[0][0], -each[1].requests, each[0][1]))
    return [ReportRow(label, outcome) for (_, label), outcome in ordered]


def sum_outcomes(rows: Sequence[ReportRow], label: str = "all") -> ReportRow:
    """Return the sum of rows."""
    counts = [row.counts for row in rows]
    total = ReplayCounts(
        requests=sum(each.requests for each in counts),
        hits=sum(each.hits for each in counts),
        calls=sum(each.calls for each in counts),
    )
    return ReportRow(label, total)


def to_json(summary: LogSummary, result: ReplayResult) -> dict[str, Any]:
    """Return everything, fit for JSON."""
    each = report_rows(result)
    return {
        "lines": {
            "total": summary.line_count,
            "lists": summary.list_count,
            "others": summary.other_count,
            "blank": summary.blank_count,
            "malformed": summary.malformed_count,
        },
        "malformed": [{"line": line, "reason": reason} for line, reason in summary.examples],
        "from": summary.first_timestamp,
        "to": summary.last_timestamp if summary.first_timestamp is not None else None,
        "callers": len(summary.callers),
        "listings": [_row_to_json(row) for row in each],
        "total": _row_to_json(sum_outcomes(each)),
        "busiest_minute": {"without": result.peak_calls_per_minute[0], "with": result.peak_calls_per_minute[1]},
    }


def _row_to_json(row: ReportRow) -> dict[str, Any]:
    outcome = row.counts
    return {
        "listing": row.label,
        "requests": outcome.requests,
        "hits": outcome.hits,
        "calls": outcome.calls,
        "saved": row.calls_saved,
    }


def describe_lines(summary: LogSummary) -> Iterator[str]:
    """Yield what became of the log's lines."""
    yield (
        f"{summary.line_count:,} lines: {summary.list_count:,} lists, {summary.other_count:,} other requests, "
        f"{summary.blank_count:,} blank, "
        f"{summary.malformed_count:,} malformed"
    )
    for line, reason in summary.examples:
        yield f"  line {line:,}: {reason}"
    if summary.malformed_count > len(summary.examples):
        yield f"  and {summary.malformed_count - len(summary.examples):,} more"
