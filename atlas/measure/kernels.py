"""Activations in memory -> moments, histograms, firings, lists and sums by token, as loops compiled for the processor.

What numpy does in ten passes over arrays these loops do in one, and they hold no lock of Python's, so batches of
several threads run at once: 3 instead of 10 ns a value for the dense part, 50 instead of 157 ns a firing for tokens.
Compiled code is cached beside this file (or in numba's own cache folder), so only the first run ever waits (15 s).
No fast-math: a result is the same on every processor, up to the order in which the loops here add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from atlas.tables import HIST_BINS

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Shorts = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]
Array = npt.NDArray[Any]
Columns = TypeVar("Columns", bound=tuple[Array, ...])  # one of the named tuples below
Function = TypeVar("Function", bound=Callable[..., Any])

BINS = HIST_BINS + 2
BLOCK = 2048  # neurons at once: their histograms (540 kB) and sums stay in the core's cache; 256: 10 % slower
PIECE = 64  # positions whose float32 sums are added before they join the float64 ones
_LAST = np.float32(HIST_BINS)
_HIT = 1 << 8  # a bin and whether the value lies beyond a bar, in one integer
_DIGIT = 13  # bits of one pass of the radix sort: 20 ns a firing of 25 bits, 23 with 9 or 11


def compiled(function: Function) -> Function:
    """Compile a function at its first call, without the interpreter's lock and cached on disk."""
    made: Function = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return made


def first_of(columns: Columns, rows: int) -> Columns:
    """The first `rows` entries of every column."""
    return type(columns)._make(column[:rows] for column in columns)  # type: ignore[attr-defined,no-any-return]


class Range(NamedTuple):
    """By neuron [d_mlp] float32: lower end of the histogram, bins per unit, bars that a value may lie beyond."""

    low: Floats
    scale: Floats
    below: Floats
    above: Floats


class Totals(NamedTuple):
    """By neuron: smallest, largest, number above 0 [d_mlp] and histogram [d_mlp, BINS]; updated in place."""

    low: Floats
    high: Floats
    n_active: Ints
    hist: Ints


class Found(NamedTuple):
    """Room for single activations: row, neuron, value."""

    row: Shorts
    neuron: Shorts
    value: Floats


@compiled
def count_dense(values: Array, ranges: Range, totals: Totals, sums: Doubles, found: Found) -> int:
    """Count `values` [rows, d_mlp] into `totals`, add a, a^2, a^3, a^4, |a| to `sums` [5, d_mlp], list what is beyond.

    Returns how many entries of `found` are filled: a <= below or a >= above, by blocks of neurons, row and neuron.
    Products and sums of PIECE rows are in the dtype of `values`, the rest in float64. Values that are not finite are
    counted in some bin and leave sums that are not finite.
    """
    filled = 0
    found_row, found_neuron, found_value = found
    n_active, every_count = totals.n_active, totals.hist
    hist = np.zeros(BLOCK * BINS, np.int32)
    part, nothing = np.zeros((5, BLOCK), values.dtype), np.zeros(BLOCK, values.dtype)
    code, single, hits = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    active = np.zeros(BLOCK, np.int32)
    for first in range(0, values.shape[1], BLOCK):
        last = min(first + BLOCK, values.shape[1])
        size = last - first
        local = Range(
            ranges.low[first:last], ranges.scale[first:last], ranges.below[first:last], ranges.above[first:last]
        )
        low, high = totals.low[first:last], totals.high[first:last]
        hist[:] = 0
        active[:] = 0
        for row in range(values.shape[0]):
            line = values[row, first:last]
            if row % 2:
                _add_powers(values[row - 1, first:last], line, part)
            elif row + 1 == values.shape[0]:
                _add_powers(line, nothing[:size], part)
            for j in range(size):
                single[j] = np.float32(line[j])
            _extend(single[:size], low, high, active)
            _encode(single[:size], local, code)
            count = 0
            for j in range(size):
                word = code[j]
                hist[j * BINS + (word & (_HIT - 1))] += 1
                hits[count] = j
                count += word >> 8
            for k in range(count):
                found_row[filled], found_neuron[filled] = row, first + hits[k]
                found_value[filled] = single[hits[k]]
                filled += 1
            if (row + 1) % PIECE == 0 or row + 1 == values.shape[0]:
                _empty_into(part, sums[:, first:last])
        for j in range(size):
            n_active[first + j] += active[j]
        counts = every_count[first * BINS : last * BINS]
        for j in range(size * BINS):
            counts[j] += hist[j]
    return filled


