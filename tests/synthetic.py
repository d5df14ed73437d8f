"""Hand-made atlases with known contents in every table: the oracle of the query tests is plain Python over `tables`.

`small_tables()` is written by hand (3 layers x 8 neurons); `random_tables(seed)` is larger and drawn.
"""

from __future__ import annotations

import functools
import math
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from atlas.ingest.label_embeddings import embed_labels
from atlas.ingest.search_index import build_index
from atlas.store.connection import open_writer
from atlas.store.ledger import set_metadata
from atlas.store.schema import apply_schema, newest_version, store_macros
from atlas.store.write import replace_from_arrow, transaction
from atlas.tables import TABLES

Row = dict[str, Any]
Tables = dict[str, list[Row]]
GENERATED = ("tgt_layer", "tgt_neuron", "mean_weight", "mean_abs_weight")

LAYERS, D_MLP = 3, 8
VOCAB = [("<s>", 0), (" dog", 40), ("dog", 10), (" cat", 30), (" runs", 20), (" the", 300), (" a", 100), ("ing", 50),
         (" aspirin", 5), (" ", 45), (".", 200), (" Hund", 0)]  # fmt: skip
LABELS = {  # (layer, neuron): (label, description, input_label, output_label)
    (0, 0): ("dog words", "fires on dog and dogs", "the word dog", "promotes barking"),
    (0, 1): ("cat words", "fires on cats", "the word cat", "promotes meowing"),
    (0, 2): ("animals: dog or cat", None, "pets", None),
    (1, 2): ("aspirin and drugs", "medicine names", "drug names such as aspirin", "promotes dose words"),
    (1, 3): ("Über-Hund (German dog)", None, None, "promotes German"),
    (2, 7): ("dog dog dog", "a long text about nothing in particular that mentions many other things", None, None),
}
PATHS = {
    (0, 0): "1.1", (0, 1): "1.1", (0, 2): "1.2", (1, 2): "1.2", (1, 3): "1.2", (1, 4): "2", (2, 6): "2", (2, 7): "2",
}  # fmt: skip
# src, tgt, observations F
FLOWS = {
    (0, 10): [1.0, 2.0, 3.0],
    (0, 11): [0.5, -0.5],
    (1, 10): [-1.0, -3.0],
    (2, 10): [0.25],
    (2, 23): [4.0, 4.0],
    (10, 23): [2.0, -1.0, 2.0],
    (10, 22): [0.5],
    (11, 22): [-2.0],
    (12, 22): [1.5, 1.5],
}


