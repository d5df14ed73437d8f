"""A seed and a size -> an atlas with a planted two-level hierarchy of modules, straight as a file, for benches.

Every neuron belongs to a sub-module (about 40 neurons over all layers) of a top module (Zipf sizes). Of its edges,
which go to later layers, about half stay in the sub-module (strong), a quarter in the top module (weaker) and a quarter
go anywhere (weak), mostly to popular neurons, so some targets have many thousand sources. The planted modules are the
clustering "planted", which is primary; each sub-module has words of its own in its neurons' labels and tokens of its
own at its token ends.

    python scripts/bench/planted_atlas.py FILE --size small|olmo|qwen --seed 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas.compiled import compiled
from atlas.ingest.edge_sides import derive_sides
from atlas.ingest.neurons import assemble_clusters, assemble_neurons
from atlas.ingest.partitions import Clustering, Placed, write_clustering
from atlas.store.connection import Limits, open_writer
from atlas.store.ledger import set_metadata
from atlas.store.schema import apply_schema, store_macros
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_arrow, append_from_query, replace_from_query, transaction
from atlas.tables import TABLES

Ints = npt.NDArray[np.int64]
SUB = 40  # neurons of a sub-module, about
WORDS, TOKENS = 4096, 50_000
GRAPHS, NODES = 20_000, 100  # attribution graphs listed, and neurons of each
SIGNS = 0.7  # share of positive edges
_FIRED = """
    SELECT layer, neuron, 1000000 AS n_tokens, sum(n)::BIGINT AS n_fired_pos, 0 AS n_fired_neg, max("max") AS "max"
    FROM token_stats GROUP BY layer, neuron ORDER BY layer, neuron"""


@dataclass(frozen=True)
class Shape:
    """How large the model is and how many draws of each kind a neuron makes (fewer edges: repeated pairs are one)."""

    name: str
    layers: int
    width: int
    inside: float  # share of the possible edges of a sub-module that are there
    draws: float  # in the top module, and as many anywhere

    @property
    def neurons(self) -> int:
        """All of them."""
        return self.layers * self.width


SIZES = {
    "small": Shape("small", 8, 512, 0.45, 5.2),
    "olmo": Shape("olmo", 32, 11_008, 0.45, 5.6),
    "qwen": Shape("qwen", 64, 25_600, 0.9, 17.6),
}


@dataclass(frozen=True)
class Plan:
    """Modules of all neurons: `sub` and `top` by packed id, and the members of each in ascending order."""

    shape: Shape
    seed: int
    sub: Ints
    top: Ints
    by_sub: tuple[Ints, Ints]  # first member of each module in the list, the list
    by_top: tuple[Ints, Ints]


def plan(shape: Shape, seed: int) -> Plan:
    """Draw the modules."""
    dice = np.random.default_rng(seed)
    n_sub = max(4, shape.neurons // SUB)
    n_top = max(2, n_sub // 25)
    chance = (np.arange(n_top) + 5.0) ** -0.7
    top_of_sub = np.sort(np.concatenate([np.arange(n_top), dice.choice(n_top, n_sub - n_top, p=chance / chance.sum())]))
    sub = dice.integers(0, n_sub, shape.neurons)
    top = top_of_sub[sub]
    return Plan(shape, seed, sub, top, _members(sub, n_sub), _members(top, n_top))


def write_planted(file: Path, shape: Shape, *, seed: int = 1, limits: Limits | None = None) -> dict[str, Any]:
    """Write the atlas; seconds of each step and the rows of edges."""
    made, begun, seconds = plan(shape, seed), time.perf_counter(), {}
    con = open_writer(file, limits=limits)
    try:
        apply_schema(con, d_mlp=shape.width)
        _describe(con, made)
        steps = {"edges": _edges, "reverse": _reverse, "modules": _modules, "evidence": _evidence, "neurons": _neurons}
        for name, step in steps.items():
            with transaction(con):
                step(con, made)
            seconds[name], begun = time.perf_counter() - begun, time.perf_counter()
        store_macros(con)
        con.execute("CHECKPOINT atlas")
        edges = con.execute("SELECT count(*), sum((count >= 5)::INTEGER) FROM edges").fetchall()[0]
        return {"seconds": seconds, "edges": edges[0], "edges_of_count_5": int(edges[1])}
    finally:
        con.close()


def _members(module: Ints, n: int) -> tuple[Ints, Ints]:
    order = np.argsort(module, kind="stable")
    return np.searchsorted(module[order], np.arange(n + 1)), order


def _edges(con: duckdb.DuckDBPyConnection, made: Plan) -> None:
    for layer in range(made.shape.layers - 1):
        append_from_arrow(con, "edges", _layer_edges(made, layer))


def _layer_edges(made: Plan, layer: int) -> pa.Table:
    """Edges out of one layer, by (src, tgt), with statistics that observations could have."""
    shape = made.shape
    room = int(shape.width * (SUB * 2 + 4 * shape.draws))
    src, tgt, kind = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int8)
    n = _draw_layer(
        (layer, shape.layers, shape.width, made.seed), (shape.inside, shape.draws),
        (made.sub, *made.by_sub), (made.top, *made.by_top), (src, tgt, kind),
    )  # fmt: skip
    src, tgt, kind = src[:n], tgt[:n], kind[:n]
    dice = np.random.default_rng([made.seed, 7, layer])
    count = np.minimum(3 + ((dice.random(n) ** -0.6 - 1) * 6.78).astype(np.int64), 700_000)
    mean = np.array([1.0, 0.3, 0.1])[kind] * np.exp(0.5 * dice.standard_normal(n)) * 0.01
    sign = np.where(dice.random(n) < SIGNS, 1.0, -1.0) * (0.6 + 0.4 * dice.random(n))
    spread = 0.5 * mean
    values = {
        "src": src, "tgt": tgt, "src_layer": np.full(n, layer), "src_neuron": src % shape.width, "count": count,
        "n_graphs": np.maximum(1, (count * 0.8).astype(np.int64)), "weight_sum": sign * mean * count,
        "weight_abs_sum": mean * count, "weight_sq_sum": (mean**2 + spread**2) * count,
        "weight_min": sign * mean - 2 * spread, "weight_max": sign * mean + 2 * spread,
    }  # fmt: skip
    schema = pa.schema([TABLES["edges"].field(name) for name in values])
    return pa.table([pa.array(v).cast(schema.field(k).type) for k, v in values.items()], schema=schema)


@compiled
def _draw_layer(size: Any, how: Any, sub: Any, top: Any, out: Any) -> int:
    layer, layers, width, seed = size
    inside, draws = how
    sub_of, sub_first, sub_list = sub
    top_of, top_first, top_list = top
    srcs, tgts, kinds = out
    np.random.seed(seed * 1000 + layer)
    later, n = (layer + 1) * width, 0
    buffer = np.empty(65536, np.int64)
    for source in range(layer * width, later):
        m = 0
        first, last = sub_first[sub_of[source]], sub_first[sub_of[source] + 1]
        at = first + np.searchsorted(sub_list[first:last], later)
        for i in range(at, last):
            if np.random.random() < inside:
                buffer[m] = sub_list[i] * 4
                m += 1
        activity = np.exp(0.6 * np.random.standard_normal() - 0.18)
        wanted = np.random.poisson(draws * activity)
        first, last = top_first[top_of[source]], top_first[top_of[source] + 1]
        at = first + np.searchsorted(top_list[first:last], later)
        for _ in range(wanted if last > at else 0):
            buffer[m] = top_list[at + np.random.randint(0, last - at)] * 4 + 1
            m += 1
        for _ in range(wanted):
            to = layer + 1 + np.random.randint(0, layers - 1 - layer)
            buffer[m] = (to * width + np.int64(width * np.random.random() ** 4)) * 4 + 2
            m += 1
        found = np.sort(buffer[:m])
        for i in range(m):
            if i == 0 or found[i] >> 2 != found[i - 1] >> 2:
                srcs[n], tgts[n], kinds[n] = source, found[i] >> 2, found[i] & 3
                n += 1
    return n


def _reverse(con: duckdb.DuckDBPyConnection, made: Plan) -> None:
    derive_sides(con)


def _modules(con: duckdb.DuckDBPyConnection, made: Plan) -> None:
    at = np.arange(len(made.sub))
    lowest = np.full(made.top.max() + 1, len(at))
    np.minimum.at(lowest, made.top, made.sub)
    rank = made.sub - lowest[made.top]  # sub-modules of one top module have consecutive numbers
    lonely = np.bincount(made.sub)[made.sub] == 1
    paths = np.char.add((made.top + 1).astype(str), np.where(lonely, "", np.char.add(".", (rank + 1).astype(str))))
    flow = np.full(len(at), 1.0 / len(at))
    write_clustering(
        con, Clustering("planted", "planted", {"seed": made.seed}), Placed(at, paths, flow), d_mlp=made.shape.width
    )
    set_metadata(con, {"primary_clustering": "planted"})


def _evidence(con: duckdb.DuckDBPyConnection, made: Plan) -> None:
    vocab = {"token_id": np.arange(TOKENS), "token": [f" w{i}" for i in range(TOKENS)], "count": np.arange(TOKENS) + 1}
    append_from_arrow(con, "vocab", _table("vocab", vocab))
    for layer in range(made.shape.layers):
        append_from_arrow(con, "labels", _labels(made, layer))
        append_from_arrow(con, "token_stats", _firings(made, layer))
    append_from_query(con, "neuron_stats", _FIRED)
    for part in _token_edges(made):
        append_from_arrow(con, "token_edges", part)
    graphs, members = _graphs(made)
    append_from_arrow(con, "graphs", graphs)
    append_from_arrow(con, "neuron_graphs", members)


def _neurons(con: duckdb.DuckDBPyConnection, made: Plan) -> None:
    replace_from_query(con, "appearances", sql_text("ingest", "appearances"))
    assemble_neurons(con, layers=made.shape.layers)
    assemble_clusters(con)


def _labels(made: Plan, layer: int) -> pa.Table:
    """Two words of the sub-module, one of the top module, two of nothing."""
    width, dice = made.shape.width, np.random.default_rng([made.seed, 11, layer])
    ids = np.arange(layer * width, (layer + 1) * width)
    loose = (WORDS * dice.random((2, width)) ** 3).astype(np.int64)
    words = np.array([f"word{i}" for i in range(WORDS)])
    parts = [words[made.sub[ids] % WORDS], words[made.sub[ids] * 31 % WORDS], words[made.top[ids] * 17 % WORDS]]
    text = [" ".join(row) for row in zip(*parts, words[loose[0]], words[loose[1]], strict=True)]
    same = {
        "pass": "autointerp", "polarity": 0, "status": "ok", "source": "import:planted", "type": "lexical",
        "interpretability": "high", "confidence": "planted", "model": "planted", "run": "planted",
    }  # fmt: skip
    drawn = {"layer": np.full(width, layer), "neuron": ids % width, "label": text}
    return _table("labels", drawn | {name: [value] * width for name, value in same.items()})


def _firings(made: Plan, layer: int) -> pa.Table:
    """Four tokens a neuron: two of its sub-module, two of nothing."""
    width, dice = made.shape.width, np.random.default_rng([made.seed, 13, layer])
    ids = np.repeat(np.arange(layer * width, (layer + 1) * width), 4)
    own = np.column_stack([made.sub[ids[::4]] % TOKENS, made.sub[ids[::4]] * 7 % TOKENS])
    tokens = np.column_stack([own, (TOKENS * dice.random((width, 2)) ** 2).astype(np.int64)]).ravel()
    fresh = np.sort(ids * TOKENS + tokens)
    fresh = fresh[np.append(True, np.diff(fresh) > 0)]
    ids, tokens, n = fresh // TOKENS, fresh % TOKENS, dice.integers(1, 50, len(fresh))
    most = dice.random(len(fresh)) + 0.5
    drawn = {
        "layer": ids // width, "neuron": ids % width, "polarity": np.ones(len(ids), np.int8), "token_id": tokens,
        "n": n, "sum": most * n * 0.8, "max": most, "min": most * 0.6,
    }  # fmt: skip
    return _table("token_stats", drawn)


def _token_edges(made: Plan) -> Iterator[pa.Table]:
    """Two tokens feed every neuron of the first quarter of the layers, the last quarter writes to two."""
    width, layers = made.shape.width, made.shape.layers
    spans = {"embedding": range(layers // 4), "logit": range(layers - layers // 4, layers)}
    for kind, span in spans.items():
        ids = np.repeat(np.arange(span.start * width, span.stop * width), 2)
        dice = np.random.default_rng([made.seed, 17, span.start])
        loose = (TOKENS * dice.random(len(ids)) ** 2).astype(np.int64)
        tokens = np.where(np.arange(len(ids)) % 2 == 0, made.sub[ids] % TOKENS, loose)
        fresh = np.sort(ids * TOKENS + tokens)
        fresh = fresh[np.append(True, np.diff(fresh) > 0)]
        ids, tokens, count = fresh // TOKENS, fresh % TOKENS, dice.integers(3, 100, len(fresh))
        mean = 0.01 * np.exp(0.5 * dice.standard_normal(len(fresh)))
        sign = np.where(dice.random(len(fresh)) < SIGNS, 1.0, -1.0)
        drawn = {
            "kind": [kind] * len(ids), "token_id": tokens, "layer": ids // width, "neuron": ids % width, "count": count,
            "n_graphs": np.maximum(1, count // 2), "weight_sum": sign * mean * count, "weight_abs_sum": mean * count,
            "weight_sq_sum": mean**2 * count * 1.25, "weight_min": sign * mean - mean, "weight_max": sign * mean + mean,
        }  # fmt: skip
        yield _table("token_edges", drawn)


def _graphs(made: Plan) -> tuple[pa.Table, pa.Table]:
    """Graphs whose neurons come from three sub-modules and from anywhere."""
    dice, width = np.random.default_rng([made.seed, 19]), made.shape.width
    first, members = made.by_sub
    subs = np.repeat(dice.integers(0, len(first) - 1, (GRAPHS, 3)), NODES // 4, axis=1)
    size = np.maximum(first[subs + 1] - first[subs], 1)
    near = members[np.minimum(first[subs] + (size * dice.random(subs.shape)).astype(np.int64), len(members) - 1)]
    far = dice.integers(0, made.shape.neurons, (GRAPHS, NODES - near.shape[1]))
    pairs = np.unique((np.column_stack([near, far]) * GRAPHS + np.arange(GRAPHS)[:, None]).ravel())
    ids, graph = pairs // GRAPHS, pairs % GRAPHS
    contained = {
        "layer": ids // width, "neuron": ids % width, "graph_id": graph, "positions": np.ones(len(ids), np.int32),
        "relevance": dice.standard_normal(len(ids)) * 0.1, "explained": np.full(len(ids), 0.7),
    }  # fmt: skip
    nodes = np.bincount(graph, minlength=GRAPHS)
    tokens = dice.integers(0, TOKENS, (GRAPHS, 8))
    drawn = {
        "graph_id": np.arange(GRAPHS), "document": np.arange(GRAPHS), "metric": ["logit"] * GRAPHS,
        "prompt": [" ".join(f"w{t}" for t in row) for row in tokens], "token_ids": list(tokens.astype(np.int32)),
        "metric_value": dice.random(GRAPHS) * 10, "targets": [[int(t)] for t in tokens[:, -1]],
        "target_position": np.full(GRAPHS, 7), "tau": np.full(GRAPHS, 0.005), "n_nodes": nodes, "n_edges": nodes * 13,
        "nodes_dropped": np.zeros(GRAPHS), "relevance_dropped": np.zeros(GRAPHS), "explained": np.full(GRAPHS, 0.7),
        "remainder": np.full(GRAPHS, 0.3), "completeness_residual": np.full(GRAPHS, 1e-7),
        "edge_method": ["relp_direct"] * GRAPHS, "dtype": ["float32"] * GRAPHS,
    }  # fmt: skip
    return _table("graphs", drawn), _table("neuron_graphs", contained)


def _describe(con: duckdb.DuckDBPyConnection, made: Plan) -> None:
    shape = made.shape
    text = (
        f"seed {made.seed}: sub-modules of about {SUB} neurons, the leaves of clustering planted, in top modules of "
        f"Zipf sizes; {shape.inside:.0%} of the possible edges of a sub-module, {shape.draws} draws a neuron in the "
        "top module and as many anywhere; mean |F| about 0.01, 0.003 and 0.001"
    )
    set_metadata(con, {
        "model": f"planted {shape.name}", "num_layers": shape.layers, "neurons_per_layer": shape.width, "planted": text,
        "edge_method": "relp_direct", "edge_truncation": "none", "min_edge_count": 3, "seeds": f"planted {made.seed}",
        "corpora": "none: drawn", "edge_unit_type": "mlp_neuron",
    })  # fmt: skip


def _table(name: str, values: dict[str, Any]) -> pa.Table:
    schema = TABLES[name]
    n = len(next(iter(values.values())))
    columns = [pa.array(values[f.name]).cast(f.type) if f.name in values else pa.nulls(n, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", default="4GiB")
    args = parser.parse_args()
    args.file.unlink(missing_ok=True)
    print(write_planted(args.file, SIZES[args.size], seed=args.seed, limits=Limits(args.memory, 2)))


if __name__ == "__main__":
    main()