@compiled
def _add_powers(one: Array, two: Array, part: Array) -> None:
    # few arrays a loop: with more the compiler gives up proving that they do not overlap; two rows: half the stores
    first, second, third, fourth, absolute = part[0], part[1], part[2], part[3], part[4]
    for j in range(len(one)):
        first[j] += one[j] + two[j]
    for j in range(len(one)):
        absolute[j] += abs(one[j]) + abs(two[j])
    for j in range(len(one)):
        second[j] += one[j] * one[j] + two[j] * two[j]
    for j in range(len(one)):
        third[j] += one[j] * one[j] * one[j] + two[j] * two[j] * two[j]
    for j in range(len(one)):
        left, right = one[j] * one[j], two[j] * two[j]
        fourth[j] += left * left + right * right


@compiled
def _extend(line: Floats, low: Floats, high: Floats, active: Shorts) -> None:
    for j in range(len(line)):
        low[j] = line[j] if line[j] < low[j] else low[j]
        high[j] = line[j] if line[j] > high[j] else high[j]
    for j in range(len(line)):
        active[j] += np.int32(line[j] > 0)


@compiled
def _encode(line: Floats, ranges: Range, code: Shorts) -> None:
    """Bin (0 = below the range) of each value, and whether it is beyond a bar; NaN falls into bin 0."""
    low, scale, below, above = ranges.low, ranges.scale, ranges.below, ranges.above
    for j in range(len(line)):
        place = (line[j] - low[j]) * scale[j]
        place = place if place > np.float32(-0.5) else np.float32(-0.5)
        place = place if place < _LAST else _LAST
        code[j] = np.int32(place) + np.int32(place >= 0)
    for j in range(len(line)):
        code[j] += np.int32((line[j] <= below[j]) | (line[j] >= above[j])) * np.int32(_HIT)


@compiled
def _empty_into(part: Array, sums: Doubles) -> None:
    for power in range(5):
        into, added = sums[power], part[power]
        for j in range(len(into)):
            into[j] += added[j]
        for j in range(len(into)):
            added[j] = 0


class Sides(NamedTuple):
    """By side = 2 neuron + negative of a layer: the bars of |a| [2 d_mlp] float32, seeds of priorities, worst `order`
    that may enter each list [2 d_mlp, strata + 1] and the edges of |a| between sampled strata [2 d_mlp, strata - 2].
    """

    fires: Floats
    kept: Floats
    seeds: Words
    limits: Words
    edges: Floats


class Fired(NamedTuple):
    """Room for firings: side * vocab + token at the position, value."""

    key: Array
    value: Floats


class Places(NamedTuple):
    """By counted position of a batch: its hash and its token id; the size of the vocabulary."""

    hashes: Words
    token: Ints
    vocab: int


class Chosen(NamedTuple):
    """Room for candidates: row, side, stratum, `order` in its list, value."""

    row: Shorts
    side: Shorts
    stratum: Shorts
    order: Words
    value: Floats