def small_tables() -> Tables:
    """3 layers x 8 neurons; every value is chosen by hand or follows from FLOWS, LABELS, PATHS and VOCAB."""
    tables: Tables = {"vocab": [{"token_id": i, "token": t, "count": n} for i, (t, n) in enumerate(VOCAB)]}
    tables["contexts"] = [
        {"context_id": 1, "corpus": "toy", "document": 0, "offset": 0, "token_ids": [0, 5, 1, 4, 10]},
        {"context_id": 2, "corpus": "toy", "document": 1, "offset": 0, "token_ids": [0, 6, 3, 4, 10, 5, 8]},
    ]
    tables["exemplars"] = [
        _exemplar(0, 0, 1, 0, 3.0, 1, 2, 1, [0.1, 3.0, 0.2]),
        _exemplar(0, 0, 1, 1, 1.0, 2, 3, 2, [0.0, 1.0]),
        _exemplar(0, 0, -1, 0, -2.0, 2, 2, 0, [0.0, 0.0, -2.0, 0.1]),
        _exemplar(1, 2, 1, 0, 5.0, 2, 6, 5, [0.0, 5.0]),
    ]
    tables["token_stats"] = [
        _fired(0, 0, 1, 1, 30, 60.0, 3.0, 1.0), _fired(0, 0, 1, 2, 5, 6.0, 1.5, 1.0),
        _fired(0, 0, 1, 5, 5, 5.0, 1.0, 1.0), _fired(0, 0, -1, 3, 12, -18.0, -1.0, -2.0),
        _fired(0, 1, 1, 3, 27, 54.0, 2.5, 1.5), _fired(0, 1, 1, 1, 3, 3.0, 1.0, 1.0),
        _fired(0, 2, 1, 1, 20, 20.0, 1.0, 1.0), _fired(0, 2, 1, 3, 15, 15.0, 1.0, 1.0),
        _fired(1, 2, 1, 8, 5, 25.0, 5.0, 5.0),
    ]  # fmt: skip
    fired = {(0, 0): (40, 16), (0, 1): (30, 0), (0, 2): (50, 0), (1, 2): (5, 0)}
    tables["neuron_stats"] = [_stats(k, *fired.get(k, (0, 0))) for k in _keys(LAYERS, D_MLP)]
    tables["logit_lens"] = [
        {"layer": 0, "neuron": 0, "polarity": s, "rank": r, "token_id": t, "value": v}
        for s, r, t, v in [(1, 0, 4, 2.0), (1, 1, 1, 1.0), (-1, 0, 5, -3.0), (-1, 1, 6, -0.5)]
    ]
    tables["read_tokens"] = [
        {"layer": 0, "neuron": 0, "part": p, "polarity": s, "rank": r, "token_id": t, "value": v}
        for p, s, r, t, v in [
            ("gate", 1, 0, 1, 1.5), ("up", 1, 0, 1, 2.5), ("up", 1, 1, 2, 0.5), ("up", -1, 0, 3, -1.25),
        ]
    ]  # fmt: skip
    tables["wiring"] = [
        _wire(0, 0, "downstream", 1, 0, 1, 2, 0.9), _wire(0, 0, "downstream", -1, 0, 2, 7, -0.4),
        _wire(1, 2, "upstream", 1, 0, 0, 0, 0.9), _wire(1, 2, "downstream", 1, 0, 2, 7, 0.7),
    ]  # fmt: skip
    tables["labels"] = [_label(k, v[0], run="r1") for k, v in LABELS.items()] + [
        _label((1, 2), "NSAID mentions", source="llm", run="r2", polarity=1)
        | {"pass": "input", "type": "token-pattern"},
        _label((1, 2), None, source="llm", run="r3") | {"status": "parse_error"},
    ]
    tables["pruning"] = [_prune(k, LAYERS, D_MLP) for k in _keys(LAYERS, D_MLP)]
    tables["calibration_documents"] = [
        {"role": role, "sha256": sha256(text.encode()).hexdigest()}
        for role, texts in (("activations", ["the cat runs", "the dog runs"]), ("gradients", ["the dog runs"]))
        for text in texts
    ]
    tables["impacts"] = [
        _impact("s1", [2], 0.004), _impact("s2", [10], 0.0005) | _analysed(False),
        _impact("s3", [11], 0.002) | _analysed(True),
        _impact("s4", [2, 10], 0.009) | {"sum_kl": 0.0045, "joint_over_sum": 2.0},
    ]  # fmt: skip
    tables["graphs"] = [_graph(1, 0.9, 1e-9), _graph(2, 0.5, 3e-9), _graph(3, 0.7, 2e-9)]
    tables["neuron_graphs"] = [
        {"layer": 0, "neuron": 0, "graph_id": g, "positions": 1, "relevance": 0.5} for g in (1, 2, 3)
    ] + [{"layer": 1, "neuron": 2, "graph_id": 1, "positions": 2, "relevance": -0.5}]
    tables["cooccurrence"] = [
        {"layer": 0, "neuron": 0, "rank": 1, "other_layer": 1, "other_neuron": 2, "n_graphs": 1, "lift": 1.0}
    ]
    tables["token_edges"] = [
        {"kind": "embedding", "token_id": 1, "layer": 0, "neuron": 0, **edge_sums([1.0, 1.5])},
        {"kind": "logit", "token_id": 4, "layer": 2, "neuron": 7, **edge_sums([-1.0])},
    ]
    tables["weight_stats"] = [
        {"name": "layers.0.mlp.down_proj.weight", "layer": 0, "total_parameters": 32, "non_zero_parameters": 31,
         "sparsity": 1 / 32, "mean_magnitude": 0.5, "std_magnitude": 0.1, "min_magnitude": 0.0, "max_magnitude": 1.0,
         "l1_norm": 16.0, "l2_norm": 3.0}
    ]  # fmt: skip
    tables["cluster_labels"] = [
        {"clustering": "infomap", "cluster_path": "1", "label": "animals", "description": None,
         "interpretability": "high", "status": "ok", "source": "llm", "model": "m", "prompt_version": "cluster/1",
         "prompt_hash": "0", "run": "r1", "created": None}
    ]  # fmt: skip
    tables["ingests"] = [
        {"step": "wiring", "key": "abc", "source_file": "wiring.parquet", "size_bytes": 10, "sha256": "00",
         "rows_in": 4, "rows_out": 4, "rows_rejected": 0, "reason": None, "started": datetime(2026, 1, 1),
         "finished": datetime(2026, 1, 1, 0, 1)}
    ]  # fmt: skip
    return _finish(tables, LAYERS, D_MLP, FLOWS, LABELS, PATHS)


