"""Search by meaning: texts embedded a second, recall@10 of exact cosine, latency beside exact cosine, nDCG@10 by mode.

    python scripts/bench/search_semantic.py [--quick] [--atlas FILE ...] [--vectors 1638400]

Texts are the distinct labels of the atlases and of ../shared, filled up with sentences of the shared stories. Recall
and the exact baseline are on them; for latency at full size their vectors are tiled with noise, apart from recall.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "query"))

from judged_search import PEOPLES, demo_labels, judge, modes, peoples_labels, write_judged

from atlas.ingest.label_embeddings import encode, store_embeddings
from atlas.models.text_embedder import TextEmbedder, load_embedder
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, open_writer
from atlas.store.ledger import set_metadata
from atlas.store.schema import apply_schema

ROOT = Path(__file__).parents[2]
STORIES = ROOT.parent / "shared" / "data" / "corpora" / "tinystories_1000.json"
D_MLP = 25_600
NOISE = 0.5  # length of what is added to a vector of length 1 before it is tiled
_AT_ONCE = 32_768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,500 texts and 60,000 vectors")
    parser.add_argument("--atlas", type=Path, nargs="*", default=sorted((ROOT / "data").glob("*.duckdb")))
    parser.add_argument("--texts", type=int, default=24_000)
    parser.add_argument("--vectors", type=int, default=1_638_400)
    given = parser.parse_args()
    texts = real_texts(given.atlas, 1_500 if given.quick else given.texts)
    size = 60_000 if given.quick else given.vectors
    vectors, speed = embed(texts)
    with tempfile.TemporaryDirectory() as work:
        found = {"texts": len(texts), "texts_per_s": speed, **recall(Path(work) / "real.duckdb", vectors)}
        found |= latency(Path(work) / "tiled.duckdb", vectors, size)
        found["ndcg_at_10"] = relevance(Path(work), quick=given.quick)
    print(json.dumps(found))


def real_texts(atlases: Sequence[Path], count: int) -> list[str]:
    """Distinct labels, then sentences; at most `count`."""
    labels: set[str] = set()
    for file in atlases:
        with Atlas(file) as opened:
            rows = opened.sql("SELECT unnest([label, input_label, output_label]) AS text FROM neurons").fetchall()
            labels |= {text for (text,) in rows if text}
    if PEOPLES.exists():
        labels |= {text for one in peoples_labels() for text in one if text}
    labels |= {text for one in demo_labels() for text in one if text}
    sentences: set[str] = set()
    if len(labels) < count and STORIES.exists():
        for story in json.loads(STORIES.read_text(encoding="utf-8")):
            sentences |= {s.strip() for s in re.split(r'(?<=[.!?"])\s+', story) if len(s.strip()) > 10}
    texts = [*sorted(labels), *sorted(sentences - labels)][:count]
    print(f"{len(texts):,} distinct texts: {min(len(labels), count):,} labels, the rest sentences of stories")
    return texts


def embed(texts: Sequence[str]) -> tuple[Any, dict[str, float]]:
    """Vectors [texts, 384] by the fastest way there is, and texts a second of processor time on one thread."""
    ways: dict[str, TextEmbedder] = {"numpy": load_embedder()}
    try:
        import torch

        from atlas.models.minilm_torch import load_bulk_minilm

        torch.set_num_threads(1)
        ways["torch"] = load_bulk_minilm()
    except ModuleNotFoundError:
        pass
    some, speed = texts[:: max(1, len(texts) // 400)], {}
    for name, way in ways.items():
        way.embed(some[:32])
        start = time.process_time()
        way.embed(some)
        speed[name] = round(len(some) / (time.process_time() - start), 1)
        print(f"  {name:<8} {speed[name]:,.0f} texts/s of {np.mean([len(t) for t in some]):.0f} characters")
    return list(ways.values())[-1].embed(texts), speed


def recall(file: Path, vectors: Any, queries: int = 200) -> dict[str, float]:
    """Share of the ten texts of highest exact cosine among the first ten rows; queries are texts of the set."""
    fill(file, vectors, len(vectors))
    chosen = np.random.default_rng(0).choice(len(vectors), min(queries, len(vectors)), replace=False)
    exact = [set(np.argsort(-(vectors @ vectors[one]), kind="stable")[:10].tolist()) for one in chosen]
    with Atlas(file) as opened:
        rows = [ask(opened, vectors[one]) for one in chosen]
    share = sum(len(a & {n for n, _ in b}) for a, b in zip(exact, rows, strict=True)) / (10 * len(chosen))
    print(f"recall@10 of exact cosine on {len(vectors):,} real texts: {share:.3f}")
    return {"recall_at_10": round(share, 4)}


def latency(file: Path, vectors: Any, size: int) -> dict[str, Any]:
    """Milliseconds of a search among `size` tiled vectors, and of exact cosine by NumPy on as many as there are."""
    took = timed(lambda: fill(file, vectors, size))[0]
    dice = np.random.default_rng(1)
    mixed = vectors[dice.integers(len(vectors), size=21)] + vectors[dice.integers(len(vectors), size=21)]
    kinds: dict[str, dict[str, object]] = {
        "semantic": {},
        "semantic, one layer": {"layer_from": 10, "layer_to": 10},
        "semantic, one field": {"of_field": "label"},
    }
    found: dict[str, Any] = {
        "vectors": size,
        "vector_bytes": file.stat().st_size,
        "fill_s": round(took, 1),
        "warm_ms": {},
    }
    with Atlas(file) as opened:
        found["cold_ms"] = round(1e3 * timed(lambda: ask(opened, mixed[0]))[0], 1)
        for kind, values in kinds.items():
            times = sorted(
                1e3 * timed(lambda one=one, values=values: ask(opened, one, **values))[0] for one in mixed[1:]
            )
            found["warm_ms"][kind] = {"min": times[0], "median": statistics.median(times), "p95": times[-2]}
            print(f"  {kind:<20} min {times[0]:.0f}, median {statistics.median(times):.0f}, p95 {times[-2]:.0f} ms")
    exact = min(timed(lambda one=one: np.argsort(-(vectors @ one))[:10])[0] for one in mixed[1:6])
    found["exact_ms_scaled"] = round(1e3 * exact * size / len(vectors), 1)  # 1,536 bytes a vector, all in memory
    found["ratio_to_exact"] = round(found["warm_ms"]["semantic"]["median"] / found["exact_ms_scaled"], 2)
    print(f"{size:,} vectors (tiled): {found['vector_bytes'] / size:.0f} bytes each, cold {found['cold_ms']} ms")
    return found


def relevance(work: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """nDCG@10 of every mode on the judged queries; the quick run leaves out the demo's when it has the people's."""
    parts = {"shared": peoples_labels()} if PEOPLES.exists() else {}
    if not (quick and parts):
        parts["demo"] = demo_labels()
    found: dict[str, dict[str, float]] = {}
    for part, texts in parts.items():
        with Atlas(write_judged(work / f"{part}.duckdb", texts)) as opened:
            for mode, search in modes(opened).items():
                values = judge(part, texts, search)
                found.setdefault(mode, {})[part] = round(values["all"], 3)
                print(f"  nDCG@10 {part:<7} {mode:<9}", " ".join(f"{k} {v:.3f}" for k, v in sorted(values.items())))
    return found


def fill(file: Path, vectors: Any, size: int) -> None:
    """An atlas of `size` neurons, each with a text of its own; beyond the real vectors tiled ones with noise."""
    con = open_writer(file, limits=Limits(memory="1GiB"))
    apply_schema(con, d_mlp=D_MLP)
    set_metadata(con, {"num_layers": -(-size // D_MLP), "neurons_per_layer": D_MLP, "model": "bench"})
    con.execute(
        "INSERT INTO neurons BY NAME SELECT (range // $d)::INT AS layer, (range % $d)::INT AS neuron, "
        "range AS feature_id, 'text ' || lpad(range::VARCHAR, 8, '0') AS label FROM range($n)", {"d": D_MLP, "n": size},
    )  # fmt: skip

    names = [f"text {place:08}" for place in range(size)]
    tile(con, names, vectors, embedder=_Bench(vectors.shape[1]))
    con.close()


def tile(con: duckdb.DuckDBPyConnection, texts: Sequence[str], vectors: Any, *, embedder: TextEmbedder) -> None:
    """Store a vector for every distinct text; beyond the real vectors tiled ones with noise."""
    dice = np.random.default_rng(0)

    def batches() -> Any:
        for first in range(0, len(texts), _AT_ONCE):
            places = np.arange(first, min(first + _AT_ONCE, len(texts)))
            some = vectors[places % len(vectors)]
            if len(texts) > len(vectors):
                some = some + dice.standard_normal(some.shape, dtype=np.float32) * np.float32(
                    NOISE / some.shape[1] ** 0.5
                )
            yield encode(texts[first : first + len(places)], some, dimension=some.shape[1])

    store_embeddings(con, batches(), embedder=embedder)
    con.execute("CHECKPOINT atlas")


class _Bench:
    """What the tiled vectors are said to come from."""

    name, digest = "bench", "0"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def embed(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError


def ask(opened: Atlas, vector: Any, **values: object) -> list[tuple[int, float]]:
    rows = opened.ask("label_semantic", {"of_vector": vector.tolist(), "max_rows": 10, **values}).rows()
    return [(row["feature_id"], row["score"]) for row in rows]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


if __name__ == "__main__":
    main()
