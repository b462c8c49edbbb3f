"""When a finished answer may be replayed to equal requests without deciding anything again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from proxy.core.values import immutable


@immutable
class ReplayTerms:
    """Permission to replay an answer to every request whose relevant headers are the same.

    `proxy.gateway.relevant_headers` names those headers. The permission ends at *until* (the answer's lifetime or its
    principal's admission is over) and as soon as `ListingService.epoch` changes. `Age` counts from *fetched_at* and the
    answer is fresh until *fresh_until*; all three are epoch seconds.

    Whoever replays the answer calls *on_use* now and then, so that storage does not evict spans that are in use.
    Keeping the terms takes about *size_bytes*.
    """

    fetched_at: float
    fresh_until: float
    until: float
    on_use: Callable[[], None] = field(default=lambda: None, compare=False)
    size_bytes: int = field(default=0, compare=False)