def random_tables(seed: int, layers: int = 5, d_mlp: int = 40) -> Tables:
    """A larger drawn atlas: edges, labels of words, firings, two levels of modules."""
    dice = random.Random(seed)
    keys = _keys(layers, d_mlp)
    words = ["dog", "cat", "drug", "verb", "noun", "French", "digit", "comma", "code", "bracket"]
    labels = {
        k: (" ".join(dice.choices(words, k=dice.randint(1, 6))), dice.choice([None, "about " + dice.choice(words)]),
            None, dice.choice([None, "promotes " + dice.choice(words)]))
        for k in keys if dice.random() < 0.8
    }  # fmt: skip
    paths = {k: f"{dice.randint(1, 4)}.{dice.randint(1, 3)}" for k in keys if dice.random() < 0.7}
    flows: dict[tuple[int, int], list[float]] = {}
    while len(flows) < 600:
        src, tgt = dice.randrange(layers * d_mlp), dice.randrange(layers * d_mlp)
        if src // d_mlp < tgt // d_mlp:
            flows[src, tgt] = [dice.gauss(0, 1) for _ in range(dice.randint(1, 6))]
    tables: Tables = {"vocab": [{"token_id": i, "token": f" w{i}", "count": 50 + i} for i in range(50)]}
    drawn = {(k, s, dice.randrange(50)) for k in keys for s in (1, -1) for _ in range(4)}
    tables["token_stats"] = [_drawn_firing(dice, *row) for row in sorted(drawn)]
    fired: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for row in tables["token_stats"]:
        fired[row["layer"], row["neuron"]][row["polarity"] < 0] += row["n"] + dice.randrange(3)
    tables["neuron_stats"] = [_stats(k, *fired[k]) for k in keys]
    tables["labels"] = [_label(k, v[0], run="r1") for k, v in labels.items()]
    tables["pruning"] = [_prune(k, layers, d_mlp) for k in keys]
    return _finish(tables, layers, d_mlp, flows, labels, paths)


class WordEmbedder:
    """Vectors without a model: each word has one drawn from its letters; a text is the sum of its words'."""

    name, dimension, digest = "words", 96, "0" * 64

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Float32 [texts, 96], rows of length 1."""
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for place, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or [text]:
                drawn = random.Random(word)
                rows[place] += [drawn.gauss(0, 1) for _ in range(self.dimension)]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_atlas(path: Path, tables: Tables, *, layers: int = LAYERS, d_mlp: int = D_MLP, **facts: object) -> Path:
    """Write tables through the store, with metadata and stored macros."""
    path.write_bytes(_empty_atlas(d_mlp))
    con = open_writer(path)
    con.execute("BEGIN")
    for name, rows in {**edge_sides(tables.get("edges", [])), **tables}.items():
        replace_from_arrow(con, name, pa.Table.from_pylist(rows, schema=stored_schema(name)))
    set_metadata(con, {
        "model": "toy", "revision": "0123456789abcdef", "num_layers": layers, "neurons_per_layer": d_mlp,
        "edge_method": "relp_direct", "edge_truncation": "none", "corpora": "toy",
        "code_version": "0", "created": "2026-01-01",
        "schema_version": newest_version(), **facts,
    })  # fmt: skip
    con.execute("COMMIT")
    build_index(con)
    embed_labels(con, WordEmbedder())
    con.close()
    return path


@functools.cache
def _empty_atlas(d_mlp: int) -> bytes:
    """Schema and macros: 0.3 s, half of what an atlas of a few rows takes, so made once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.duckdb"
        con = open_writer(path)
        apply_schema(con, d_mlp=d_mlp)
        with transaction(con):
            store_macros(con)
        con.close()
        return path.read_bytes()


