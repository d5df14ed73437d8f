"""Stored numbers -> sums of their magnitudes, block by block, in one order of additions.

A block of 65,536 numbers is summed in float64 by numpy; blocks are joined by math.fsum, which rounds once. So a sum
depends neither on the number of threads nor on how much is read at a time. The passes over a block take 1 ns a number
(compiled loops 0.4, but 0.8 s to start, which is six times what the numbers of GPT-2 small take).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from atlas.models.stored import FLOATS

BLOCK = 1 << 16  # numbers: 0.5 MB in float64, which stay in a core's own cache from reading to the last sum
_NO_SIGN = 0x7FFFFFFF  # of a float32
_EVEN = 1e-4  # variance over mean square below which the squares alone would lose digits: a second pass over the block

Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


class Scratch(NamedTuple):
    """Memory of one thread, BLOCK numbers of each width."""

    raw: Bytes
    narrow: npt.NDArray[np.uint32]
    wide: Doubles


class BlockSums(NamedTuple):
    """Of one block: numbers, those that are not 0, sums of |w|, w^2 and (|w| - their mean)^2, smallest, largest |w|."""

    size: int
    non_zero: int
    total: float
    squares: float
    spread: float
    low: float
    high: float  # NaN or infinite when an entry is


class Magnitudes(NamedTuple):
    """Statistics of |w| over a tensor; the standard deviation is of all its entries, l2 is the Frobenius norm."""

    total_parameters: int
    non_zero_parameters: int
    sparsity: float
    mean_magnitude: float
    std_magnitude: float
    min_magnitude: float
    max_magnitude: float
    l1_norm: float
    l2_norm: float


def new_scratch() -> Scratch:
    """Memory for `block_sums`."""
    return Scratch(np.empty(8 * BLOCK, np.uint8), np.empty(BLOCK, np.uint32), np.empty(BLOCK))


def block_sums(scratch: Scratch, count: int, dtype: str) -> BlockSums:
    """Sum the `count` numbers, at most BLOCK, whose bytes stand in scratch.raw, in a dtype of stored.FLOATS."""
    sizes = _magnitudes(scratch, count, dtype)
    bits = sizes.view(f"u{sizes.itemsize}")  # in the order of magnitudes, and compared faster; NaN is the largest
    low, high = sizes.view(bits.dtype).min(), bits.max()
    non_zero = count if low else int(np.count_nonzero(bits))
    ends = np.array([low, high]).view(sizes.dtype)
    wide = scratch.wide[:count]
    with np.errstate(invalid="ignore"):  # a NaN is told by `high`
        np.copyto(wide, sizes)
    total, squares = float(wide.sum()), float(np.einsum("i,i->", wide, wide))
    spread = squares - total * total / count
    if spread < _EVEN * squares:
        wide -= total / count
        spread = float(np.einsum("i,i->", wide, wide))
    return BlockSums(count, non_zero, total, squares, spread, float(ends[0]), float(ends[1]))


def joined(blocks: Sequence[BlockSums]) -> Magnitudes:
    """Statistics of a tensor from its blocks, in any order; not finite where an entry is not."""
    count, non_zero = sum(b.size for b in blocks), sum(b.non_zero for b in blocks)
    total, squares = _exact(b.total for b in blocks), _exact(b.squares for b in blocks)
    mean = total / count
    between = (b.spread + b.size * (b.total / b.size - mean) ** 2 for b in blocks)
    return Magnitudes(
        total_parameters=count,
        non_zero_parameters=non_zero,
        sparsity=1 - non_zero / count,
        mean_magnitude=mean,
        std_magnitude=math.sqrt(_exact(between) / count),
        min_magnitude=min(b.low for b in blocks),
        max_magnitude=max((b.high for b in blocks), key=lambda high: (math.isnan(high), high)),
        l1_norm=total,
        l2_norm=math.sqrt(squares),
    )


def _magnitudes(scratch: Scratch, count: int, dtype: str) -> Array:
    """|w| in float32, which holds every narrower number exactly; in float64 for that."""
    raw, bits = scratch.raw[: count * FLOATS[dtype]], scratch.narrow[:count]
    floats: Array = bits.view(np.float32)
    if dtype == "F64":
        floats = scratch.wide[:count]
        np.abs(raw.view(np.float64), out=floats)
    elif dtype == "F32":
        np.bitwise_and(raw.view(np.uint32), _NO_SIGN, out=bits)
    elif dtype == "BF16":
        np.left_shift(raw.view(np.uint16), np.uint32(16), out=bits)
        np.bitwise_and(bits, _NO_SIGN, out=bits)
    else:
        codes: npt.NDArray[np.unsignedinteger[Any]] = raw.view(np.uint16) if dtype == "F16" else raw
        np.take(_table(dtype), codes, out=floats, mode="clip")
    return floats


@cache
def _table(dtype: str) -> npt.NDArray[np.float32]:
    """|w| of every code of a type of 16 or 8 bits."""
    codes = np.arange(1 << 16 if dtype == "F16" else 256)
    if dtype == "F16":
        return np.abs(codes.astype(np.uint16).view(np.float16).astype(np.float32))
    if dtype == "F8_E5M2":  # the upper half of a float16
        return np.abs((codes << 8).astype(np.uint16).view(np.float16).astype(np.float32))
    exponent, mantissa = codes >> 3 & 15, codes & 7  # E4M3: bias 7, no infinity, one NaN of each sign
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    size[codes & 127 == 127] = np.nan
    return size.astype(np.float32)


def _exact(numbers: Iterable[float]) -> float:
    held = list(numbers)
    return math.fsum(held) if all(map(math.isfinite, held)) else math.nan  # fsum refuses what it cannot add
