"""Queries judged by hand, over labels of the demo and of people -> nDCG@10 of a search mode.

The judgements do not look at any ranking. Over the demo's labels a neuron has grade 2 when one of its texts names
`need` of the query's words, 1 when it names any of them or of the related ones; over the people's labels two regular
expressions written for the query say 2 and 1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.query.semantic import hybrid, semantic

HERE = Path(__file__).parent
PEOPLES = HERE.parents[2] / "shared" / "data" / "neurons" / "feature-circuits_gemma-2-2b.jsonl"
Texts = list[tuple[str | None, ...]]  # label, description, input_label, output_label of neuron 0, 1, ...
Search = Callable[[str], Sequence[tuple[int, int]]]  # a query -> the first ten neurons


def demo_labels() -> Texts:
    """Labels that the rules gave 560 neurons of the demo."""
    rows = json.loads((HERE / "judged_demo.json").read_text(encoding="utf-8"))
    return [(label, None, label, output) for label, output in rows]


def peoples_labels(file: Path = PEOPLES) -> Texts:
    """Labels that people wrote for features of gemma-2-2b, with their notes."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        (row["Annotation"], row.get("notes") or None, None, None)
        for row in rows
        if isinstance(row.get("Annotation"), str)
    ]


def write_judged(file: Path, texts: Texts) -> Path:
    """An atlas of one layer whose neurons show these texts, with word index and vectors of all four fields."""
    from atlas.ingest.label_embeddings import FIELDS, embed_labels
    from atlas.ingest.search_index import build_index
    from atlas.models.text_embedder import load_embedder
    from atlas.store.connection import open_writer
    from atlas.store.ledger import set_metadata
    from atlas.store.schema import apply_schema

    con = open_writer(file)
    apply_schema(con, d_mlp=len(texts))
    set_metadata(con, {"num_layers": 1, "neurons_per_layer": len(texts), "model": "judged"})
    names = ("label", "description", "input_label", "output_label")
    rows = [{"neuron": place, **dict(zip(names, one, strict=True))} for place, one in enumerate(texts)]
    kinds = pa.schema([("neuron", pa.int32()), *((name, pa.string()) for name in names)])
    con.register("incoming", pa.Table.from_pylist(rows, schema=kinds))
    con.execute("INSERT INTO neurons BY NAME SELECT 0 AS layer, neuron::BIGINT AS feature_id, * FROM incoming")
    build_index(con)
    embed_labels(con, load_embedder(), fields=(*FIELDS, "description"))
    con.close()
    return file


def modes(opened: Atlas) -> dict[str, Search]:
    """The searches that are judged."""
    return {
        "words": lambda query: _first(opened.ask("label_search", {"query": query, "max_rows": 10})),
        "fuzzy": lambda query: _first(opened.ask("label_search", {"query": query, "mode": "fuzzy", "max_rows": 10})),
        "semantic": lambda query: _first(semantic(opened, query, limit=10)),
        "hybrid": lambda query: _first(hybrid(opened, query, limit=10)),
    }


def queries(part: str) -> list[dict[str, Any]]:
    """The queries over "demo" or "shared" labels."""
    found: list[dict[str, Any]] = json.loads((HERE / "judged_queries.json").read_text(encoding="utf-8"))[part]
    return found


def grade(query: dict[str, Any], texts: tuple[str | None, ...]) -> int:
    """0, 1 or 2: how well a neuron with these texts answers the query."""
    shown = [text for text in texts if text]
    if "two" in query:
        whole = " | ".join(shown)
        return 2 if re.search(query["two"], whole) else int(bool(query["one"] and re.search(query["one"], whole)))
    named = [set(re.findall(r"\w+", text)) for text in shown]
    if any(len(words & set(query["words"])) >= query["need"] for words in named):
        return 2
    return int(any(words & {*query["words"], *query["related"]} for words in named))


def ndcg(query: dict[str, Any], texts: Texts, found: Sequence[tuple[int, int]], *, at: int = 10) -> float:
    """Discounted cumulative gain (2^grade - 1) of the first ten over the best there is (Jarvelin, Kekalainen 2002)."""
    best = sorted((grade(query, one) for one in texts), reverse=True)
    got = [grade(query, texts[neuron]) for _, neuron in found[:at]]
    return _gain(got) / _gain(best[:at])


def judge(part: str, texts: Texts, search: Search) -> dict[str, float]:
    """Mean nDCG@10 by kind of query, and over all of them."""
    by_kind: dict[str, list[float]] = {}
    for query in queries(part):
        value = ndcg(query, texts, search(query["query"]))
        by_kind.setdefault(query["kind"], []).append(value)
        by_kind.setdefault("all", []).append(value)
    return {kind: sum(values) / len(values) for kind, values in by_kind.items()}


def _first(found: Answer) -> list[tuple[int, int]]:
    return [(row["layer"], row["neuron"]) for row in found.rows()]


def _gain(grades: Sequence[int]) -> float:
    return sum((2**one - 1) / math.log2(place + 2) for place, one in enumerate(grades))