def edge_sides(edges: list[Row]) -> Tables:
    """edges_in and edge_totals of edges, in plain Python."""
    as_stored = lambda value: float(np.float32(value))  # noqa: E731
    into, total = defaultdict(list), defaultdict(lambda: [0, 0, 0.0, 0.0, 0.0, 0.0])
    for e in edges:
        size, net = as_stored(e["weight_abs_sum"]), as_stored(e["weight_sum"])
        into[e["tgt"]].append((-size, e["src"]))
        for end, place in (("src", 0), ("tgt", 1)):
            for offset, value in ((0, 1), (2, size), (4, net * net)):
                total[e[end]][place + offset] += value
    ranked = [
        {"tgt": tgt, "src": src, "rank": i} for tgt in sorted(into) for i, (_, src) in enumerate(sorted(into[tgt]), 1)
    ]
    names = ("id", "n_out", "n_in", "weight_out", "weight_in", "norm_out", "norm_in")
    values = [(i, *total[i][:4], *map(math.sqrt, total[i][4:])) for i in sorted(total)]
    totals = [dict(zip(names, row, strict=True)) for row in values]
    return {"edges_in": ranked, "edge_totals": totals}


def stored_schema(name: str) -> pa.Schema:
    """The Arrow schema of a table without the generated columns of edges."""
    return pa.schema([f for f in TABLES[name] if name != "edges" or f.name not in GENERATED])


def edge_sums(flows: list[float]) -> Row:
    """Sufficient statistics of the observations of one edge."""
    return {
        "count": len(flows), "n_graphs": max(1, len(flows) - 1), "weight_sum": sum(flows),
        "weight_abs_sum": sum(map(abs, flows)), "weight_sq_sum": sum(f * f for f in flows),
        "weight_min": min(flows), "weight_max": max(flows),
    }  # fmt: skip


