"""An atlas's pruning scores, or neurons that a person names -> which neurons of each layer are to go, and why these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from atlas.errors import InputError, StoreError
from atlas.query.impacts import chosen_neurons
from atlas.query.pruning import Ranking, prune

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

Ints = npt.NDArray[np.int64]
SHARE = 10.0  # percent, as the threshold of "atlas prune"


@dataclass(frozen=True)
class Wanted:
    """Which neurons are to go: named ones (`neurons`, `sql`), a share of the scored ones, or so many of each layer.

    `per_layer` and `equalise` take the safest of each layer by `ranking`, so that every layer loses as many.
    """

    share: float | None = None  # percent; None: SHARE, where neither neurons nor per_layer say otherwise
    per_layer: int | None = None
    neurons: tuple[str, ...] | None = None  # ids and selectors (selector.py)
    sql: str | None = None  # a SELECT with columns layer and neuron
    equalise: bool = False  # as many of each layer as the layer with the fewest has
    ranking: Ranking = field(default_factory=Ranking)

    def __post_init__(self) -> None:
        if self.share is not None and (self.named or self.per_layer is not None):
            raise InputError("--share, --per-layer and named neurons are three ways to choose; --share goes alone")
        if self.share is not None and not 0 < self.share < 100:
            raise InputError(f"a share of {self.share} percent cannot go; give more than 0 and less than 100")
        if self.per_layer is not None and self.per_layer < 1:
            raise InputError(f"{self.per_layer} neurons of each layer is nothing to remove; give at least 1")
        if self.per_layer is not None and self.equalise:
            raise InputError("--per-layer says how many of each layer go; leave out --equalise")

    @property
    def named(self) -> bool:
        """Whether a person names the neurons."""
        return self.neurons is not None or self.sql is not None


@dataclass(frozen=True)
class Choice:
    """Indices to remove by layer, ascending, and where they come from; method and eval_id are None without scores."""

    removed: tuple[Ints, ...]
    how: str
    method: str | None
    eval_id: str | None


def choose(atlas: Atlas, wanted: Wanted) -> Choice:
    """Decide which neurons go.

    Raises InputError for neurons that are not there, a layer with fewer neurons than asked for, and a choice of none;
    StoreError for an atlas without pruning scores where they decide.
    """
    given = _mask(atlas, chosen_neurons(atlas, neurons=wanted.neurons, sql=wanted.sql)) if wanted.named else None
    if given is not None and wanted.per_layer is None and not wanted.equalise:
        return Choice(_by_layer(given), f"{int(given.sum())} named neurons", None, None)
    score, candidate, method, eval_id = _scores(atlas, wanted)
    pool = candidate if given is None else given
    if wanted.per_layer is None and not wanted.equalise:
        how = f"the {_number(wanted.share)}% safest by {method}, {_where(wanted.ranking)}"
        return Choice(_by_layer(pool), how, method, eval_id)
    count = _count(wanted, pool)
    source = "named neurons" if given is not None else "candidates" if wanted.equalise else "neurons"
    return Choice(
        _safest(score, pool, count), f"the {count} safest {source} of each layer by {method}", method, eval_id
    )


def _mask(atlas: Atlas, ids: Sequence[int]) -> npt.NDArray[np.bool_]:
    found = np.zeros(atlas.layers * atlas.d_mlp, dtype=np.bool_)
    found[list(ids)] = True
    return found.reshape(atlas.layers, atlas.d_mlp)


def _scores(atlas: Atlas, wanted: Wanted) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], str, str | None]:
    """pruning_score [layers, d_mlp] (NaN: none), which neurons may go without being named, method and eval_id."""
    share = SHARE if wanted.share is None else wanted.share
    table = prune(atlas, threshold=share, everything=True, limit=None, ranking=wanted.ranking).arrow()
    if not len(table):
        raise StoreError(
            f"{atlas.name} has no pruning scores, so it cannot say which neurons are safest; build it with weights "
            "and gradients, or name the neurons with --neurons"
        )
    layer, neuron = (table[name].to_numpy() for name in ("layer_index", "neuron_index"))
    score = np.full((atlas.layers, atlas.d_mlp), np.nan)
    score[layer, neuron] = table["pruning_score"].cast("float64").to_numpy(zero_copy_only=False)
    may = np.zeros(score.shape, dtype=np.bool_)
    may[layer, neuron] = table["is_pruning_candidate"].to_numpy(zero_copy_only=False)
    if wanted.per_layer is not None:
        may = ~np.isnan(score)
    return score, may, table["score_method"][0].as_py(), table["eval_id"][0].as_py()


def _count(wanted: Wanted, pool: npt.NDArray[np.bool_]) -> int:
    """How many go of every layer; InputError where a layer has not as many."""
    there = pool.sum(1)
    fewest = int(there.argmin())
    if wanted.per_layer is None and not there[fewest]:
        raise InputError(
            f"layer {fewest} has none of these neurons, so an equal number of each layer is none; leave out --equalise"
        )
    if wanted.per_layer is not None and there[fewest] < wanted.per_layer:
        raise InputError(
            f"layer {fewest} has {there[fewest]} of these neurons, {wanted.per_layer} of each layer are asked for"
        )
    return int(there[fewest]) if wanted.per_layer is None else wanted.per_layer


def _safest(score: npt.NDArray[np.float64], pool: npt.NDArray[np.bool_], count: int) -> tuple[Ints, ...]:
    """The `count` of each layer's pool with the highest score; ties by index, neurons without a score last."""
    value = np.where(pool, np.nan_to_num(score, nan=-1.0), -2.0)
    return tuple(np.sort(np.argsort(-row, kind="stable")[:count]).astype(np.int64) for row in value)


def _by_layer(mask: npt.NDArray[np.bool_]) -> tuple[Ints, ...]:
    if not mask.any():
        raise InputError("no neuron is to go; name some, or give a larger --share")
    return tuple(np.flatnonzero(row).astype(np.int64) for row in mask)


def _number(share: float | None) -> str:
    return f"{SHARE if share is None else share:g}"


def _where(ranking: Ranking) -> str:
    return "of each layer" if ranking.scope == "layer" else "of all layers together"
