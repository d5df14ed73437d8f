"""A Python loop over arrays -> machine code: at its first call, without the interpreter's lock, cached on disk.

Imported only where numbers are many (numba, of the extra `build`, takes 0.3 s to load).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function; no fast-math, so a result is the same on every processor for one order of additions."""
    made: Function = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return made


def vectorised(function: Function) -> Function:
    """As `compiled`, but additions may take the order of the processor's vectors: last digits differ between them."""
    order = {"reassoc", "nsz", "contract"}
    made: Function = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=order)(function)
    return made
