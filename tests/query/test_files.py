"""Files of every origin: another tool's four tables, missing, damaged, newer, locked; and what importing costs."""

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from synthetic import random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError, StoreError
from atlas.build.revision import revise
from atlas.query.pruning import Ranking, summary
from atlas.store.connection import Limits, open_writer
from atlas.store.sqlfiles import example, sql_files

SEED_COLUMNS = {
    "neurons": "layer, neuron, feature_id, label, description, max_activation, num_exemplars, cluster_path, "
    "top_cluster, sub_module, subsub_module, hierarchy_depth, infomap_flow",
    "edges": "src_layer::INTEGER AS src_layer, src_neuron::INTEGER AS src_neuron, tgt_layer::INTEGER AS tgt_layer, "
    "tgt_neuron::INTEGER AS tgt_neuron, count, weight_sum, weight_abs_sum, weight_sq_sum, weight_min, weight_max, "
    "mean_weight, mean_abs_weight",
    "clusters": "cluster_path, level, top_cluster, sub_module, subsub_module, size, layer_min, layer_max, median_layer",
    "metadata": "key, value",
}


@pytest.fixture
def foreign(small: Path, tmp_path: Path) -> Path:  # noqa: F811
    """The four public tables alone, with the columns that another tool wrote."""
    path = tmp_path / "qwen.duckdb"
    con = duckdb.connect(str(path))
    con.execute(f"ATTACH '{small}' AS ours (READ_ONLY)")
    for table, columns in SEED_COLUMNS.items():
        con.execute(f"CREATE TABLE {table} AS SELECT {columns} FROM ours.{table} ORDER BY random()")
    con.execute("DELETE FROM metadata WHERE key NOT IN ('model')")
    con.close()
    return path


def test_another_tools_file_answers_from_what_it_has(foreign: Path, small: Path) -> None:  # noqa: F811
    before = foreign.read_bytes()
    with atlas.open(foreign) as a, atlas.open(small) as ours:
        assert (a.layers, a.d_mlp, a.schema) == (3, 8, 0)
        same = (
            "src_layer",
            "src_neuron",
            "tgt_layer",
            "tgt_neuron",
            "src_label",
            "mean_weight",
            "standard_error",
            "src",
            "tgt",
        )
        got, expected = a.edges().rows(), ours.edges().rows()
        assert [[r[c] for c in same] for r in got] == [[r[c] for c in same] for r in expected]
        assert {r["n_graphs"] for r in got} == {None}
        assert [r["layer"] for r in a.neuron("1_2").edges_in.rows()] == [0, 0, 0]
        assert len(a.search("dog")) == 4 and a.search("meowing").rows() == []  # output_label reads as NULL
        assert len(a.ego("1_2").nodes) == 6 and a.cluster("1").about["conductance"] is None
        assert "no table exemplars" in " ".join(a.neuron("1_2").notes)
        assert a.info()["missing_tables"] == sorted(a.missing) and "exemplars" in a.missing
        assert a.sql("SELECT count(*), count(output_norm) FROM neurons").fetchall() == [(24, 0)]
        for path in sql_files("queries"):
            a.sql(example(path.read_text(encoding="utf-8")) or "").fetchall()
    assert foreign.read_bytes() == before


def test_a_missing_table_is_named_with_the_next_step(foreign: Path) -> None:
    with atlas.open(foreign) as a:
        for ask in (lambda: a.tokens("0_0"), lambda: a.fires_on("dog"), lambda: a.exemplars("0_0"), a.prune):
            with pytest.raises(
                StoreError, match=r"no table '\w+' in qwen.duckdb \(schema 0\): built without .* \"atlas build"
            ):
                ask()
        with pytest.raises(StoreError, match="schema 0"):
            a.check()


def test_an_empty_table_gives_a_warning(tmp_path: Path) -> None:
    tables = {**small_tables(), "token_stats": [], "edges": [], "edges_top": []}
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as a:
        assert "token_stats is empty" in a.tokens("0_0").warnings[0] and len(a.tokens("0_0")) == 0
        assert "edges is empty" in a.edges().warnings[0]


