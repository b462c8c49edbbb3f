"""How many calls a window saw, whichever window it is."""

from collections.abc import Iterable


def most_in_a_window(arrivals: Iterable[float], window_s: float) -> int:
    """Return the most calls that any half-open window of *window_s* saw; the fullest begin with a call."""
    times = sorted(arrivals)
    most = end = 0
    for begin, first in enumerate(times):
        while end < len(times) and times[end] < first + window_s:
            end += 1
        most = max(most, end - begin)
    return most
