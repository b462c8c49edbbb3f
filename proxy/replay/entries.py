"""Lines of an access log -> entries: the combined or common format, or one JSON object a line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from proxy.core.messages import HasTarget
from proxy.core.values import immutable

_COMBINED_FORMAT: Final = re.compile(
    r'(?P<address>\S+) \S+ (?P<user>\S+) \[(?P<time>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) '
    r"(?P<size>\d+|-)(?: .*)?"
)
_REQUEST_LINE: Final = re.compile(r"(?P<method>[A-Z]{1,20}) (?P<target>\S+)(?: HTTP/\d(?:\.\d)?)?")
_ESCAPED_BYTE: Final = re.compile(r"\\x([0-9A-Fa-f]{2})")  # as nginx writes bytes that might end the field
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?", re.ASCII)
_ORIGIN: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LOCAL_TIME: Final = re.compile(r"(\d{2})/([A-Z][a-z]{2})/(\d{4}):(\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})")

# Names under which programs log the same thing, nginx's own first.
_TIME_KEYS: Final = ("msec", "time_iso8601", "time_local", "@timestamp", "timestamp", "time", "ts")
_METHOD: Final = re.compile(r"[A-Z]{1,20}", re.ASCII)
_METHOD_KEYS: Final = ("request_method", "method")
_TARGET_KEYS: Final = ("request_uri", "uri", "target", "url", "path")
_QUERY_KEYS: Final = ("args", "query_string", "query")
_STATUS_KEYS: Final = ("status", "status_code", "response_code")
_SIZE_KEYS: Final = ("body_bytes_sent", "bytes_sent", "bytes", "size")
_USER_KEYS: Final = ("caller", "token_digest", "project", "remote_user", "user")
_ADDRESS_KEYS: Final = ("remote_addr", "client_ip", "client", "address", "ip")
_MIN_MILLISECONDS: Final = 1e11  # larger numbers are no seconds of this age


@immutable
class LogEntry(HasTarget):
    """One request that was logged: *timestamp*, epoch seconds; *caller*, whoever that is; *body_bytes* of the answer's
    body.
    """

    timestamp: float
    caller: str
    method: str
    target: str
    status: int
    body_bytes: int | None = None


@immutable
class MalformedLine:
    """A line that is no entry, and why."""

    reason: str


def parse_entry(line: str, *, caller_field: str | None = None) -> LogEntry | MalformedLine:
    """Return what *line* records, or why it records nothing.

    *caller_field* names the field that tells callers apart, in JSON by its own name, else `user` or `address`. Without
    it that is a user where one is logged, else the address.
    """
    if line.startswith("{"):
        return _parse_json(line, caller_field)
    match = _COMBINED_FORMAT.fullmatch(line)
    if match is None:
        return MalformedLine("neither the combined format nor JSON")
    request = _REQUEST_LINE.fullmatch(_ESCAPED_BYTE.sub(lambda found: chr(int(found[1], 16)), match["request"]))
    if request is None:
        return MalformedLine("no request in it")
    at = _parse_local_time(match["time"])
    if at is None:
        return MalformedLine("no time that is understood")
    size = None if match["size"] == "-" else int(match["size"])
    users = {"user": "" if match["user"] == "-" else match["user"], "address": match["address"]}
    caller_text = users.get(caller_field, "") if caller_field else users["user"] or users["address"]
    return LogEntry(at, caller_text, request["method"], _to_origin_form(request["target"]), int(match["status"]), size)


def _parse_json(line: str, caller_field: str | None) -> LogEntry | MalformedLine:
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        return MalformedLine("no JSON")
    at = _parse_time(_first_of(told, _TIME_KEYS))
    if at is None:
        return MalformedLine("no time that is understood")
    method, target = _first_of(told, _METHOD_KEYS), _first_of(told, _TARGET_KEYS)
    if (
        method is None
        and isinstance(request := told.get("request"), str)
        and (found := _REQUEST_LINE.fullmatch(request))
    ):
        method, target = found["method"], found["target"]
    method = str(method or "GET").upper()
    if not isinstance(target, str) or not target or not _METHOD.fullmatch(method):
        return MalformedLine("no request in it")  # nor is what a terminal might take for an order: the method is shown
    query = _first_of(told, _QUERY_KEYS)
    if "?" not in target and isinstance(query, str) and query not in ("", "-"):
        target = f"{target}?{query.removeprefix('?')}"
    status = _parse_integer(_first_of(told, _STATUS_KEYS))
    if status is None or not 100 <= status <= 999:
        return MalformedLine("no status")
    caller_text = (
        told.get(caller_field) if caller_field else _first_of(told, _USER_KEYS) or _first_of(told, _ADDRESS_KEYS)
    )
    size = _parse_integer(_first_of(told, _SIZE_KEYS))
    return LogEntry(at, "" if caller_text is None else str(caller_text), method, _to_origin_form(target), status, size)


def _first_of(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "", "-")), None)


def _parse_integer(value: object) -> int | None:
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]  # whatever JSON holds there
    except (TypeError, ValueError, OverflowError):
        return None


def _parse_time(value: object) -> float | None:
    """Return epoch seconds from a number, in seconds or milliseconds, or from a text in one of the common forms."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return _parse_local_time(value) or _parse_iso8601(value)
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever JSON holds there
    except (TypeError, ValueError):
        return None
    number = number / 1000 if abs(number) > _MIN_MILLISECONDS else number
    return number if 0 <= number < _MIN_MILLISECONDS else None


def _parse_iso8601(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _parse_local_time(text: str) -> float | None:
    """Return epoch seconds from the combined format's time, such as `24/Nov/2026:08:52:08 +0000`."""
    match = _LOCAL_TIME.fullmatch(text)
    if match is None or match[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(match[at]) for at in (1, 3, 4, 5, 6))
    try:
        moment = datetime(year, _MONTHS.index(match[2]) + 1, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return None
    offset_s = (int(match[8]) * 60 + int(match[9])) * 60
    return moment.timestamp() - (offset_s if match[7] == "+" else -offset_s)


def _to_origin_form(target: str) -> str:
    return _ORIGIN.sub("", target, count=1) or "/"