def test_truncated_edges_carry_a_warning(tmp_path: Path) -> None:
    path = write_atlas(tmp_path / "a.duckdb", small_tables(), edge_truncation="top 10 per neuron")
    with atlas.open(path) as a:
        for warnings in (a.edges().warnings, a.neuron("0_0").edges_in.warnings, a.ego("0_0").edges.warnings):
            assert "top 10 per neuron" in warnings[0]


def test_a_file_that_does_not_say_whether_edges_were_truncated(foreign: Path, small: Path) -> None:  # noqa: F811
    with atlas.open(foreign) as a, atlas.open(small) as ours:
        assert "unknown" in a.truncation()[0] and a.info()["edge_truncation"] == "unknown"
        assert a.edges().warnings == a.truncation() == a.cluster("1").neighbours.warnings
        assert (ours.truncation(), ours.info()["edge_truncation"]) == ((), "none")


def test_dropped_token_statistics_are_a_sentence(tmp_path: Path) -> None:
    facts = {"token_stats_keep": 200, "token_stats_dropped_firings": 142667, "token_stats_dropped_rows": 91271}
    with atlas.open(write_atlas(tmp_path / "a.duckdb", small_tables(), **facts)) as a:
        assert a.tokens("0_0").warnings == a.fires_on(" aspirin").warnings == (
            "token statistics keep the 200 strongest tokens per neuron and sign; "
            "142,667 firings of 91,271 (neuron, token) pairs were dropped",
        )  # fmt: skip


def test_scores_of_several_evaluations_are_never_mixed(tmp_path: Path) -> None:
    tables = small_tables()
    tables["pruning"] += [row | {"eval_id": "e2", "pruning_score": 0.5} for row in tables["pruning"]]
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as a:
        for ask in (a.prune, lambda: summary(a)):
            with pytest.raises(InputError, match=r"2 evaluations .*: e1, e2\).*--eval-id"):
                ask()
        found = a.prune(everything=True, limit=None, ranking=Ranking(eval_id="e2")).rows()
        assert len(found) == 24 and {(r["eval_id"], r["pruning_score"]) for r in found} == {("e2", 0.5)}
        ranked = a.prune(everything=True, limit=None, ranking=Ranking("weights", "global", "e1")).rows()
        assert sorted(r["pruning_score"] for r in ranked) == pytest.approx([i / 23 for i in range(24)])
        with pytest.raises(InputError, match="2 evaluations: choose of_eval := one of e1, e2"):
            a.sql("FROM prune_candidates()").fetchall()
        assert {r[2] for r in a.sql("FROM prune_summary()").fetchall()} == {"e1", "e2"}


def test_a_file_without_the_columns_of_other_methods_answers_as_before(tmp_path: Path) -> None:
    path = write_atlas(tmp_path / "a.duckdb", small_tables())
    con = duckdb.connect(str(path))
    new = ("fisher", "wifv", "taylor_abs", "wanda", "pruning_score_global")
    for column in new:
        con.execute(f"ALTER TABLE pruning DROP COLUMN {column}")
    con.execute("UPDATE metadata SET value = '17' WHERE key = 'schema_version'")
    con.close()
    with atlas.open(path) as old, atlas.open(write_atlas(tmp_path / "new.duckdb", small_tables())) as ours:
        for ranking in (None, Ranking("fisher"), Ranking(scope="global"), Ranking("weights", "global")):
            got = old.prune(everything=True, limit=None, ranking=ranking).fetchall()
            assert got == ours.prune(everything=True, limit=None, ranking=ranking).fetchall()
        assert old.prune(ranking=Ranking("wifv")).rows()  # Var(a) ||w_out||^2 of the columns it has
        with pytest.raises(StoreError, match=r"no wanda scores in a\.duckdb \(schema 17\).*activations.*leave out"):
            old.prune(ranking=Ranking("wanda"))
        assert old.neuron("0_0").pruning.rows()[0]["fisher"] is None


