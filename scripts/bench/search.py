"""Search on generated labels: time to index, size of the index, latency cold and warm of each mode, against others.

Labels of 40 to 200 characters of Zipf words (60,000 with inflections, seeded): 1.64M of them, --quick 100,000. The mix
is half rare words, a third common ones, the rest two or three words as they come in the texts. Against ILIKE, SQLite
FTS5 (any of the words, bm25, porter) and tantivy (pip install tantivy) in the same run. Cold = the first query over a
new connection. Percentages of the index are of the text's bytes.

Meaning: 24,000 real texts (search_semantic.py) are embedded, recall@10 is measured on them, and their vectors are tiled
with noise over the generated labels for the latency of semantic and hybrid search. nDCG@10 of every mode is that of the
judged queries of the tests. --words leaves all of this out.

    python scripts/bench/search.py --quick
    python scripts/bench/search.py --work FOLDER
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import search_semantic as semantic_bench

from atlas.ingest.search_index import build_index
from atlas.models.text_embedder import load_embedder
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, open_writer
from atlas.store.ledger import set_metadata
from atlas.store.schema import apply_schema, store_macros

WIDTH, VOCABULARY, AT_ONCE, SEED = 25_600, 60_000, 50_000, 6
Ask = Callable[[str], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 labels, under 50 s on 2 cores")
    parser.add_argument("--threads", type=int, default=2, help="of DuckDB")
    parser.add_argument("--work", type=Path, help="where everything is made")
    parser.add_argument("--words", action="store_true", help="no search by meaning")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="search_", dir=args.work) as folder:
        count = 100_000 if args.quick else 1_640_000
        print(json.dumps(measure(Path(folder), count, threads=args.threads, meaning=not args.words)))


def measure(folder: Path, count: int, *, threads: int, meaning: bool) -> dict[str, Any]:
    """Everything; the last line of the output."""
    words = vocabulary()
    file, limits = folder / "atlas.duckdb", Limits("1500MiB", threads, folder / "spill")
    result = write(file, words, count, limits)
    questions = mix(words, 24 if count < 1_000_000 else 60)
    ours = open_ask(file, limits)
    times = {name: timed(ask, queries) for name, ask, queries in modes(ours, questions)}
    times["ilike"] = timed(lambda q: ours.sql(f"SELECT count(*) FROM neurons WHERE label ILIKE '%{q}%'").fetchall(),
                           [q for q in questions if " " not in q][:5])  # fmt: skip
    others = {"fts5": fts5(ours, folder), "tantivy": tantivy(ours, folder)}
    for name, ask in others.items():
        if ask:
            times[name] = timed(ask, questions)
    ours.close()
    if meaning:
        result |= embedded(file, folder, limits, quick=count < 1_000_000)
        ours = open_ask(file, limits)
        times |= {mode: timed(lambda q, m=mode: ours.search(q, mode=m).fetchall(), questions[:20])
                  for mode in ("semantic", "hybrid")}  # fmt: skip
        ours.close()
    for name, seconds in times.items():
        say(f"{name:10} cold {seconds[0]:8.1f}  min {min(seconds[1:]):8.2f}  median "
            f"{statistics.median(seconds[1:]):8.2f}  p95 {percentile(seconds[1:]):8.2f} ms")  # fmt: skip
    ratio = {name: _ratio(times, name) for name in others}
    figures: tuple[Callable[[list[float]], float], ...] = (min, statistics.median, percentile)
    return result | {
        "labels": count, "threads": threads, "queries": len(questions),
        "cold_ms": {name: round(t[0], 1) for name, t in times.items()},
        "warm_ms": {name: [round(f(t[1:]), 2) for f in figures] for name, t in times.items()},
        "ratio_to_fts5": ratio["fts5"], "ratio_to_tantivy": ratio["tantivy"],
    }  # fmt: skip


def embedded(file: Path, folder: Path, limits: Limits, *, quick: bool) -> dict[str, Any]:
    """Vectors for every label of the atlas; recall_at_10 of the real ones and ndcg_at_10 by mode."""
    texts = semantic_bench.real_texts([], 1_500 if quick else 24_000)
    vectors, speed = semantic_bench.embed(texts)
    found = semantic_bench.recall(folder / "real.duckdb", vectors)
    con = open_writer(file, limits=limits)
    before, start = file.stat().st_size, time.perf_counter()
    labels = [label for (label,) in con.execute("SELECT DISTINCT label FROM neurons ORDER BY label").fetchall()]
    semantic_bench.tile(con, labels, vectors, embedder=load_embedder())
    store_macros(con)
    con.close()
    size = file.stat().st_size - before
    say(f"{len(labels):,} vectors in {time.perf_counter() - start:.1f} s, {size / len(labels):.0f} bytes each")
    found["ndcg_at_10"] = semantic_bench.relevance(folder, quick=quick)
    return {"texts_per_s": speed, "vectors": len(labels), "vector_bytes": size, **found}


def _ratio(times: dict[str, list[float]], other: str) -> float | None:
    """Time of the whole mix in mode words over that of the other; NULL when it is not installed."""
    return round(sum(times["words"][1:]) / sum(times[other][1:]), 3) if other in times else None


def vocabulary() -> list[str]:
    """Words of syllables with the endings s, ed and ing, in the order of their frequency."""
    dice, roots = np.random.default_rng(SEED), dict[str, None]()
    while len(roots) < VOCABULARY // 4 + 1:
        syllables = [
            "bcdfghklmnprstvw"[dice.integers(16)] + "aeiou"[dice.integers(5)] for _ in range(dice.integers(1, 4))
        ]
        roots["".join(syllables) + "bcdfghklmnprstvw"[dice.integers(16)]] = None
    words = [root + ending for root in roots for ending in ("", "s", "ed", "ing")][:VOCABULARY]
    dice.shuffle(words)
    return words


def texts(words: list[str], count: int) -> Iterator[pa.Table]:
    """Labels, AT_ONCE at a time."""
    dice, shown = np.random.default_rng(SEED), np.array(words, dtype=object)
    share = np.cumsum(1 / np.arange(1, len(words) + 1))
    lengths = np.array([len(word) + 1 for word in words])
    for first in range(0, count, AT_ONCE):
        rows = min(AT_ONCE, count - first)
        drawn = np.searchsorted(share, dice.random((rows, 60)) * share[-1])
        wanted = dice.integers(40, 201, (rows, 1))
        kept = (np.cumsum(lengths[drawn], axis=1) <= wanted + 1).sum(axis=1)
        labels = [" ".join(shown[row[:n]]) for row, n in zip(drawn, kept, strict=True)]
        yield pa.table({"feature_id": np.arange(first, first + rows), "label": labels})


def write(file: Path, words: list[str], count: int, limits: Limits) -> dict[str, Any]:
    """An atlas of labels, indexed: seconds, bytes of the index and of the text."""
    con = open_writer(file, limits=limits)
    apply_schema(con, d_mlp=WIDTH)
    for table in texts(words, count):
        con.register("incoming", table)
        places = f"feature_id // {WIDTH} AS layer, feature_id % {WIDTH} AS neuron"
        con.execute(f"INSERT INTO neurons BY NAME SELECT {places}, feature_id, label FROM incoming")
        con.unregister("incoming")
    set_metadata(con, {"model": "generated", "num_layers": -(-count // WIDTH), "neurons_per_layer": WIDTH})
    con.execute("CHECKPOINT atlas")
    before = file.stat().st_size
    start, cpu = time.perf_counter(), time.process_time()
    postings = build_index(con)
    con.execute("CHECKPOINT atlas")
    seconds, busy = time.perf_counter() - start, time.process_time() - cpu
    text = con.execute("SELECT sum(strlen(label)) FROM neurons").fetchall()[0][0]
    store_macros(con)
    con.close()
    size = file.stat().st_size - before
    say(f"index of {postings:,} postings in {seconds:.1f} s ({busy:.1f} s of processor), {size / text:.1%} of the text")
    return {"index_s": round(seconds, 1), "index_cpu_s": round(busy, 1), "index_bytes": size, "text_bytes": int(text)}


def mix(words: list[str], count: int) -> list[str]:
    """Half rare words, a third common ones, the rest two or three words drawn by their frequency."""
    dice = np.random.default_rng(SEED)
    share = np.cumsum(1 / np.arange(1, len(words) + 1))
    found = [words[i] for i in dice.integers(1_000, len(words), count // 2)]
    found += [words[i] for i in dice.integers(0, 200, count // 3)]
    while len(found) < count:
        drawn = np.searchsorted(share, dice.random(dice.integers(2, 4)) * share[-1])
        found.append(" ".join(words[i] for i in drawn))
    dice.shuffle(found)
    return found


def open_ask(file: Path, limits: Limits) -> Atlas:
    opened = Atlas(file, limits=limits)
    opened.index_state = "fresh"  # the check of the texts, once per open atlas, is not part of a query
    return opened


def modes(a: Atlas, questions: list[str]) -> list[tuple[str, Ask, list[str]]]:
    single = [query for query in questions if " " not in query]
    typos = [word[:1] + word[2:] + "e" if len(word) > 5 else word for word in single]

    def asked(mode: str) -> Ask:
        return lambda query: a.search(query, mode=mode).fetchall()

    return [
        ("words", asked("words"), questions),
        ("prefix", asked("words"), [word[:4] + "*" for word in single[:8]]),
        ("fuzzy", asked("fuzzy"), typos[:12]),
        ("substring", asked("substring"), [word[1:] for word in single[:5]]),
        ("regex", asked("regex"), [f"{word[:-1]}[a-m] [b-d]" for word in single[:5]]),
    ]


def fts5(a: Atlas, folder: Path) -> Ask:
    con = sqlite3.connect(folder / "fts5.sqlite")
    con.execute("CREATE VIRTUAL TABLE labels USING fts5(label, content='', tokenize='porter')")
    start = time.perf_counter()
    cursor = a.cursor().execute("SELECT feature_id, label FROM neurons ORDER BY feature_id")
    while rows := cursor.fetchmany(AT_ONCE):
        con.executemany("INSERT INTO labels (rowid, label) VALUES (?, ?)", rows)
    con.commit()
    size = (folder / "fts5.sqlite").stat().st_size
    say(f"SQLite FTS5 {time.perf_counter() - start:.1f} s, {size / 1e6:.0f} MB")
    statement = "SELECT rowid, bm25(labels) AS s FROM labels WHERE labels MATCH ? ORDER BY s LIMIT 20"
    return lambda query: con.execute(statement, [" OR ".join(query.split())]).fetchall()


def tantivy(a: Atlas, folder: Path) -> Ask | None:
    if importlib.util.find_spec("tantivy") is None:
        say("no tantivy: pip install tantivy to compare with it")
        return None
    import tantivy

    shape = tantivy.SchemaBuilder().add_text_field("label", tokenizer_name="en_stem")
    schema = shape.add_integer_field("id", stored=True).build()
    (folder / "tantivy").mkdir()
    index = tantivy.Index(schema, path=str(folder / "tantivy"))
    writer, start = index.writer(100_000_000, 1), time.perf_counter()
    cursor = a.cursor().execute("SELECT feature_id, label FROM neurons ORDER BY feature_id")
    while rows := cursor.fetchmany(AT_ONCE):
        for number, label in rows:
            writer.add_document(tantivy.Document(id=number, label=label))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()
    say(f"tantivy {time.perf_counter() - start:.1f} s")
    return lambda query: searcher.search(index.parse_query(query, ["label"]), 20).hits


def timed(ask: Ask, queries: list[str]) -> list[float]:
    """Milliseconds: the first query (cold), then every query once."""
    found = []
    for query in queries[:1] + queries:
        start = time.perf_counter()
        ask(query)
        found.append(1e3 * (time.perf_counter() - start))
    return found


def percentile(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, round(0.95 * len(values)))]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
