"""Lifetimes by rule: which lists live longer or shorter than others, by path and query."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.core.freshness import Lifetimes
from proxy.core.list_query import Pairs
from proxy.core.values import immutable


@immutable
class Rule:
    """Lists at *path*, or at any, whose query holds all of *pairs*, live by *lifetimes*."""

    lifetimes: Lifetimes
    path: str | None = None
    pairs: Pairs = ()

    def matches(self, path: str, pairs: Pairs) -> bool:
        """Whether the listing at *path* with the canonical *pairs* falls under this rule."""
        return self.path in (None, path) and set(self.pairs) <= set(pairs)


@immutable
class Rules:
    """Rules in order, the first that matches counts; *otherwise* for listings that none does."""

    otherwise: Lifetimes
    rules: Sequence[Rule] = ()

    def lifetimes(self, path: str, pairs: Pairs) -> Lifetimes:
        """Return the lifetimes of a listing."""
        matching = (rule.lifetimes for rule in self.rules if rule.matches(path, pairs))
        return next(matching, self.otherwise)

    @property
    def longest_s(self) -> float:
        """The longest that any span is of use, seconds."""
        every = [self.otherwise, *(rule.lifetimes for rule in self.rules)]
        return max(each.ttl_s + each.stale_s for each in every)
