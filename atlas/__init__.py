"""atlas: a transformer's MLP neurons as a queryable database.

Importing atlas loads neither torch nor polars nor duckdb; `atlas.open` does what it needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import AtlasError, InputError, ModelError, StoreError
from atlas.neuron import ModelSpec, NeuronId

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas
    from atlas.query.selector import N

__version__ = "0.1.0"
__all__ = ["Atlas", "AtlasError", "InputError", "ModelError", "ModelSpec", "N", "NeuronId", "StoreError", "open"]


def open(path: str | Path) -> Atlas:
    """Open an atlas file read-only; the answer's methods are the questions of the query layer."""
    from atlas.query.atlas import Atlas

    return Atlas(path)


def __getattr__(name: str) -> object:
    if name == "Atlas":
        from atlas.query.atlas import Atlas

        return Atlas
    if name == "N":
        from atlas.query.selector import N

        return N
    raise AttributeError(f"module 'atlas' has no attribute {name!r}")
