"""What an upstream says of its limits: in headers, in a 429, in a 400 `IMG.0060`."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Final

import orjson

from proxy.core.messages import Fields
from proxy.core.values import immutable
from proxy.ratelimit.sliding_window import AdvertisedLimit, RateLimit

# IMS API reference, "Error Codes": flow control of IMS itself, behind the gateway.
_FLOW_CONTROL: Final = "IMG.0060"
_UNITS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_LIMIT_WORD: Final = re.compile(
    r"limit:\s*+([0-9]{1,9})\s*+,\s*+time:\s*+([0-9]{0,6}+)\s*+(second|minute|hour|day)s?", re.ASCII
)
_REMAIN_WORD: Final = re.compile(r"remain:\s*([0-9]{1,9})", re.ASCII)
_POLICY: Final = re.compile(r"policy ([a-z]{1,16}) over ratelimit", re.ASCII)
_FIELD: Final = "x-apig-ratelimit-"
_POLICIES: Final = ("user", "api", "app", "ip")
_FIELDS: Final = frozenset(_FIELD + name for name in _POLICIES)
_SECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_MAX_PERIOD_S: Final = 86400.0
_MAX_CALLS: Final = 100_000  # the log has a line for each call; nobody here reaches a higher limit


@immutable
class AdvertisedLimits:
    """What one answer says: the limits it tells, and, where it is a refusal, how long to stay away.

    *cooldown_s* is None where it does not say for how long.
    """

    limits: tuple[AdvertisedLimit, ...] = ()
    is_throttled: bool = False
    cooldown_s: float | None = None


def parse_advertised_limits(status: int, fields: Fields, body: bytes, *, now: float) -> AdvertisedLimits:
    """Return what an answer says of the upstream's limits at *now*, epoch seconds."""
    advertised: list[AdvertisedLimit] = []
    if fields.contains_any(_FIELDS):
        advertised += [
            each for name in _POLICIES for value in fields.get_all(_FIELD + name) if (each := _parse_limit(name, value))
        ]
    if status != 429 and not (status == 400 and _error_code(body) == _FLOW_CONTROL):
        return AdvertisedLimits(tuple(advertised))
    text = body[:4096].decode("utf-8", "replace")
    policy = _POLICY.search(text)
    said = _parse_limit(policy[1] if policy and policy[1] in _POLICIES else "flow", text)
    if said:
        advertised = [each for each in advertised if each.name != said.name] + [said]
    after_s = _parse_retry_after(fields.get("retry-after"), now=now)
    if after_s is None and said:
        after_s = said.limit.per_s
    return AdvertisedLimits(tuple(advertised), is_throttled=True, cooldown_s=after_s)


def _parse_limit(name: str, text: str) -> AdvertisedLimit | None:
    limit = _LIMIT_WORD.search(text)
    if limit is None or not 0 < int(limit[1]) <= _MAX_CALLS:
        return None
    per_s = int(limit[2] or 1) * _UNITS[limit[3]]
    if not 0 < per_s <= _MAX_PERIOD_S:
        return None
    remain = _REMAIN_WORD.search(text)
    return AdvertisedLimit(name, RateLimit(int(limit[1]), float(per_s)), int(remain[1]) if remain else None)


def _error_code(body: bytes) -> str:
    """Return the error code in *body*, in the shape of IMS or in that of the gateway before it."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(answer, dict):
        return ""
    inner = answer.get("error")
    code = inner.get("code") if isinstance(inner, dict) else answer.get("error_code")
    return code if isinstance(code, str) else ""


def _parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds that `Retry-After` names (RFC 9110 §10.2.3), at most a day; None where it is malformed."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return min(float(value), _MAX_PERIOD_S)
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - now), _MAX_PERIOD_S)
    except (ValueError, OverflowError):
        return None
