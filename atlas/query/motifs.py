"""A set of edges -> how often small patterns occur, against edges drawn at random with the same degrees and layers.

Signed counts come from products of sparse matrices: of the loops a -> b -> c, a -> c the sum of sign products is
(coherent - incoherent). The null exchanges targets between edges of one pair of layers, so every neuron keeps the
number of its edges to and from every layer; the sign stays with the edge's source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.selector import Selection, select

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

KINDS = ("ffl", "fan-in", "fan-out", "bi-fan")
MOST_EDGES = 200_000  # a draw takes about 0.3 s there
USUAL_EDGES = 20_000  # strongest edges, where no selection is given
MIXING, BETWEEN = 10, 3  # exchanges tried for each edge before the first draw, and between draws
HEADLINE = ("strength", "src_layer", "src_neuron", "layer", "neuron", "tgt_layer", "tgt_neuron", "coherent")
_FIXED = "the null keeps what each neuron sends with its signs, so fan-out cannot vary under it: its z is NULL"


@dataclass(frozen=True)
class Motifs:
    """Counts with their null, and the strongest feed-forward loops (None for other kinds).

    counts: motif, agreeing (coherent: sign product +), count, null_mean, null_sd, z, p (two-sided, empirical); z is
    NULL where the null never varies.
    """

    edges: int
    counts: list[dict[str, Any]]
    instances: Answer | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts."""
        found = self.instances.rows() if self.instances is not None else []
        return {"edges": self.edges, "counts": self.counts, "instances": found}


def motifs(
    atlas: Atlas,
    selection: Selection | None = None,
    *,
    kind: str | None = None,
    null: int = 100,
    seed: int = 0,
    min_count: int = 1,
    limit: int | None = 20,
) -> Motifs:
    """Count motifs among a selection (None: the 20,000 strongest edges); equal seeds give equal answers."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"unknown motif {kind!r}; use {', '.join(KINDS)}")
    if not 0 <= null <= 10_000 or seed < 0:
        raise InputError(f"a null has 0 to 10000 draws and a seed from 0, not {null} draws with seed {seed}")
    ids = None if selection is None else select(atlas, selection)
    most = USUAL_EDGES if ids is None else None
    empty = atlas.require("edges")
    table = atlas.ask("motif_edges", {"of_ids": ids, "at_least_count": min_count, "max_rows": most}).arrow()
    if table.num_rows > MOST_EDGES:
        raise InputError(f"{table.num_rows:,} edges among these, {MOST_EDGES:,} at most; give fewer or --min-count")
    source, target, sign = (table[name].to_numpy().astype("int64") for name in ("src", "tgt", "sign"))
    kinds = KINDS if kind is None else (kind,)
    rows = _against_null((source, target, sign), kinds, d_mlp=atlas.d_mlp, draws=null, seed=seed)
    values = {"of_ids": ids, "at_least_count": min_count, "max_rows": limit, "max_edges": most}
    loops = atlas.ask("motif_triangles", values, headline=HEADLINE) if "ffl" in kinds else None
    fixed = () if "fan-out" not in kinds else (_FIXED,)
    return Motifs(table.num_rows, rows, loops, empty + atlas.truncation() + fixed)


def count(source: Any, target: Any, sign: Any, kinds: tuple[str, ...]) -> dict[tuple[str, bool], int]:
    """Motifs of each kind whose edges' signs multiply to + (True) and to - (False)."""
    import numpy as np
    from scipy.sparse import csr_array

    ids, places = np.unique(np.concatenate([source, target]), return_inverse=True)
    rows, columns = np.split(places, 2)
    signed = csr_array((sign, (rows, columns)), shape=(len(ids), len(ids)), dtype=np.int64)
    plain = abs(signed)
    ways = {"ffl": _loops, "fan-in": _fans_in, "fan-out": _fans_out, "bi-fan": _bi_fans}
    found: dict[tuple[str, bool], int] = {}
    for kind in kinds:
        total, difference = ways[kind](plain, signed)
        found[kind, True], found[kind, False] = (total + difference) // 2, (total - difference) // 2
    return found


def _loops(plain: Any, signed: Any) -> tuple[int, int]:
    return int((plain @ plain).multiply(plain).sum()), int((signed @ signed).multiply(signed).sum())


def _fans_in(plain: Any, signed: Any) -> tuple[int, int]:
    degree, net = plain.sum(axis=0), signed.sum(axis=0)
    return int((degree * (degree - 1) // 2).sum()), int(((net * net - degree) // 2).sum())


def _fans_out(plain: Any, signed: Any) -> tuple[int, int]:
    return _fans_in(plain.T, signed.T)


def _bi_fans(plain: Any, signed: Any) -> tuple[int, int]:
    """Two sources with two targets in common: n shared targets of net sign c give n(n-1)/2 and (c*c - n)/2."""
    from scipy.sparse import triu

    shared, net = triu(plain @ plain.T, k=1).tocsr(), triu(signed @ signed.T, k=1).tocsr()
    total = (shared.data * (shared.data - 1) // 2).sum()
    return int(total), int(((net.data**2).sum() - shared.data.sum()) // 2)


def _against_null(edges: Any, kinds: tuple[str, ...], *, d_mlp: int, draws: int, seed: int) -> list[dict[str, Any]]:
    import numpy as np

    if len(edges[0]) == 0:
        return [_row(key, 0, np.zeros(0)) for kind in kinds for key in ((kind, True), (kind, False))]
    source, target, sign = edges
    seen = count(source, target, sign, kinds)
    draw = rewired(source, target, sign, d_mlp=d_mlp, draws=draws, seed=seed)
    drawn = [count(a, b, signs, kinds) for a, b, signs in draw]
    return [_row(key, value, np.array([d[key] for d in drawn], dtype=float)) for key, value in seen.items()]


def rewired(
    source: Any, target: Any, sign: Any, *, d_mlp: int, draws: int, seed: int
) -> Iterator[tuple[Any, Any, Any]]:
    """Draws of the null, one after another: (source, target, sign) of as many edges."""
    import numpy as np

    from atlas.query.rewiring import swap

    pair = (source // d_mlp << 32) + target // d_mlp
    order = np.lexsort((target, source, pair))
    source, target, sign, pair = source[order], target[order].copy(), sign[order], pair[order]
    group = np.stack([np.searchsorted(pair, pair, side) for side in ("left", "right")], axis=1)
    width = int(max(source.max(), target.max())) + 1
    seeds = np.random.SeedSequence(seed).generate_state(max(draws, 1))
    for draw in range(draws):
        tries = (MIXING if draw == 0 else BETWEEN) * len(source)
        swap(source, target, group, tries, width, int(seeds[draw]))
        yield source, target.copy(), sign


def _row(key: tuple[str, bool], value: int, null: Any) -> dict[str, Any]:
    kind, agreeing = key
    row: dict[str, Any] = {"motif": kind, "agreeing": agreeing, "count": value}
    if len(null) == 0:
        return row | {"null_mean": None, "null_sd": None, "z": None, "p": None}
    mean, spread = float(null.mean()), float(null.std(ddof=1)) if len(null) > 1 else 0.0
    tail = min((null >= value).sum(), (null <= value).sum())
    z = (value - mean) / spread if spread > 0 else None
    return row | {"null_mean": mean, "null_sd": spread, "z": z, "p": min(1.0, 2 * float(1 + tail) / (1 + len(null)))}
