"""Two points and the rows between them -> an SVG path that passes under no card.

A link is one S-curve with vertical ends. Where that would run under a card, the worst such row gets a waypoint in the
nearest gap, and the two halves are tried again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

Point = tuple[float, float]
_CLEAR = 5.0  # px between a link and a card that it passes
_STEPS = 256  # of the table of the S-curve: off by less than 0.01 px in 1000


@dataclass(frozen=True)
class Band:
    """One row of cards: from top to bottom, and (left, right) of each card from left to right."""

    top: float
    bottom: float
    spans: tuple[tuple[float, float], ...]


def path_between(start: Point, stop: Point, bands: Sequence[Band], rows: tuple[int, int], *, spread: int = 0) -> str:
    """Return the path from a card in rows[0] to one in rows[1]; `spread` (0 .. 4) parts links that share a gap."""
    low, high = sorted(rows)
    if low == high:
        return _arch(start, stop)
    between = list(bands[low + 1 : high])
    points = [start, *_waypoints(start, stop, between if rows[0] < rows[1] else between[::-1], spread), stop]
    pieces = [f"M{_n(start[0])} {_n(start[1])}"]
    for (x, y), (next_x, next_y) in pairwise(points):
        if x == next_x:
            pieces.append(f"V{_n(next_y)}")
        else:
            half = (y + next_y) / 2
            pieces.append(f"C{_n(x)} {_n(half)} {_n(next_x)} {_n(half)} {_n(next_x)} {_n(next_y)}")
    return "".join(pieces)


def _waypoints(start: Point, stop: Point, bands: Sequence[Band], spread: int) -> list[Point]:
    """Points that lead around the cards of `bands`, which lie between start and stop, in that order."""
    worst, way = 0.0, None
    for k, band in enumerate(bands):
        at = _crossing(start, stop, (band.top + band.bottom) / 2)
        drift = abs(_crossing(start, stop, band.top) - _crossing(start, stop, band.bottom)) / 2
        free = _nearest_gap(at, band, min(drift, 30.0), spread)
        if abs(free - at) > worst:
            worst, way = abs(free - at), (k, free)
    if way is None:
        return []
    k, x = way
    first, last = (bands[k].bottom, bands[k].top) if start[1] > stop[1] else (bands[k].top, bands[k].bottom)
    enter, leave = (x, first), (x, last)
    return [
        *_waypoints(start, enter, bands[:k], spread), enter, leave, *_waypoints(leave, stop, bands[k + 1 :], spread)
    ]  # fmt: skip


def _crossing(start: Point, stop: Point, y: float) -> float:
    """Where the S-curve is at a height."""
    at = (y - start[1]) / (stop[1] - start[1]) * _STEPS
    low = min(max(int(at), 0), _STEPS - 1)
    table = _rise()
    return start[0] + (stop[0] - start[0]) * (table[low] + (table[low + 1] - table[low]) * (at - low))


@cache
def _rise() -> tuple[float, ...]:
    """How far across an S-curve is at each 1/_STEPS of its height: x = (3 - 2t) t^2 where y = 1.5 t (1 - t) + t^3."""
    found = []
    for step in range(_STEPS + 1):
        low, high = 0.0, 1.0
        for _ in range(40):
            t = (low + high) / 2
            low, high = (t, high) if 1.5 * t * (1 - t) + t**3 < step / _STEPS else (low, t)
        found.append((3 - 2 * high) * high * high)
    return tuple(found)


def _nearest_gap(x: float, band: Band, drift: float, spread: int) -> float:
    """Return x itself where a link may pass the row there, else the nearest place that is free."""
    clear = _CLEAR + drift
    k = bisect_right(band.spans, (x, x))  # cards k - 1 and k are the ones that may be in the way
    near = [span for span in band.spans[max(k - 1, 0) : k + 1] if span[0] - clear < x < span[1] + clear]
    if not near:
        return x
    shift = _CLEAR + 1 + spread * 3.0  # gaps are 26 wide: 6 .. 18 leaves 8 on the other side
    places = [place for left, right in near for place in (left - shift, right + shift)]
    return min(places, key=lambda place: (abs(place - x), place))


def _arch(start: Point, stop: Point) -> str:
    """Over the cards between two cards of one row; a loop where both are the same."""
    across = abs(start[0] - stop[0])
    reach = 26.0 if across < 24 else 20.0 + min(across / 14, 22.0)
    left, right = (start[0] - 14, stop[0] + 14) if across < 24 else (start[0], stop[0])
    top = min(start[1], stop[1]) - reach
    return f"M{_n(start[0])} {_n(start[1])}C{_n(left)} {_n(top)} {_n(right)} {_n(top)} {_n(stop[0])} {_n(stop[1])}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
