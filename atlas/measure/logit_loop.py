"""One pass over changes of logits -> the sums of logit_sums.py, compiled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from atlas.compiled import vectorised

_ONE, _ZERO = np.float32(1), np.float32(0)
# (exp(x) - 1 - x) / x^2 = sum x^k / (k + 2)!; up to |x| = 1 what follows the 9th term is 5e-8 of it
_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8 = (np.float32(1 / math.factorial(k + 2)) for k in range(9))

# The order of additions moves a KL by 1e-7 of itself. A running maximum would keep the loop from being vectorised (1.0
# instead of 2.8 ns a logit), so what is over a bound is counted instead.


@vectorised
def _sums(e: Any, base: Any, p: Any, centre: Any, bound: Any) -> Any:
    """Of one row [c]: sum p x, sum p (exp(x) - 1 - x), how many x + base are over `bound`, how many |x| over 1."""
    first, second, over, far = _ZERO, _ZERO, _ZERO, _ZERO
    for i in range(len(e)):
        x = e[i] - centre
        px = p[i] * x
        first += px
        second += px * x * (
            _T0 + x * (_T1 + x * (_T2 + x * (_T3 + x * (_T4 + x * (_T5 + x * (_T6 + x * (_T7 + x * _T8)))))))
        )  # fmt: skip
        over += _ONE if x + base[i] > bound else _ZERO
        far += _ONE if x * x > _ONE else _ZERO
    return first, second, over, far


@vectorised
def _far_sums(e: Any, p: Any, centre: Any) -> Any:
    """The first two of any x, in float64."""
    first, second = 0.0, 0.0
    for i in range(len(e)):
        x = np.float64(e[i] - centre)
        first += p[i] * x
        second += p[i] * (math.expm1(x) - x)
    return first, second


@vectorised
def add_rows(  # noqa: PLR0917
    e: Any, base: Any, p: Any, centre: Any, bound: Any, first: Any, second: Any, over: Any, rows: Any
) -> None:
    """Add rows[0]..rows[1] of e [R, c] to first, second and over [R] (float64); row r is of position r % P.

    `bound` [P]: the logit of the model's most likely token.
    """
    for r in range(rows[0], rows[1]):
        q = r % len(base)
        a, b, more, far = _sums(e[r], base[q], p[q], centre[r], bound[q])
        if far > 0:
            wide = _far_sums(e[r], p[q], centre[r])
            first[r] += wide[0]
            second[r] += wide[1]
        else:
            first[r] += a
            second[r] += b
        over[r] += more
