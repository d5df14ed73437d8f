"""Graph questions on a planted atlas: latency cold and warm, rows, answers checked; then clustering against Infomap.

The atlas (planted_atlas.py) has 352,256 neurons and 6.8M edges; --full 1.64M neurons and 84M edges; --quick 4,096 and
70,000. Each question is asked of 20 neurons or modules spread over the edges: cold = the first one over a new
connection after the file's pages were dropped from the page cache; warm = median of the 20 in a second round, with the
quickest and slowest beside it (quotient, enrichment and circuits: fewer). The checks recompute the answers with numpy,
scipy and igraph from the edges as arrays, without the macros.

Clustering: `atlas cluster run` (Infomap) as a process, against the infomap command of its package on the same link list
with the same seed; time, memory, and how well the planted modules come back (adjusted mutual information).

    python scripts/bench/graph_queries.py --quick
    python scripts/bench/graph_queries.py --full --work FOLDER --keep
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import scipy.sparse
from edges import say, watched
from planted_atlas import SIZES, write_planted

from atlas.query.agreement import agreement_of_overlaps
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, open_reader

REPEATS = 20
MODULE = 100  # neurons
SET = 12  # neurons that common inputs are asked of
FLOAT = 1e-5  # weights are 32-bit

DOWNSTREAM = "SELECT src, tgt, weight_abs_sum FROM edges WHERE src = $id"
UPSTREAM = "SELECT e.* FROM edges_in AS i JOIN edges AS e ON e.src = i.src AND e.tgt = i.tgt WHERE i.tgt = $id"
EMBEDDED = """SELECT (layer * $1 + neuron)::BIGINT AS id, sum(weight_abs_sum::DOUBLE) AS weight FROM token_edges
              WHERE kind = 'embedding' GROUP BY ALL"""

Ints = npt.NDArray[np.int64]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--full", action="store_true", help="1.64M neurons, 84M edges")
    shape.add_argument("--quick", action="store_true", help="4,096 neurons, under 50 s on 2 cores")
    parser.add_argument("--file", type=Path, help="an atlas that planted_atlas.py made already")
    parser.add_argument("--memory", default="4GiB", help="limit of DuckDB")
    parser.add_argument("--only", choices=["queries", "clustering"], help="half of it")
    parser.add_argument("--min-count", type=int, help="of clustering; 3, with --full 5")
    parser.add_argument("--cluster-memory", default="14GiB", help="limit of atlas cluster run")
    parser.add_argument("--work", type=Path, help="where everything is made; a folder of its own is made inside")
    parser.add_argument("--keep", action="store_true", help="leave everything there")
    args = parser.parse_args()
    name = "qwen" if args.full else "small" if args.quick else "olmo"
    folder = Path(tempfile.mkdtemp(prefix="graph_queries_", dir=args.work))
    try:
        found: dict[str, Any] = {}
        file = args.file or folder / f"{name}.duckdb"
        if args.file is None:
            say(f"writing the planted atlas {name}")
            found["planted"] = write_planted(file, SIZES[name], limits=Limits(args.memory, 2))
        if args.only != "clustering":
            found |= queries(file, Limits(args.memory, 2))
        if args.only != "queries":
            least = args.min_count or (5 if args.full else 3)
            found |= clustering(file, folder, least, args.cluster_memory)
        found["machine"] = f"{len(os.sched_getaffinity(0))} cores"
        print(json.dumps(found))
    finally:
        if args.keep:
            say(f"kept in {folder}")
        else:
            shutil.rmtree(folder)


# -- the questions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edges:
    """The edges as arrays, by (src, tgt): what the checks compute from."""

    src: npt.NDArray[np.int32]
    tgt: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    total: npt.NDArray[np.float32]  # weight_sum
    size: npt.NDArray[np.float32]  # weight_abs_sum
    top: Ints  # top module of every neuron
    paths: npt.NDArray[Any]  # module path of every neuron
    embedded: npt.NDArray[np.float64]  # sum of |F| of the token embeddings into every neuron
    width: int
    file: Path

    @property
    def neurons(self) -> int:
        """All of the model."""
        return len(self.top)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """mean_abs_weight."""
        return self.size.astype(np.float64) / self.count

    def out_of(self, node: int) -> slice:
        """The edges of one source."""
        return slice(*np.searchsorted(self.src, [node, node + 1]))

    @cached_property
    def matrix(self) -> Any:
        """weight_sum as scipy.sparse [sources, targets]."""
        first = np.searchsorted(self.src, np.arange(self.neurons + 1))
        return scipy.sparse.csr_array((self.total, self.tgt, first), shape=(self.neurons, self.neurons))


@dataclass(frozen=True)
class Question:
    """One question: what is asked for each value, and whether its answer equals an independent computation."""

    values: list[Any]
    ask: Callable[[Atlas, Any], Any]
    check: Callable[[Edges, Any, Any], bool]
    checked: int = 3  # how many of the values


def queries(file: Path, limits: Limits) -> dict[str, Any]:
    """Time and check every question."""
    edges = read_edges(file)
    say(f"{len(edges.src):,} edges, {edges.neurons:,} neurons")
    asked = questions(edges)
    cold: dict[str, float] = {}
    warm: dict[str, list[float]] = {}
    rows: dict[str, float] = {}
    checked: dict[str, bool] = {}
    for name, question in asked.items():
        cold[name] = first_answer(file, limits, question)
        with Atlas(file, limits=limits) as atlas:
            answers = [question.ask(atlas, value) for value in question.values]
            checked[name] = all(
                question.check(edges, value, answer)
                for value, answer in list(zip(question.values, answers, strict=True))[: question.checked]
            )
            times = [timed(question.ask, atlas, value) for value in question.values]
        rows[name] = statistics.median(map(length, answers))
        warm[name] = [round(x, 2) for x in (min(times), statistics.median(times), max(times))]
        low, middle, high = warm[name]
        right = "equal" if checked[name] else "WRONG"
        say(f"{name:22} warm {middle:10.2f} ms ({low:.2f} to {high:.2f})  cold {cold[name]:9.2f}  "
            f"{rows[name]:8.0f} rows  {right}")  # fmt: skip
    return {
        "warm_ms": {name: middle for name, (_, middle, _) in warm.items()},
        "warm_ms_min_median_max": warm, "cold_ms": cold, "rows": rows, "checked": checked,
        "sizes": {"edges": len(edges.src), "neurons": edges.neurons},
    }  # fmt: skip


def questions(edges: Edges) -> dict[str, Question]:
    """The questions of issue and README, each with its values and its check."""
    n = len(edges.src)
    at = [n * (2 * i + 1) // (2 * REPEATS) for i in range(REPEATS)]
    place = lambda i: tuple(map(int, divmod(int(i), edges.width)))  # noqa: E731
    sources, targets = [place(edges.src[i]) for i in at], [place(edges.tgt[i]) for i in at]
    modules = module_sets(edges)
    ends = [(place(edges.src[i]), place(far_target(edges, i))) for i in at]
    subs = [edges.paths[edges.src[i]] for i in at[:: REPEATS // 5]]
    tops = [str(int(edges.top[edges.src[i]])) for i in at[:: REPEATS // 5]]
    return {
        "downstream_rows": Question(sources, lambda a, v: _rows(a, DOWNSTREAM, v), same_downstream_rows),
        "upstream_rows": Question(targets, lambda a, v: _rows(a, UPSTREAM, v), same_upstream_rows),
        "downstream": Question(sources, lambda a, v: a.ask("edges_from", _of(v)).rows(), same_downstream),
        "upstream": Question(targets, lambda a, v: a.ask("edges_into", _of(v)).rows(), same_upstream),
        "ego_2_hops": Question(sources, lambda a, v: _ego(a.ego(v, hops=2)), same_ego),
        "edges_in_module": Question(modules, lambda a, v: a.edges(v, v, limit=None).rows(), same_between),
        "common_inputs": Question([m[-SET:] for m in modules], lambda a, v: a.common(v).rows(), same_common),
        "similar_out": Question(sources, lambda a, v: a.similar(v, by="out").rows(), same_similar),
        "similar_in": Question(targets, lambda a, v: a.similar(v, by="in").rows(), same_similar_in),
        "strongest_paths": Question(ends, lambda a, v: a.paths(*v, max_hops=5, k=10).rows(), same_paths, 2),
        "circuit": Question(ends[::5], lambda a, v: a.circuit(*v), same_circuit, 1),
        "module_card": Question([*subs, *tops], lambda a, v: a.cluster(v).to_dict(), same_card, 10),
        "quotient_top": Question([1], lambda a, v: a.quotient(level=v, limit=None).arrow(), same_quotient),
        "enrich_all_modules": Question([1], lambda a, v: a.enrich(level=v, limit=None).rows(), same_enrichment),
    }


def first_answer(file: Path, limits: Limits, question: Question) -> float:
    """Milliseconds of the first question over a new connection, the file's pages dropped."""
    handle = os.open(file, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    with Atlas(file, limits=limits) as atlas:
        return round(timed(question.ask, atlas, question.values[0]), 2)


def timed(ask: Callable[[Atlas, Any], Any], atlas: Atlas, value: Any) -> float:
    start = time.perf_counter()
    ask(atlas, value)
    return (time.perf_counter() - start) * 1000


def length(answer: Any) -> int:
    """Rows of an answer, links of a circuit, members of a card."""
    if isinstance(answer, dict):
        return len(answer.get("members", answer.get("edges", ())))
    return len(answer.links) if hasattr(answer, "links") else len(answer)


def read_edges(file: Path) -> Edges:
    """The edge table as arrays: 20 bytes an edge."""
    con = open_reader(file, macros=False, limits=Limits("4GiB", 2))
    found = con.execute("SELECT src, tgt, count, weight_sum, weight_abs_sum FROM edges").fetchnumpy()
    neurons = con.execute("SELECT top_cluster, cluster_path FROM neurons ORDER BY feature_id").fetchnumpy()
    width = int(con.execute("SELECT value FROM metadata WHERE key = 'neurons_per_layer'").fetchall()[0][0])
    fed = con.execute(EMBEDDED, [width]).fetchnumpy()
    con.close()
    embedded = np.bincount(fed["id"], fed["weight"], len(neurons["top_cluster"]))
    names = ("src", "tgt", "count", "weight_sum", "weight_abs_sum")
    top = np.ma.filled(neurons["top_cluster"], -1).astype(np.int64)
    paths = np.ma.filled(neurons["cluster_path"], None)
    return Edges(*(np.ma.getdata(found[name]) for name in names), top, paths, embedded, width, file)


def module_sets(edges: Edges) -> list[list[tuple[int, int]]]:
    """REPEATS times MODULE neurons of one top module."""
    order = np.argsort(edges.top, kind="stable")
    order = order[edges.top[order] > 0]
    sizes = np.bincount(edges.top[order])
    large = np.flatnonzero(sizes >= MODULE)[:: max(1, int((sizes >= MODULE).sum()) // REPEATS)][:REPEATS]
    first = np.searchsorted(edges.top[order], large)
    # neighbours in the planted order: the members of a few sub-modules, as a person would select them
    sets = []
    for one, begin in zip(large, first, strict=True):
        members = order[begin : begin + sizes[one]]
        members = members[np.argsort(edges.paths[members].astype(str), kind="stable")][:MODULE]
        sets.append([tuple(map(int, divmod(int(i), edges.width))) for i in np.sort(members)])
    return sets


def far_target(edges: Edges, i: int) -> int:
    """A neuron four strong steps downstream of an edge's source, or as many as there are."""
    node = int(edges.src[i])
    for _ in range(4):
        out = edges.out_of(node)
        if out.start == out.stop:
            break
        near = edges.tgt[out][np.argsort(-edges.size[out], kind="stable")]
        node = int(near[min(3, len(near) - 1)])
    return node


def _of(place: tuple[int, int]) -> dict[str, int]:
    return {"of_layer": place[0], "of_neuron": place[1]}


def _rows(atlas: Atlas, text: str, place: tuple[int, int]) -> list[Row]:
    return atlas.sql(text, {"id": place[0] * atlas.d_mlp + place[1]}).rows()


def _ego(ego: Any) -> dict[str, Any]:
    return ego.to_dict()


# -- the same answers by other means ----------------------------------------------------------------------------------


def packed(edges: Edges, place: tuple[int, int]) -> int:
    return place[0] * edges.width + place[1]


def strongest(edges: Edges, rows: Ints, ends: npt.NDArray[np.int32], most: int) -> Ints:
    """Rows of the arrays by falling weight_abs_sum, then id."""
    return rows[np.lexsort((ends[rows], -edges.size[rows].astype(np.float64)))][:most]


def same_downstream_rows(edges: Edges, place: Any, found: list[Row]) -> bool:
    return _same_rows(edges, np.arange(*edges.out_of(packed(edges, place)).indices(len(edges.src))[:2]), found)


def same_upstream_rows(edges: Edges, place: Any, found: list[Row]) -> bool:
    return _same_rows(edges, np.flatnonzero(edges.tgt == packed(edges, place)), found)


def _same_rows(edges: Edges, rows: Ints, found: list[Row]) -> bool:
    exact = zip(edges.src[rows].tolist(), edges.tgt[rows].tolist(), edges.size[rows].tolist(), strict=True)
    return sorted((r["src"], r["tgt"], r["weight_abs_sum"]) for r in found) == sorted(exact)


def same_downstream(edges: Edges, place: Any, found: list[Row]) -> bool:
    out = edges.out_of(packed(edges, place))
    rows = strongest(edges, np.arange(out.start, out.stop), edges.tgt, 20)
    share = edges.size[rows] / edges.size[out].sum(dtype=np.float64)
    ids = [packed(edges, (r["layer"], r["neuron"])) for r in found]
    return ids == edges.tgt[rows].tolist() and np.allclose([r["share"] for r in found], share, rtol=FLOAT)


def same_upstream(edges: Edges, place: Any, found: list[Row]) -> bool:
    into = np.flatnonzero(edges.tgt == packed(edges, place))
    rows = strongest(edges, into, edges.src, 20)
    share = edges.size[rows] / edges.size[into].sum(dtype=np.float64)
    ids = [packed(edges, (r["layer"], r["neuron"])) for r in found]
    return ids == edges.src[rows].tolist() and np.allclose([r["share"] for r in found], share, rtol=FLOAT)


def same_ego(edges: Edges, place: Any, found: dict[str, Any]) -> bool:
    hops = {packed(edges, place): 0}
    for hop in (1, 2):
        fresh: set[int] = set()
        for node in [i for i, h in hops.items() if h == hop - 1]:
            out = edges.out_of(node)
            fresh |= set(edges.tgt[strongest(edges, np.arange(out.start, out.stop), edges.tgt, 10)].tolist())
            into = np.flatnonzero(edges.tgt == node)
            fresh |= set(edges.src[strongest(edges, into, edges.src, 10)].tolist())
        hops |= dict.fromkeys(fresh - set(hops), hop)
    ids = np.fromiter(hops, np.int64)
    among = int((np.isin(edges.src, ids) & np.isin(edges.tgt, ids)).sum())
    return {r["id"]: r["hop"] for r in found["nodes"]} == hops and len(found["edges"]) == among


def same_between(edges: Edges, places: Any, found: list[Row]) -> bool:
    ids = np.array([packed(edges, place) for place in places])
    rows = np.flatnonzero(np.isin(edges.src, ids) & np.isin(edges.tgt, ids))
    pairs = {(r["src"], r["tgt"]): r["weight_abs_sum"] for r in found}
    exact = dict(zip(zip(edges.src[rows].tolist(), edges.tgt[rows].tolist(), strict=True), edges.size[rows].tolist(),
                     strict=True))  # fmt: skip
    return pairs == exact


def same_common(edges: Edges, places: Any, found: list[Row]) -> bool:
    ids = np.array([packed(edges, place) for place in places])
    rows = np.flatnonzero(np.isin(edges.tgt, ids))
    hits = np.bincount(edges.src[rows], minlength=edges.neurons)
    shown = [packed(edges, (r["layer"], r["neuron"])) for r in found]
    degree = [int((edges.src == i).sum()) for i in shown]
    return (
        all(hits[i] == r["hits"] and d == r["degree"] for i, d, r in zip(shown, degree, found, strict=True))
        and len(found) == min(20, int((hits >= 2).sum()))
        and all(0 <= a["p"] <= b["p"] <= 1 for a, b in pairwise(found))
    )


def _same_cosine(edges: Edges, matrix: Any, place: Any, found: list[Row]) -> bool:
    node = packed(edges, place)
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel().astype(np.float64))
    dots = np.asarray((matrix @ matrix[[node], :].T).todense()).ravel().astype(np.float64)
    cosine = np.divide(dots, norms * norms[node], out=np.zeros_like(dots), where=norms > 0)
    cosine[node] = -2
    best = np.sort(cosine)[::-1][: len(found)]
    shown = [packed(edges, (r["layer"], r["neuron"])) for r in found]
    return np.allclose([r["cosine"] for r in found], best, rtol=1e-4, atol=1e-6) and np.allclose(
        cosine[shown], best, rtol=1e-4, atol=1e-6
    )


def same_similar(edges: Edges, place: Any, found: list[Row]) -> bool:
    return _same_cosine(edges, edges.matrix, place, found)


def same_similar_in(edges: Edges, place: Any, found: list[Row]) -> bool:
    return _same_cosine(edges, edges.matrix.T.tocsr(), place, found)


def same_paths(edges: Edges, ends: Any, found: list[Row]) -> bool:
    """The best score by dynamic programming over all edges; each path shown has the score of its edges."""
    source, target = (packed(edges, place) for place in ends)
    weight = edges.mean
    reached = np.zeros(edges.neurons)
    reached[source], best = 1.0, 0.0
    for _ in range(5):
        live = reached[edges.src] > 0
        step = np.zeros(edges.neurons)
        np.maximum.at(step, edges.tgt[live], reached[edges.src[live]] * weight[live])
        reached, best = step, max(best, step[target])
    if not found or not math.isclose(found[0]["score"], best, rel_tol=1e-5):
        return False
    table = {}
    for row in found:
        product = 1.0
        for s, t in pairwise(row["path"]):
            out = edges.out_of(s)
            at = out.start + int(np.searchsorted(edges.tgt[out], t))
            if at >= out.stop or edges.tgt[at] != t:
                return False
            product *= weight[at]
        table[tuple(row["path"])] = math.isclose(product, row["score"], rel_tol=1e-5)
    scores = [row["score"] for row in found]
    return all(table.values()) and len(table) == len(found) and scores == sorted(scores, reverse=True)


def same_circuit(edges: Edges, ends: Any, found: Any) -> bool:
    """Total influence by layers: what each neuron passes on of the source's, from the shares of all that enters."""
    source, target = (packed(edges, place) for place in ends)
    into = np.bincount(edges.tgt, edges.size, edges.neurons)
    with_tokens = into + edges.embedded
    held = np.zeros(edges.neurons)
    held[source] = 1.0
    first = np.searchsorted(edges.src, np.arange(0, edges.neurons + 1, edges.width))
    for begin, end in pairwise(first):
        span = slice(begin, end)
        share = edges.size[span] / with_tokens[edges.tgt[span]]
        held += np.bincount(edges.tgt[span], share * held[edges.src[span]], edges.neurons)
    return math.isclose(found.facts["influence"], held[target], rel_tol=1e-3)


def same_card(edges: Edges, path: str, found: dict[str, Any]) -> bool:
    inside = np.array([p is not None and (p == path or p.startswith(f"{path}.")) for p in edges.paths])
    source, target = inside[edges.src], inside[edges.tgt]
    weights = {"internal": source & target, "outgoing": source & ~target, "incoming": ~source & target}
    return found["size"] == inside.sum() and all(
        math.isclose(found[f"{name}_weight"], edges.mean[rows].sum(), rel_tol=1e-5, abs_tol=1e-9)
        for name, rows in weights.items()
    )


def same_quotient(edges: Edges, level: int, table: Any) -> bool:
    n = int(edges.top.max()) + 1
    known = (edges.top[edges.src] > 0) & (edges.top[edges.tgt] > 0)
    pair = edges.top[edges.src[known]] * n + edges.top[edges.tgt[known]]
    number, weight = np.bincount(pair, minlength=n * n), np.bincount(pair, edges.mean[known], n * n)
    rows = table.filter(pc.and_(table["src_cluster"].is_valid(), table["tgt_cluster"].is_valid()))
    source, target = (rows[name].cast("int64").to_numpy() for name in ("src_cluster", "tgt_cluster"))
    at = source * n + target
    return (
        len(at) == int((number > 0).sum())
        and np.array_equal(number[at], rows["n_edges"].to_numpy())
        and np.allclose(weight[at], rows["weight"].to_numpy(), rtol=1e-5)
    )


def same_enrichment(edges: Edges, level: int, found: list[Row]) -> bool:
    """Hits of 200 rows recounted; the planted words of a module are the most enriched ones."""
    con = open_reader(edges.file, macros=False)
    chosen = found[:: max(1, len(found) // 200)][:200]
    right = True
    for row in chosen:
        counted = con.execute(
            "SELECT count(*) FROM neurons WHERE top_cluster = $1 AND list_contains(string_split(label, ' '), $2)",
            [int(row["module"]), row["word"]],
        ).fetchall()[0][0]
        right &= counted == row["hits"] and 0 <= row["p"] <= row["fdr"] <= 1
    con.close()
    return right and found[0]["fdr"] < 1e-6


# -- clustering -------------------------------------------------------------------------------------------------------


def clustering(file: Path, folder: Path, least: int, memory: str) -> dict[str, Any]:
    """Infomap through atlas, and by itself on the same links."""
    temp = folder / "temp"
    temp.mkdir()
    links, copy = folder / "links.txt", folder / "clustered.duckdb"
    shutil.copyfile(file, copy)
    run = [sys.executable, "-m", "atlas", "cluster", "run", str(copy), "--method", "infomap", "--seed", "42"]
    _, ours = watched([*run, "--min-count", str(least), "--name", "found", "--memory", memory, "--quiet"], temp)
    say(f"atlas cluster run   {ours.seconds:9.1f} s", ours)
    con = open_reader(copy, macros=False, limits=Limits("2GiB", 2))
    text = "SELECT src, tgt, (weight_abs_sum::DOUBLE / count) ** 2 FROM edges WHERE count >= $1"
    con.sql(text, params=[least]).write_csv(str(links), sep=" ", header=False)
    facts = con.execute("SELECT edges, quality, modules, levels FROM clusterings WHERE clustering = 'found'").fetchall()
    leaf, top = recovered(con)
    con.close()
    plain_run = [
        *[str(Path(sys.executable).with_name("infomap")), str(links), str(temp), "--directed", "--silent"],
        *["--seed", "42", "--num-trials", "1", "--tree"],
    ]
    _, plain = watched(plain_run, temp)
    say(f"infomap by itself   {plain.seconds:9.1f} s", plain)
    written = next(line for line in next(temp.glob("*.tree")).read_text().splitlines() if "codelength" in line)
    say(f"AMI with the planted modules: leaves {leaf:.4f}, top {top:.4f}; {written.strip('# ')}")
    return {
        "ami_leaf": round(leaf, 4), "ami_top": round(top, 4), "clustered_edges": facts[0][0],
        "codelength": facts[0][1], "modules": facts[0][2], "levels": facts[0][3], "plain_infomap": written.strip("# "),
        "cluster_seconds": ours.seconds, "infomap_seconds": plain.seconds,
        "cluster_over_infomap": round(ours.seconds / plain.seconds, 3),
        "cluster_processor_over_infomap": round(ours.cpu_seconds / plain.cpu_seconds, 3),
        "cluster_peak_rss_bytes": ours.peak_rss, "infomap_peak_rss_bytes": plain.peak_rss,
    }  # fmt: skip


def recovered(con: Any) -> tuple[float, float]:
    """AMI of found and planted modules, leaves and top, over the neurons that both place."""
    found = []
    for form in ("cluster_path", "split_part(cluster_path, '.', 1)"):
        text = f"""SELECT a.path AS a, b.path AS b, count(*) AS n FROM
            (SELECT layer, neuron, {form} AS path FROM partitions WHERE clustering = 'planted') AS a
            JOIN (SELECT layer, neuron, {form} AS path FROM partitions WHERE clustering = 'found') AS b
            USING (layer, neuron) GROUP BY ALL ORDER BY ALL"""
        rows = con.execute(text).fetchnumpy()
        a, b, n = (np.ma.getdata(column) for column in rows.values())
        places = (np.unique(names.astype(str), return_inverse=True)[1] for names in (a, b))
        found.append(agreement_of_overlaps(*places, n.astype(np.int64)).adjusted_mutual_information or 0.0)
    return found[0], found[1]


if __name__ == "__main__":
    main()