def test_files_that_are_no_atlas(tmp_path: Path, small: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="no atlas at"):
        atlas.open(tmp_path / "none.duckdb")
    (tmp_path / "text.duckdb").write_text("hello " * 5000)
    with pytest.raises(StoreError, match=r"text\.duckdb"):
        atlas.open(tmp_path / "text.duckdb")
    duckdb.connect(str(tmp_path / "other.duckdb")).execute("CREATE TABLE t (i INTEGER)").close()
    with pytest.raises(StoreError, match="no table neurons"):
        atlas.open(tmp_path / "other.duckdb")
    newer = write_atlas(tmp_path / "newer.duckdb", small_tables(), schema_version=99)
    with pytest.raises(StoreError, match=r"schema 99.*upgrade"):
        atlas.open(newer)


def test_a_closed_atlas_says_so(small: Path) -> None:  # noqa: F811
    a = atlas.open(small)
    answer = a.search("dog")
    a.close()
    with pytest.raises(StoreError, match="closed"):
        answer.fetchall()


def test_an_atlas_that_another_process_writes(tmp_path: Path) -> None:
    path = write_atlas(tmp_path / "busy.duckdb", small_tables())
    script = (
        f"from atlas.store.connection import open_writer; con = open_writer({str(path)!r}); "
        "print('open', flush=True); input()"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout and writer.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match="in use by another process"):
            atlas.open(path)
    finally:
        writer.communicate("\n", timeout=20)
    atlas.open(path).close()


def test_importing_and_searching_load_no_heavy_library(small: Path) -> None:  # noqa: F811
    script = (
        "import sys, atlas.query.atlas, atlas.query.circuits, atlas.query.tokens, atlas.cli.query, atlas.cli.main\n"
        f"import atlas\natlas.open({str(small)!r}).search('dog').rows()\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'polars', 'transformers', 'pandas', 'scipy', 'numpy', 'pyarrow', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_file_of_schema_11_answers_as_before_and_is_completed_when_it_is_written_anew(tmp_path: Path) -> None:
    """Its edges_in has no ranks and it has no edge_totals."""
    new, old = (write_atlas(tmp_path / f"{name}.duckdb", random_tables(4), layers=5, d_mlp=40) for name in "ab")
    con = open_writer(old)
    con.execute("CREATE OR REPLACE TABLE edges_in AS SELECT tgt, src FROM edges_in ORDER BY tgt, src")
    later = "".join(path.read_text() for path in sql_files("schema") if path.name > "012")
    for table in re.findall(r"CREATE TABLE (\w+)", later):
        con.execute(f"DROP TABLE {table}")
    for table, column in re.findall(r"ALTER TABLE (pruning) ADD COLUMN (\w+)", later):
        con.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    con.execute("UPDATE metadata SET value = '11' WHERE key = 'schema_version'")
    con.close()
    asked = lambda a: [  # noqa: E731
        a.neuron("3_7").edges_in.rows(), a.ego("2_5", hops=2).nodes.rows(), a.similar("2_5", by="in").rows(),
        a.similar("2_5", by="both").rows(), a.common(["3_7", "3_8", "4_1"]).rows(),
        a.ask("edges_totals", {"of_targets": [127]}).rows(),
    ]  # fmt: skip
    with atlas.open(new) as a, atlas.open(old) as b:
        assert asked(a) == asked(b)
        assert len(a.check()) == len(b.check()) + 1 and all(r.healthy for r in b.check())
    revise(old, lambda con, fresh: None, d_mlp=40, limits=Limits("1GiB", 2), what="the atlas")
    with atlas.open(new) as a, atlas.open(old) as b:
        assert b.schema == a.schema and len(a.check()) == len(b.check())
        for table in ("edges_in", "edge_totals"):
            text = f"SELECT * FROM {table} ORDER BY ALL"
            for one, other in zip(a.sql(text).rows(), b.sql(text).rows(), strict=True):
                assert one == pytest.approx(other, rel=1e-12)
