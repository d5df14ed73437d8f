"""A build on the demo model: whole, repeatable, resumable, and only what changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from small_build import DEMO, SMALL, write_recipe

from atlas.build import executor
from atlas.build.executor import BuildOptions, build
from atlas.build.recipe import read_recipe
from atlas.store.checks import run_checks
from atlas.store.connection import open_reader
from atlas.store.content import content_hash, row_counts, table_hashes

VERBATIM = [
    "SELECT layer, neuron, label FROM neurons WHERE top_cluster = 4466 AND sub_module = 2",
    "SELECT layer, neuron, label, top_cluster FROM neurons WHERE label ILIKE '%aspirin%'",
    "SELECT top_cluster, count(*) AS n, arg_max(label, max_activation, 3) FROM neurons "
    "WHERE top_cluster IS NOT NULL GROUP BY top_cluster ORDER BY n DESC LIMIT 20",
    "SELECT e.src_layer, e.src_neuron, e.tgt_layer, e.tgt_neuron, e.mean_weight, n1.label AS src_label, "
    "n2.label AS tgt_label FROM edges e JOIN neurons n1 ON e.src_layer = n1.layer AND e.src_neuron = n1.neuron "
    "JOIN neurons n2 ON e.tgt_layer = n2.layer AND e.tgt_neuron = n2.neuron WHERE n1.top_cluster = 1 "
    "AND n2.top_cluster = 1 ORDER BY e.mean_abs_weight DESC",
]


def digest(path: Path) -> str:
    con = open_reader(path)
    try:
        return content_hash(con)
    finally:
        con.close()


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """The finished atlas, its build folder and its recipe in a folder of the test's own."""
    shutil.copyfile(small, tmp_path / "small.duckdb")
    shutil.copytree(small.with_name("small.duckdb.build"), tmp_path / "small.duckdb.build")
    return write_recipe(tmp_path)


def test_every_table_is_filled_and_healthy(small: Path) -> None:
    con = open_reader(small)
    counts = row_counts(con)
    assert counts["neurons"] == 4 * 384
    # filled by commands of their own
    asked_for = ["cluster_labels", "impacts", "label_scores", "label_text_uses", "label_texts"]
    assert sorted(name for name, rows in counts.items() if rows == 0) == [*asked_for, "reported_activations"]
    assert [result for result in run_checks(con) if not result.healthy] == []
    con.close()


@pytest.mark.parametrize("query", VERBATIM)
def test_the_queries_its_users_know(small: Path, query: str) -> None:
    con = open_reader(small)
    con.execute(query)
    con.close()


def test_rerun_does_nothing(copy: Path) -> None:
    before = (copy.parent / "small.duckdb").stat().st_mtime_ns
    assert build(read_recipe(copy)).steps_run == ()
    assert (copy.parent / "small.duckdb").stat().st_mtime_ns == before


def test_rerun_without_the_build_folder_does_nothing(copy: Path) -> None:
    shutil.rmtree(copy.parent / "small.duckdb.build")
    assert build(read_recipe(copy)).steps_run == ()


def test_two_builds_and_any_number_of_workers_have_one_content(small: Path, tmp_path: Path) -> None:
    report = build(read_recipe(write_recipe(tmp_path)), options=BuildOptions(workers=1))
    assert report.content_hash == digest(small)


def test_only_what_changed_is_done_again(copy: Path) -> None:
    copy.write_text(copy.read_text().replace("[cluster]\n", "[cluster]\nseed = 5\n"))
    assert build(read_recipe(copy)).steps_run == ("table:infomap", "table:neurons", "table:search")


def test_a_replayed_step_gives_the_content_of_a_fresh_build(copy: Path, tmp_path: Path) -> None:
    text = (
        copy.read_text()
        .replace("fire_quantile = 0.9", "fire_quantile = 0.95")
        .replace("min_count = 1", "min_count = 2")
    )
    copy.write_text(text)
    replayed = build(read_recipe(copy))
    assert {"activations", "table:edges"} <= set(replayed.steps_run)
    assert "relp" not in replayed.steps_run
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    write_recipe(
        fresh,
        extra=SMALL.replace("fire_quantile = 0.9", "fire_quantile = 0.95").replace("min_count = 1", "min_count = 2"),
    )
    assert build(read_recipe(fresh / "small.toml")).content_hash == replayed.content_hash


