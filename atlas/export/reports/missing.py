"""An atlas -> what its pages cannot show, and the command that would get it: a panel without data is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

_BUILD = 'a build with a corpus measures them: "atlas build RECIPE.toml"'
_WEIGHTS = 'a build measures them from the weights: "atlas build RECIPE.toml"'
# table: (what a person calls it, how to get it); the order is that of the page
_HOW = {
    "labels": (
        "labels",
        '"atlas label rules" makes some without a language model, "atlas label import" brings in those of other tools',
    ),
    "neuron_stats": ("activation statistics", _BUILD),
    "logit_lens": ("tokens that neurons promote and suppress (logit lens)", _WEIGHTS),
    "read_tokens": ("tokens that neurons read", _WEIGHTS),
    "exemplars": ("texts that fire neurons", _BUILD),
    "token_stats": ("tokens that fire neurons", _BUILD),
    "edges": (
        "edges",
        'a build makes them from attribution graphs; "atlas edges add" and "atlas edges project" bring in those of '
        "other tools",
    ),
    "clusters": ("modules", '"atlas cluster ATLAS" finds them in the edges'),
    "wiring": ("wiring", _WEIGHTS),
    "pruning": ("pruning scores", _BUILD),
}  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """A table without rows: what it holds and how to get it."""

    table: str
    what: str
    how: str


def missing_panels(atlas: Atlas) -> tuple[Missing, ...]:
    """The tables behind panels that have no row in this atlas, in the order of the page."""
    empty = [table for table in _HOW if not atlas.free(f"SELECT 1 FROM {table} LIMIT 1", {}).fetchall()]
    return tuple(Missing(table, *_HOW[table]) for table in empty)