@compiled
def _mixed(x: Any) -> Any:
    """Finaliser of splitmix64, as in exemplars.py."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def choose_strong(found: Found, places: Places, sides: Sides, fired: Fired, chosen: Chosen) -> tuple[int, int]:
    """Sort single activations into firings, the strongest and samples of firings.

    Returns how many entries of `fired` and of `chosen` are filled.
    """
    # arrays are taken out of their tuples before a loop: inside it each access would count references, 5 ns a time
    fires, kept, seeds, limits, edges = sides
    rows, neurons, values = found
    hashes, token, vocab = places
    fired_key, fired_value = fired
    row_of, side_of, stratum_of, order_of, value_of = chosen
    bits = values.view(np.uint32)
    sampled = limits.shape[1] > 2
    firings = many = 0
    for i in range(len(values)):
        row, value = rows[i], values[i]
        side = 2 * neurons[i] + np.int32(value < 0)
        strength = abs(value)
        if strength >= kept[side]:
            order = np.uint64(1 << 32) - np.uint64(bits[i] & np.uint32(0x7FFFFFFF))
            row_of[many], side_of[many], stratum_of[many], order_of[many], value_of[many] = row, side, 0, order, value
            many += 1
        if strength < fires[side]:
            continue
        fired_key[firings], fired_value[firings] = np.int64(side) * vocab + token[row], value
        firings += 1
        if not sampled:
            continue
        stratum = 2
        for edge in range(edges.shape[1]):
            stratum += strength > edges[side, edge]
        order = _mixed(hashes[row] + seeds[side]) >> np.uint64(32)
        if order <= limits[side, stratum]:
            row_of[many], side_of[many], stratum_of[many] = row, side, stratum
            order_of[many], value_of[many] = order, value
            many += 1
    return firings, many


@compiled
def choose_weak(values: Floats, rows: Ints, hashes: Words, sides: Sides, chosen: Chosen) -> int:
    """Choose activations that do not fire, `values` [rows, d_mlp]; `hashes` by row of `values`, `rows` their numbers.

    Returns how many entries of `chosen` are filled.
    """
    fires, _, seeds, limits, _ = sides
    row_of, side_of, stratum_of, order_of, value_of = chosen
    many = 0
    for i in range(values.shape[0]):
        for neuron in range(values.shape[1]):
            value = values[i, neuron]
            side = 2 * neuron + np.int64(value < 0)
            order = _mixed(hashes[i] + seeds[side]) >> np.uint64(32)
            if order <= limits[side, 1] and 0 < abs(value) < fires[side]:
                row_of[many], side_of[many], stratum_of[many] = rows[i], side, 1
                order_of[many], value_of[many] = order, value
                many += 1
    return many


@compiled
def cut_windows(values: Array, place: Ints, centre: Ints, neuron: Shorts, windows: Floats) -> None:
    """Fill `windows` [n, 2 w + 1] with the values of a neuron around flat positions `centre` of a batch.

    `place` gives the row of `values` of a flat position; beyond the batch the first or last position is repeated.
    """
    for i in range(len(centre)):
        for offset in range(windows.shape[1]):
            at = min(max(centre[i] + offset - windows.shape[1] // 2, 0), len(place) - 1)
            windows[i, offset] = values[place[at], neuron[i]]


class Lists(NamedTuple):
    """Lists of fixed size, best entry first. By list: its size, its first slot, how many it holds, worst order allowed.

    `entry` [slots, 4]: order, context, position, and the slot of its payload, which stays where it is while entries
    move up; side by side, because a list is read whole.
    """

    size: Shorts
    first: Ints
    held: Shorts
    limit: Words
    entry: Ints


@compiled
def enter(lists: Lists, group: Ints, order: Words, context_id: Ints, position: Ints) -> Ints:
    """Enter candidates into lists in place; ties of order by context, then position.

    Returns the slot for each one's payload, -1 for those that found no room. A later candidate may get the slot of an
    earlier one, so payloads are to be written in the order of the candidates.
    """
    sizes, firsts, helds, limits, entry = lists  # taken out once: taking them out in the loop costs 100 ns
    slots = np.full(len(group), -1, np.int64)
    for i in range(len(group)):
        to = group[i]
        if order[i] > limits[to]:
            continue
        first, held = firsts[to], helds[to]
        rank, context, place = np.int64(order[i]), context_id[i], position[i]
        last = first + held
        slot = last
        if held == sizes[to]:
            last -= 1
            if not _precedes(rank, context, place, entry[last]):
                continue
            slot = entry[last, 3]
        else:
            helds[to] += 1
        while last > first and _precedes(rank, context, place, entry[last - 1]):
            for column in range(4):
                entry[last, column] = entry[last - 1, column]
            last -= 1
        entry[last, 0] = rank
        entry[last, 1] = context
        entry[last, 2] = place
        entry[last, 3] = slot
        slots[i] = slot
        if helds[to] == sizes[to]:
            limits[to] = entry[first + sizes[to] - 1, 0]
    return slots


@compiled
def _precedes(order: Any, context: Any, position: Any, entry: Ints) -> Any:
    if order != entry[0]:
        return order < entry[0]
    if context != entry[1]:
        return context < entry[1]
    return position < entry[2]


@compiled
def put(slots: Ints, source: Array, target: Array) -> None:
    """Write `source` to rows `slots` of `target`, in order; -1 is left out."""
    for i in range(len(slots)):
        if slots[i] >= 0:
            target[slots[i]] = source[i]


@compiled
def pack(key: Array, value: Floats) -> Words:
    """Key and the bits of the value as one integer, for keys below 2^32."""
    bits, packed = value.view(np.uint32), np.empty(len(key), np.uint64)
    for i in range(len(key)):
        packed[i] = np.uint64(key[i]) << np.uint64(32) | np.uint64(bits[i])
    return packed


@compiled
def unpack(packed: Words, key: Array, value: Floats) -> None:
    """Undo `pack`."""
    bits = value.view(np.uint32)
    for i in range(len(packed)):
        key[i], bits[i] = packed[i] >> np.uint64(32), packed[i] & np.uint64(0xFFFFFFFF)


class Summed(NamedTuple):
    """By rising key: count, sum, largest and smallest value."""

    key: Ints
    n: Ints
    sum: Doubles
    high: Floats
    low: Floats


@compiled
def sort_pairs(key: Array, value: Floats, bits: int) -> tuple[Array, Floats]:
    """Sort by the lowest `bits` of unsigned keys, equal ones as they came; both arrays are overwritten."""
    other_key, other_value = np.empty_like(key), np.empty_like(value)
    passes = (bits + _DIGIT - 1) // _DIGIT
    width = (bits + passes - 1) // passes if passes else 0
    mask = np.uint64((1 << width) - 1)
    for turn in range(passes):
        shift = np.uint64(turn * width)
        ends = np.zeros((1 << width) + 1, np.int64)
        for i in range(len(key)):
            ends[np.int64((key[i] >> shift) & mask) + 1] += 1
        for target in range(1 << width):
            ends[target + 1] += ends[target]
        for i in range(len(key)):
            digit = np.int64((key[i] >> shift) & mask)
            at = ends[digit]
            ends[digit] += 1
            other_key[at] = key[i]
            other_value[at] = value[i]
        key, other_key = other_key, key
        value, other_value = other_value, value
    return key, value


@compiled
def sum_sorted(key: Array, value: Floats, into: Summed) -> int:
    """Sum the values of equal keys, which stand together, in their order; returns the number of keys."""
    keys, counts, sums, highs, lows = into
    rows = i = 0
    while i < len(key):
        this, first = key[i], i
        total, high, low = 0.0, value[i], value[i]
        while i < len(key) and key[i] == this:
            total += value[i]
            high, low = max(high, value[i]), min(low, value[i])
            i += 1
        keys[rows], counts[rows], sums[rows], highs[rows], lows[rows] = this, i - first, total, high, low
        rows += 1
    return rows


@compiled
def join(left: Summed, right: Summed, into: Summed) -> int:
    """Merge two by rising key, sum of left and right where both have it; returns the number of keys."""
    lk, ln, ls, lh, ll = left
    rk, rn, rs, rh, rl = right
    keys, counts, sums, highs, lows = into
    rows = i = j = 0
    while i < len(lk) or j < len(rk):
        if j == len(rk) or (i < len(lk) and lk[i] < rk[j]):
            keys[rows], counts[rows], sums[rows], highs[rows], lows[rows] = lk[i], ln[i], ls[i], lh[i], ll[i]
            i += 1
        elif i == len(lk) or rk[j] < lk[i]:
            keys[rows], counts[rows], sums[rows], highs[rows], lows[rows] = rk[j], rn[j], rs[j], rh[j], rl[j]
            j += 1
        else:
            keys[rows], counts[rows], sums[rows] = lk[i], ln[i] + rn[j], ls[i] + rs[j]
            highs[rows], lows[rows] = max(lh[i], rh[j]), min(ll[i], rl[j])
            i += 1
            j += 1
        rows += 1
    return rows


@compiled
def thin(sums: Summed, vocab: int, room: int, dropped: Ints) -> int:
    """Keep the `room` keys of largest |sum| of every side = key // vocab, ties by key; the kept move up in place.

    Adds the counts of the others to `dropped` [sides]; returns the number of keys that are kept.
    """
    keys, counts, totals, highs, lows = sums
    kept = first = 0
    while first < len(keys):
        side = keys[first] // vocab
        last = first
        while last < len(keys) and keys[last] < (side + 1) * vocab:
            last += 1
        bar, ties = -1.0, 0
        if last - first > room:
            ordered = np.sort(np.abs(totals[first:last]))
            bar = ordered[last - first - room]
            ties = room - np.sum(ordered > bar)
        for row in range(first, last):
            strength = abs(totals[row])
            if strength < bar or (strength == bar and ties == 0):
                dropped[side] += counts[row]
                continue
            ties -= strength == bar
            keys[kept], counts[kept], totals[kept] = keys[row], counts[row], totals[row]
            highs[kept], lows[kept] = highs[row], lows[row]
            kept += 1
        first = last
    return kept