class Stopped(BaseException):
    """Stands for a kill at this point."""


@pytest.mark.parametrize("step", ["table:exemplars", "table:edges", "table:neurons"])
def test_a_stop_between_steps_is_resumed(copy: Path, small: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    (copy.parent / "small.duckdb").unlink()
    real = executor._fill

    def stop(context, current):
        if current.name == step:
            raise Stopped
        real(context, current)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(executor, "_fill", stop)
        build(read_recipe(copy))
    assert not (copy.parent / "small.duckdb").exists()
    report = build(read_recipe(copy))
    assert report.steps_run[0] == step
    assert report.content_hash == digest(small)


def test_edges_from_the_wiring_when_no_graph_is_asked_for(tmp_path: Path) -> None:
    extra = SMALL.replace("graphs = 6", "graphs = 0")
    build(read_recipe(write_recipe(tmp_path, extra=extra)))
    con = open_reader(tmp_path / "small.duckdb")
    rows, lists = con.execute(
        "SELECT (SELECT count(*) FROM edges), (SELECT count(*) FROM wiring WHERE direction = 'downstream')"
    ).fetchall()[0]
    assert rows == lists > 0
    facts = dict(con.execute("FROM metadata").fetchall())
    assert facts["edge_method"] == "weight_graph" and facts["edge_truncation"].startswith("top 10")
    con.close()


def test_no_gradients_falls_back_and_says_so(tmp_path: Path) -> None:
    build(read_recipe(write_recipe(tmp_path, extra=SMALL.replace("documents = 30", "documents = 0"))))
    con = open_reader(tmp_path / "small.duckdb")
    assert con.execute("SELECT DISTINCT score_method FROM pruning").fetchall() == [("wifv",)]
    con.close()


def test_the_atlas_says_which_documents_it_was_scored_on(small: Path) -> None:
    texts = json.loads((DEMO / "corpus.json").read_text())[:80]
    first = {text: hashlib.sha256(text.encode()).digest() for text in texts}
    scored = [text for text in texts if int.from_bytes(first[text][:8], "big") % 10][:30]  # a tenth is held out
    con = open_reader(small)
    for role, read in (("activations", texts), ("gradients", scored)):
        rows = con.execute("SELECT sha256 FROM calibration_documents WHERE role = $1", [role]).fetchall()
        assert {row[0] for row in rows} == {first[text].hex() for text in read}
    con.close()


def test_a_second_build_of_the_same_atlas_is_refused(copy: Path, run) -> None:
    holder = (
        "import fcntl, sys, time\n"
        f"f = open({str(copy.parent / 'small.duckdb.build' / 'lock')!r}, 'a+')\n"
        "fcntl.flock(f, fcntl.LOCK_EX); f.truncate(0); f.write('4242'); f.flush()\n"
        "print('held', flush=True); time.sleep(60)\n"
    )
    copy.write_text(copy.read_text().replace("[cluster]\n", "[cluster]\nseed = 9\n"))
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        try:
            done = run("build", copy)
        finally:
            other.kill()
    assert done.code == 1
    assert "is being built by process 4242; wait for it or stop it first" in done.err


def test_content_of_every_table_is_hashed(small: Path) -> None:
    con = open_reader(small)
    assert set(table_hashes(con)) == set(row_counts(con))
    con.close()


def test_the_ledger_says_what_went_in(small: Path) -> None:
    con = open_reader(small)
    rows = con.execute(
        "SELECT step, source_file, rows_in, rows_out, rows_rejected, length(sha256) FROM atlas.ingests"
    ).fetchall()
    ledger = {row[0]: row[1:] for row in rows}
    written = row_counts(con)
    assert ledger["table:edges"][0] == ledger["table:statistics"][0] == "corpus.json"
    assert ledger["table:edges"][4] == 64
    assert ledger["table:logit_lens"][2] == written["logit_lens"]
    assert ledger["table:exemplars"][2] == written["exemplars"] + written["contexts"] + written["token_stats"]
    assert ledger["table:exemplars"][1] >= written["exemplars"]
    assert [row[3] for row in ledger.values()] == [0] * len(ledger)
    con.close()
