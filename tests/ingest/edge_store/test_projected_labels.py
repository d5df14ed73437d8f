"""Rule labels tell of edges: with other edges in the atlas they are made anew and found; without any there are none."""

from __future__ import annotations

from pathlib import Path

from observed import LAYERS, WIDTH, observations, write_shards

import atlas
from atlas.build.edge_store import EdgeOptions, Sizes, add
from atlas.build.projection import project_store
from atlas.ingest.label_choice import choose_labels
from atlas.ingest.projection import ProjectOptions
from atlas.ingest.search_index import build_index, index_state
from atlas.store.connection import open_writer


def test_rule_labels_follow_the_edges(tmp_path: Path) -> None:
    store, path = tmp_path / "st", tmp_path / "a.duckdb"
    given = write_shards(tmp_path / "s", 1, observations(3), [])
    add(store, [given], sizes=Sizes("small", LAYERS, WIDTH), options=EdgeOptions())
    project_store(store, path, how=ProjectOptions(1))
    with atlas.open(path) as a:
        assert a.sql("SELECT count(*) FROM labels").fetchall() == [(0,)]
    con = open_writer(path)
    con.execute("INSERT INTO labels BY NAME SELECT 0 AS layer, 0 AS neuron, 'output' AS pass, 0 AS polarity, "
                "'feeds nobody' AS label, 'ok' AS status, 'rule:edges' AS source")  # fmt: skip
    choose_labels(con)
    build_index(con)
    con.close()
    project_store(store, path, how=ProjectOptions(2))
    with atlas.open(path) as a:
        labels = dict(a.sql("SELECT layer * $w + neuron, label FROM labels".replace("$w", str(WIDTH))).fetchall())
        shown = dict(a.sql("SELECT feature_id, label FROM neurons WHERE label IS NOT NULL").fetchall())
        edges = a.sql("SELECT src, tgt, weight_sum, weight_abs_sum FROM edges").fetchall()
        assert index_state(a.cursor()) == "fresh"
    assert shown == labels and set(labels) == {src for src, *_ in edges}
    for src, label in labels.items():
        best = sorted((-size, tgt, flow) for s, tgt, flow, size in edges if s == src)[:3]
        told = [f"{'against ' if flow < 0 else ''}L{tgt // WIDTH}/N{tgt % WIDTH}" for _, tgt, flow in best]
        assert label == f"feeds {', '.join(told)}"