def _finish(  # noqa: PLR0917
    tables: Tables, layers: int, d_mlp: int,
    flows: dict[tuple[int, int], list[float]], labels: dict[tuple[int, int], Any], paths: dict[tuple[int, int], str],
) -> Tables:  # fmt: skip
    tables["edges"] = [
        {"src": s, "tgt": t, "src_layer": s // d_mlp, "src_neuron": s % d_mlp, **edge_sums(flows[s, t])}
        for s, t in sorted(flows)
    ]
    strongest = sorted(tables["edges"], key=lambda e: (-e["weight_abs_sum"], e["src"], e["tgt"]))[:5]
    tables["edges_top"] = [
        {"rank": i + 1, **{c: e[c] for c in ("src", "tgt", "weight_abs_sum")}} for i, e in enumerate(strongest)
    ]
    tables["neurons"] = [_neuron(k, d_mlp, labels.get(k), paths.get(k), tables) for k in _keys(layers, d_mlp)]
    tables["clusters"] = _clusters(paths, flows, d_mlp)
    tables["partitions"] = [
        {"method": "infomap", "parameters": "{}", "seed": 0, "layer": k[0], "neuron": k[1], "cluster_path": p,
         "flow": 0.1, "clustering": "infomap", "membership": None} for k, p in sorted(paths.items())
    ]  # fmt: skip
    modules = tables["clusters"]
    tables["clusterings"] = [
        {"clustering": "infomap", "method": "infomap", "parameters": "{}", "seed": 0, "edges": len(flows),
         "neurons": len(paths), "modules": len(modules), "top_modules": sum(m["level"] == 1 for m in modules),
         "levels": max((m["level"] for m in modules), default=0), "quality": 1.5, "quality_measure": "codelength"}
    ]  # fmt: skip
    return tables


def _neuron(key: tuple[int, int], d_mlp: int, label: Any, path: str | None, tables: Tables) -> Row:
    parts = [int(p) for p in path.split(".")] if path else []
    found = [r for r in tables.get("exemplars", []) if (r["layer"], r["neuron"]) == key]
    graphs = [r for r in tables.get("neuron_graphs", []) if (r["layer"], r["neuron"]) == key]
    label = label or (None,) * 4
    return {
        "layer": key[0], "neuron": key[1], "feature_id": key[0] * d_mlp + key[1], "unit_type": "mlp_neuron",
        "label": label[0], "description": label[1], "input_label": label[2], "output_label": label[3],
        "max_activation": max((abs(r["activation"]) for r in found), default=0.0), "num_exemplars": len(found),
        "appearance_count": len(graphs), "output_norm": 1.0, "cluster_path": path,
        "top_cluster": parts[0] if parts else None, "sub_module": parts[1] if len(parts) > 1 else None,
        "subsub_module": None, "hierarchy_depth": len(parts) if parts else None,
        "infomap_flow": (key[0] + 1) / 100 + key[1] / 10000 if path else None,
    }  # fmt: skip


def _clusters(paths: dict[tuple[int, int], str], flows: dict[tuple[int, int], list[float]], d_mlp: int) -> list[Row]:
    members: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for key, path in paths.items():
        parts = path.split(".")
        for level in range(1, len(parts) + 1):
            members[".".join(parts[:level])].append(key)
    return [_cluster(path, keys, flows, d_mlp) for path, keys in sorted(members.items())]


def _cluster(path: str, keys: list[tuple[int, int]], flows: dict[tuple[int, int], list[float]], d_mlp: int) -> Row:
    parts = [int(p) for p in path.split(".")]
    inside = set(keys)
    weight = {"internal": 0.0, "outgoing": 0.0, "incoming": 0.0}
    for (s, t), values in flows.items():
        a, b = divmod(s, d_mlp) in inside, divmod(t, d_mlp) in inside
        kind = "internal" if a and b else "outgoing" if a else "incoming" if b else None
        if kind:
            weight[kind] += sum(map(abs, values)) / len(values)
    depths = sorted(k[0] for k in keys)
    half = len(depths) // 2
    crossing = weight["outgoing"] + weight["incoming"]
    return {
        "cluster_path": path, "level": len(parts), "top_cluster": parts[0],
        "sub_module": parts[1] if len(parts) > 1 else None, "subsub_module": None, "size": len(keys),
        "layer_min": depths[0], "layer_max": depths[-1], "median_layer": (depths[half] + depths[~half]) / 2,
        "flow": 0.01 * len(keys), "label": "animals" if path == "1" else f"module {path}",
        **{f"{kind}_weight": w for kind, w in weight.items()},
        "conductance": crossing / (2 * weight["internal"] + crossing) if any(weight.values()) else None,
    }  # fmt: skip


def _keys(layers: int, d_mlp: int) -> list[tuple[int, int]]:
    return [(layer, n) for layer in range(layers) for n in range(d_mlp)]


def _exemplar(  # noqa: PLR0917
    layer: int, n: int, sign: int, rank: int, act: float, context: int, position: int, start: int, window: list[float]
) -> Row:
    return {
        "layer": layer, "neuron": n, "polarity": sign, "stratum": 0, "rank": rank, "activation": act,
        "context_id": context, "position": position, "window_start": start, "window": window,
    }  # fmt: skip


def _fired(layer: int, n: int, sign: int, token: int, times: int, total: float, high: float, low: float) -> Row:  # noqa: PLR0917
    return {
        "layer": layer, "neuron": n, "polarity": sign, "token_id": token, "n": times, "sum": total, "max": high,
        "min": low,
    }  # fmt: skip


def _drawn_firing(dice: random.Random, key: tuple[int, int], sign: int, token: int) -> Row:
    n = dice.randint(1, 20)
    low, high = sorted(sign * dice.randint(4, 40) / 4 for _ in range(2))
    return _fired(*key, sign, token, n, n * (low + high) / 2, high, low)


def _stats(key: tuple[int, int], fired_pos: int, fired_neg: int) -> Row:
    row: Row = {"layer": key[0], "neuron": key[1], "n_tokens": 800, "n_fired_pos": fired_pos, "n_fired_neg": fired_neg}
    hist = [0] * 66
    hist[1], hist[64] = 400, 400  # half of the positions at -1, half at +1
    return row | {
        "s1": 0.0, "s2": 800.0, "s3": 0.0, "s4": 800.0, "abs_sum": 800.0, "n_active": 400, "fire_pos": 0.5,
        "fire_neg": -0.5, "min": -2.0, "max": 5.0, "hist_lo": -2.0, "hist_hi": 6.0, "hist": hist,
        "quantiles": [-2.0, -1.0, -1.0, 0.0, 1.0, 1.0, 5.0], "calib_gate": 0.1, "calib_up": 0.2, "grad_tokens": 100,
        **{f"grad_s_{c}": 1.0 for c in ("a", "a2", "abs", "g2", "ag", "a2g2", "absag", "ag2")},
    }  # fmt: skip


def _wire(  # noqa: PLR0917
    layer: int, n: int, direction: str, sign: int, rank: int, other_layer: int, other: int, strength: float
) -> Row:
    return {
        "layer": layer, "neuron": n, "direction": direction, "polarity": sign, "rank": rank,
        "other_layer": other_layer, "other_neuron": other, "c_up": strength / 2, "c_gate": strength / 2,
        "lab_strength": strength, "effective_strength": strength, "polarity_source": "calibrated",
    }  # fmt: skip


def _label(
    key: tuple[int, int], text: str | None, *, source: str = "rule:tokens", run: str = "r1", polarity: int = 0
) -> Row:
    return {
        "layer": key[0], "neuron": key[1], "pass": "output", "polarity": polarity, "label": text, "short_label": None,
        "description": None, "type": "lexical", "interpretability": "high", "confidence": "rule", "status": "ok",
        "source": source, "model": source, "prompt_version": None, "prompt_hash": None, "run": run, "score": None,
        "created": None,
    }  # fmt: skip


def _prune(key: tuple[int, int], layers: int, d_mlp: int) -> Row:
    rank = key[1]  # neuron 0 is the least important of its layer
    return {
        "layer": key[0], "neuron": key[1], "weight_magnitude": 0.1 * (key[1] + 1), "weight_rank": d_mlp - key[1],
        "gate_norm": 1.0, "up_norm": 1.0, "output_norm": 1.0, "activation_magnitude": 1.0, "activation_variance": 1.0,
        "importance": float(rank), "pruning_score": 1 - rank / (d_mlp - 1), "score_method": "fisher", "eval_id": "e1",
        "fisher": float(rank), "wifv": float(rank * 7 % 5 + key[0]), "taylor_abs": float((rank + key[0]) % 3),
        "wanda": float(d_mlp - rank) * (key[0] + 1),
        "pruning_score_global": 1 - (rank * layers + key[0]) / (layers * d_mlp - 1),
    }  # fmt: skip


def _analysed(critical: bool) -> Row:
    return {"activation_magnitude": 0.3, "activation_variance": 0.1, "is_critical": critical}


def _impact(set_id: str, neurons: list[int], kl: float) -> Row:
    layer, neuron = divmod(neurons[0], D_MLP) if len(neurons) == 1 else (None, None)
    return {
        "set_id": set_id, "eval_id": "v1", "layer": layer, "neuron": neuron, "neurons": neurons,
        "n_neurons": len(neurons), "evidence": "measured", "impact_score": 0.1 * (2 * kl) / 0.01, "kl": kl,
        "kl_low": kl / 2, "kl_high": 2 * kl, "delta_nll": kl, "delta_nll_low": kl / 2, "delta_nll_high": 2 * kl,
        "kl_p99": 9 * kl, "top1_flip_rate": kl, "mean_change": 0.01, "max_change": 0.1, "tokens": 12000,
        "documents": 40, "budget": 0.01, "safe_to_prune": 2 * kl < 0.01, "reason": None, "activation_magnitude": None,
        "activation_variance": None, "is_critical": None, "sum_kl": None, "joint_over_sum": None, "ablation": "mean:0",
        "corpus": "c1", "model": "toy", "revision": "0123456789abcdef", "dtype": "float32", "run": "2026-01-02",
        "created": "2026-01-02",
    }  # fmt: skip


def _graph(graph: int, explained: float, residual: float) -> Row:
    return {
        "graph_id": graph, "document": graph, "prompt": "The dog runs", "token_ids": [5, 1, 4], "metric": "logit",
        "metric_value": 3.0, "targets": [4], "target_position": 1, "tau": 0.005, "n_nodes": 4, "n_edges": 5,
        "nodes_dropped": 0, "relevance_dropped": 0.0, "explained": explained, "remainder": 0.1,
        "explained_neurons": explained - 0.25,
        "completeness_residual": residual, "edge_method": "relp_direct", "dtype": "float32", "source_file": None,
        "source_hash": None,
    }  # fmt: skip


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the hand-made atlas once."""
    return write_atlas(tmp_path_factory.mktemp("atlas") / "small.duckdb", small_tables())


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the drawn atlas (seed 1, 5 x 40) once."""
    return write_atlas(tmp_path_factory.mktemp("atlas") / "drawn.duckdb", random_tables(1), layers=5, d_mlp=40)
