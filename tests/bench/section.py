"""What `make bench` is made of: sections. Each measures one thing, says it in tables, and how it was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What sections measure with: an upstream that runs, a directory of their own, how much time to take.

    *say* tells whoever waits how far it is.
    """

    upstream_port: int
    directory: Path
    rounds: int
    seconds: int
    quick: bool
    say: Say

    def home(self, name: str) -> Path:
        """Return a directory that is new."""
        made = self.directory / name
        made.mkdir()
        return made


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure: what it is of, its value, and the goal where there is one, at *least* or at most."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    least: bool = False

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.least else self.value <= self.goal

    @property
    def shown(self) -> str:
        return f"{self.value:,.0f} {self.unit}" if abs(self.value) >= 1000 else f"{self.value:.2f} {self.unit}"

    @property
    def wanted(self) -> str:
        return "" if self.goal is None else f"{'>=' if self.least else '<='} {self.goal:g} {self.unit}"

    @property
    def said(self) -> str:
        return {None: "", True: "met", False: "missed"}[self.met]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a section measured: *tables* in Markdown, and the *figures*, of which those with a goal are told first."""

    tables: Sequence[str]
    figures: Sequence[Figure] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """*measure* takes the figures; *notes* say how, for who wants to take them again."""

    title: str
    measure: Callable[[Bench], Taken] = field(compare=False)
    notes: str


def of_figures(figures: Sequence[Figure]) -> Taken:
    """Return *figures* with a table of them."""
    rows = [(each.name, each.shown, each.wanted, each.said) for each in figures]
    return Taken([table(("measure", "value", "goal", ""), rows)], figures)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown that can be read as text, too; nothing without *rows*."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
