"""Shards -> tables against plain Python: merges, quantiles, exact edge sums, pruning formulas."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic import edge_sides

from atlas.errors import InputError
from atlas.ingest.activations import ingest_exemplars, ingest_statistics, ingest_token_statistics, ingest_vocab
from atlas.ingest.edges import ingest_edges, ingest_graphs
from atlas.ingest.neurons import score_pruning
from atlas.shards import Shard, new_shard
from atlas.store.connection import Limits, open_writer
from atlas.store.content import table_hashes
from atlas.store.ledger import get_metadata
from atlas.store.schema import apply_schema
from atlas.tables import SHARDS

D_MLP = 7


@pytest.fixture
def con(tmp_path: Path):
    connection = open_writer(tmp_path / "ingest.duckdb")
    apply_schema(connection, d_mlp=D_MLP)
    yield connection
    connection.close()


def write(root: Path, shard: Shard, **tables: list[dict]) -> None:
    with new_shard(root, shard) as draft:
        for name, rows in tables.items():
            full = [{column: row.get(column) for column in SHARDS[name].names} for row in rows]
            draft.write(name, pa.Table.from_pylist(full, schema=SHARDS[name]))


def observations(seed: int = 1, graphs: int = 40) -> list[dict]:
    rng = random.Random(seed)
    rows = []
    for graph in range(graphs):
        for _ in range(30):
            src, tgt = sorted(rng.sample(range(3), 2))
            rows.append(
                {
                    "graph_id": graph,
                    "src_layer": src,
                    "src_neuron": min(int(rng.paretovariate(1)), D_MLP) - 1,
                    "src_position": rng.randrange(4),
                    "tgt_layer": tgt,
                    "tgt_neuron": rng.randrange(3),
                    "tgt_position": 4,
                    "weight": rng.gauss(0, 1) * 10 ** rng.uniform(-6, 1),
                }
            )
    return rows


def edge_shards(root: Path, rows: list[dict], of: int) -> Path:
    for index in range(of):
        write(
            root,
            Shard("k", index, of),
            graph_edges=[r for r in rows if r["graph_id"] % of == index],
            graph_token_edges=[],
        )
    return root


def test_edges_equal_exact_rational_sums(con, tmp_path: Path) -> None:
    rows = observations()
    ingest_edges(con, relp=edge_shards(tmp_path / "s", rows, 3), sizes=(3, D_MLP), folder=tmp_path, min_count=3)
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["src_layer"] * D_MLP + row["src_neuron"], row["tgt_layer"] * D_MLP + row["tgt_neuron"]].append(row)
    wanted = {key: members for key, members in groups.items() if len(members) >= 3}
    found = con.sql("SELECT * FROM edges ORDER BY src, tgt").to_arrow_table().to_pylist()
    assert [(r["src"], r["tgt"]) for r in found] == sorted(wanted)
    assert len(wanted) < len(groups)  # the filter had something to do
    for row in found:
        members = wanted[row["src"], row["tgt"]]
        weights = [Fraction(m["weight"]) for m in members]
        assert row["count"] == len(members)
        assert row["n_graphs"] == len({m["graph_id"] for m in members})
        assert row["weight_sum"] == pytest.approx(float(sum(weights)), rel=1e-6, abs=len(members) * 2.0**-44)
        assert row["weight_abs_sum"] == pytest.approx(float(sum(map(abs, weights))), rel=1e-6)
        assert row["weight_sq_sum"] == pytest.approx(float(sum(w * w for w in weights)), rel=1e-6)
        assert row["weight_min"] == pytest.approx(float(min(weights)), rel=1e-6)
        assert row["weight_max"] == pytest.approx(float(max(weights)), rel=1e-6)
        assert (row["tgt_layer"], row["tgt_neuron"]) == divmod(row["tgt"], D_MLP)
    sides = edge_sides(found)
    assert con.sql("FROM edges_in").to_arrow_table().to_pylist() == sides["edges_in"]
    totals = con.sql("FROM edge_totals").to_arrow_table().to_pylist()
    assert [row["id"] for row in totals] == [row["id"] for row in sides["edge_totals"]]
    for got, expected in zip(totals, sides["edge_totals"], strict=True):
        assert got == pytest.approx(expected, rel=1e-9)


def test_shards_threads_and_order_change_no_bit(tmp_path: Path) -> None:
    rows, seen = observations(), set()
    for number, (of, threads) in enumerate(itertools.product((1, 2, 7), (1, 2))):
        shuffled = random.Random(number).sample(rows, len(rows))
        con = open_writer(tmp_path / f"{number}.duckdb", limits=Limits(threads=threads))
        apply_schema(con, d_mlp=D_MLP)
        ingest_edges(
            con, relp=edge_shards(tmp_path / f"s{number}", shuffled, of), sizes=(3, D_MLP), folder=tmp_path, min_count=1
        )
        hashes = table_hashes(con)
        seen.add((hashes["edges"], hashes["edges_in"], hashes["edges_top"]))
        con.close()
    assert len(seen) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2.0**18])
def test_weights_beyond_exact_sums_are_refused(con, tmp_path: Path, bad: float) -> None:
    rows = observations()
    rows[5]["weight"] = bad
    with pytest.raises(InputError, match=r"1 weights (are NaN or infinite|reach 131,072)"):
        ingest_edges(con, relp=edge_shards(tmp_path / "s", rows, 1), sizes=(3, D_MLP), folder=tmp_path, min_count=1)


def statistics_row(values: np.ndarray, **extra: object) -> dict:
    edges = np.linspace(-2, 2, 65)
    inner, _ = np.histogram(values[(values >= -2) & (values < 2)], edges)
    hist = [int((values < -2).sum()), *map(int, inner), int((values >= 2).sum())]
    return {
        "layer": 0,
        "neuron": 0,
        "n_tokens": len(values),
        "s1": values.sum(),
        "s2": (values**2).sum(),
        "s3": (values**3).sum(),
        "s4": (values**4).sum(),
        "abs_sum": abs(values).sum(),
        "n_active": int((values > 0).sum()),
        "n_fired_pos": int((values > 1).sum()),
        "n_fired_neg": 0,
        "fire_pos": 1.0,
        "fire_neg": -9.0,
        "min": values.min(),
        "max": values.max(),
        "hist_lo": -2.0,
        "hist_hi": 2.0,
        "hist": hist,
        "calib_gate": 2.0 * len(values),
        "calib_up": 3.0 * len(values),
        "calib_out": 4.0 * len(values),
        **extra,
    }


def test_statistics_merge_and_quantiles(con, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0.2, 0.7, 5000)
    for index, part in enumerate((values[:1234], values[1234:])):
        write(tmp_path / "a", Shard("k", index, 2), neuron_stats=[statistics_row(part)])
    ingest_statistics(con, activations=tmp_path / "a", gradients=None)
    row = con.sql("SELECT * FROM neuron_stats").to_arrow_table().to_pylist()[0]
    assert row["n_tokens"] == 5000
    for power in (1, 2, 3, 4):
        assert row[f"s{power}"] == pytest.approx((values**power).sum(), rel=1e-12)
    assert row["min"] == np.float32(values.min()) and row["max"] == np.float32(values.max())
    assert sum(row["hist"]) == 5000 and len(row["hist"]) == 66
    assert (row["calib_gate"], row["calib_up"], row["calib_out"], row["grad_tokens"]) == (2.0, 3.0, 4.0, None)
    exact = np.quantile(values, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    assert np.abs(np.array(row["quantiles"]) - exact).max() < 4 / 64  # one bin


def exemplar(activation: float, context: int, position: int, **extra: object) -> dict:
    base = {
        "layer": 0,
        "neuron": 1,
        "polarity": 1,
        "stratum": 0,
        "rank": 0,
        "window_start": 0,
        "window": [activation],
        "priority": 0,
    }
    return {**base, "activation": activation, "context_id": context, "position": position, **extra}


def test_exemplars_merge_like_one_sort(con, tmp_path: Path) -> None:
    rng = random.Random(3)
    firings = [(round(rng.random(), 1) + 0.1, context, position) for context in range(12) for position in range(5)]
    for index in range(3):
        mine = sorted((f for f in firings if f[1] % 3 == index), key=lambda f: (-f[0], f[1], f[2]))[:6]
        rows = [exemplar(*f, rank=rank) for rank, f in enumerate(mine)]
        contexts = [
            {"context_id": c, "document": c, "offset": 0, "token_ids": [1] * 5} for c in range(12) if c % 3 == index
        ]
        write(tmp_path / "a", Shard("k", index, 3), exemplars=rows, contexts=contexts)
    ingest_exemplars(con, activations=tmp_path / "a", corpus="c")
    found = con.execute("SELECT activation, context_id, position FROM exemplars ORDER BY rank").fetchall()
    wanted = sorted(firings, key=lambda f: (-f[0], f[1], f[2]))[:6]
    assert [(pytest.approx(a, rel=1e-6), c, p) for a, c, p in wanted] == found
    assert {r[0] for r in con.execute("SELECT context_id FROM contexts").fetchall()} == {c for _, c, _ in wanted}


def test_samples_keep_the_smallest_priorities(con, tmp_path: Path) -> None:
    for index in range(2):
        rows = [exemplar(0.1 * k + index, k, 0, stratum=1, rank=k, priority=10 * k + index) for k in range(3)]
        write(tmp_path / "a", Shard("k", index, 2), exemplars=rows, contexts=[])
    ingest_exemplars(con, activations=tmp_path / "a", corpus="c")
    found = con.execute("SELECT activation FROM exemplars ORDER BY activation").fetchall()
    assert [pytest.approx(a, rel=1e-6) for a in (0.0, 0.1, 1.0)] == [a for (a,) in found]  # priorities 0, 10, 1


def test_token_statistics_count_what_the_limit_drops(con, tmp_path: Path) -> None:
    def row(token: int, n: int, total: float) -> dict:
        return {
            "layer": 0,
            "neuron": 0,
            "polarity": 1,
            "token_id": token,
            "n": n,
            "sum": total,
            "max": total,
            "min": 0.1,
        }

    write(tmp_path / "a", Shard("k", 0, 2), token_stats=[row(1, 3, 3.0), row(2, 5, 1.0)])
    write(tmp_path / "a", Shard("k", 1, 2), token_stats=[row(2, 2, 4.0), row(3, 7, 2.0)])
    ingest_token_statistics(con, activations=tmp_path / "a", keep=2)
    assert con.execute("SELECT token_id, n, sum FROM token_stats").fetchall() == [(2, 7, 5.0), (1, 3, 3.0)]
    facts = get_metadata(con)
    assert (facts["token_stats_dropped_rows"], facts["token_stats_dropped_firings"]) == ("1", "7")


def test_vocab_counts(con, tmp_path: Path) -> None:
    write(tmp_path / "l", Shard("k"), vocab=[{"token_id": 0, "token": "a"}, {"token_id": 1, "token": "b"}])
    for index in range(2):
        write(tmp_path / "a", Shard("k", index, 2), token_counts=[{"token_id": 1, "n": 4}])
    ingest_vocab(con, lens=tmp_path / "l", activations=tmp_path / "a")
    assert con.execute("FROM vocab").fetchall() == [(0, "a", 0), (1, "b", 8)]


def scored(con, folder: Path, drawn: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]) -> dict:
    """Rows of pruning by (layer, neuron) for drawn a, g of every neuron, in two blocks; |w_out| = 2."""
    gradients, weights, stats = [], [], []
    for (layer, neuron), (a, g) in drawn.items():
        sums = {"s_a": a, "s_a2": a**2, "s_abs": abs(a), "s_g2": g**2, "s_ag": a * g, "s_a2g2": (a * g) ** 2,
                "s_absag": abs(a * g), "s_ag2": a * g**2}  # fmt: skip
        place = {"layer": layer, "neuron": neuron}
        for block, part in enumerate((slice(0, 150), slice(150, 400))):
            found = {k: v[part].sum() for k, v in sums.items()}
            gradients.append({"block": block, **place, "n_tokens": len(a[part]), **found})
        weights.append({**place, "weight_magnitude": 10.0 - neuron, "output_norm": 2.0, "up_norm": 1.0})
        stats.append(statistics_row(np.ones(3), neuron=neuron) | {"layer": layer})
    write(folder / "g", Shard("k"), gradient_stats=gradients)
    write(folder / "w", Shard("k"), neuron_weights=weights)
    write(folder / "a", Shard("k"), neuron_stats=stats)
    ingest_statistics(con, activations=folder / "a", gradients=folder / "g")
    score_pruning(con, weights=folder / "w", eval_id="e")
    found = con.execute("FROM pruning")
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return {(row["layer"], row["neuron"]): row for row in rows}


def test_scores_of_every_method_are_their_formulas(con, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    drawn = {
        (layer, n): (rng.normal(1, 1 + n + layer, 400), rng.normal(0, 1, 400)) for layer in (0, 1) for n in range(D_MLP)
    }
    found = scored(con, tmp_path, drawn)
    wanted = {key: ((a - a.mean()) ** 2 * (g**2 + (g**2).mean()) / 2).mean() for key, (a, g) in drawn.items()}
    everywhere = sorted(wanted, key=lambda key: wanted[key])
    for key, (a, g) in drawn.items():
        row, of_layer = found[key], [other for other in everywhere if other[0] == key[0]]
        assert row["score_method"] == "fisher" and row["weight_rank"] == key[1] + 1
        assert row["importance"] == row["fisher"] == pytest.approx(wanted[key], rel=1e-9)
        assert row["wifv"] == pytest.approx(4 * a.var(), rel=1e-9)
        assert row["taylor_abs"] == pytest.approx(abs(a * g).mean(), rel=1e-9)
        assert row["wanda"] == pytest.approx(2 * np.sqrt((a**2).mean()), rel=1e-9)
        assert row["pruning_score"] == pytest.approx(1 - of_layer.index(key) / (D_MLP - 1))
        assert row["pruning_score_global"] == pytest.approx(1 - everywhere.index(key) / (2 * D_MLP - 1))


def test_dead_and_constant_neurons_are_safest_by_index_and_a_neuron_alone_has_no_rank(con, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    g = rng.normal(0, 3, 400)
    rounding = np.float32(7.3) * (1 + np.float32(6e-8) * rng.integers(-1, 2, 400))  # constant to the last float32 bit
    drawn = {(0, n): (rng.normal(1, 1, 400), g) for n in range(3)}
    drawn |= {(0, 3): (np.full(400, -7.3), g), (0, 4): (np.zeros(400), g), (0, 5): (rounding, g), (0, 6): drawn[0, 0]}
    found = scored(con, tmp_path, drawn | {(1, 0): drawn[0, 1]})
    assert [found[0, n]["fisher"] for n in (3, 4, 5)] == [0.0] * 3 == [found[0, n]["wifv"] for n in (3, 4, 5)]
    assert [found[0, n]["pruning_score"] for n in (3, 4, 5)] == pytest.approx([1, 5 / 6, 4 / 6])
    assert found[0, 0]["pruning_score"] > found[0, 6]["pruning_score"]  # a tie: the lower index first
    assert found[1, 0]["pruning_score"] is None and found[1, 0]["pruning_score_global"] is not None
    assert 0 <= found[1, 0]["pruning_score_global"] < 1


def test_no_tokens_leave_the_weights(con, tmp_path: Path) -> None:
    weights = [{"layer": 0, "neuron": n, "weight_magnitude": 1.0 + n, "output_norm": 1.0} for n in range(3)]
    write(tmp_path / "w", Shard("k"), neuron_weights=weights)
    score_pruning(con, weights=tmp_path / "w", eval_id="e")
    rows = con.execute("SELECT importance, pruning_score, score_method, fisher, wifv, wanda FROM pruning").fetchall()
    assert rows == [(1.0 + n, 1 - n / 2, "weights", None, None, None) for n in range(3)]


def test_explained_by_neurons_by_hand(con, tmp_path: Path) -> None:
    # Two nodes: R = 2 (nothing flows in) and R = -4 (flows -3 and +1 from the first); m = 5, direct 1.5 and 2.
    nodes = [
        {"graph_id": 0, "layer": 0, "neuron": 1, "position": 0, "relevance": 2.0, "direct": 1.5, "explained": 0.5},
        {"graph_id": 0, "layer": 1, "neuron": 2, "position": 3, "relevance": -4.0, "direct": 2.0, "explained": 1.0},
        {"graph_id": 0, "layer": 1, "neuron": 2, "position": 2, "relevance": 0.0, "direct": 0.0, "explained": None},
    ]
    edge = {"graph_id": 0, "src_layer": 0, "src_neuron": 1, "src_position": 0, "tgt_layer": 1, "tgt_neuron": 2}
    flows = [{**edge, "tgt_position": 3, "weight": -3.0}, {**edge, "tgt_position": 3, "weight": 1.0}]
    write(
        tmp_path / "r", Shard("k"), graphs=[{"graph_id": 0, "metric_value": 5.0}], graph_nodes=nodes, graph_edges=flows
    )
    ingest_graphs(con, relp=tmp_path / "r")
    # listed: 0 for the first, -(-3 + 1) = 2 for the second, 1.5 + 2 for the metric; needed: 2 + 4 + 5
    assert con.execute("SELECT explained_neurons FROM graphs").fetchall() == [(pytest.approx((2 + 3.5) / 11),)]
    assert con.execute("SELECT neuron, positions, explained FROM neuron_graphs").fetchall() == [
        (1, 1, 0.5),
        (2, 2, 1.0),
    ]
