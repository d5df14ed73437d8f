"""Tables as plain files against the tables they were written from: rows, order, types, filters, bytes, refusals."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow.parquet as pq
import pytest
from synthetic import D_MLP, FLOWS, LABELS, PATHS, random_tables, small_tables, write_atlas

import atlas
from atlas.errors import InputError, StoreError
from atlas.export.plain import rows as rows_module
from atlas.export.plain.files import COMPRESSIONS, FORMATS, new_file, write_rows
from atlas.export.plain.rows import RowPlan, Rows

Row = dict[str, Any]
KEYS = {"edges": "src, tgt", "neurons": "layer, neuron", "labels": 'layer, neuron, "pass", polarity, source, run'}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = random_tables(8)
    again = [row | {"source": "llm", "run": "r2", "label": None, "status": "refused"} for row in tables["labels"][::3]]
    tables["labels"] = again + tables["labels"][::-1]
    return write_atlas(tmp_path_factory.mktemp("plain") / "d.duckdb", tables, layers=5, d_mlp=40)


@pytest.fixture
def a(drawn: Path) -> Iterator[atlas.Atlas]:
    with atlas.open(drawn) as opened:
        yield opened


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "f"


def expected(file: Path, table: str, where: str = "true") -> list[Row]:
    """Plain SQL on the file, without our code."""
    con = duckdb.connect(str(file), read_only=True)
    found = con.execute(f"SELECT * FROM {table} WHERE {where} ORDER BY {KEYS[table]}")
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    con.close()
    return rows


def written(opened: atlas.Atlas, table: str, out: Path, **plan: Any) -> list[Row]:
    write_rows(Rows(opened, table, RowPlan(**plan)), out, "parquet", force=True)
    return pq.read_table(out).to_pylist()


@pytest.mark.parametrize("table", sorted(KEYS))
def test_parquet_is_what_plain_sql_says(a: atlas.Atlas, drawn: Path, out: Path, table: str) -> None:
    assert write_rows(Rows(a, table, RowPlan()), out, "parquet").rows == len(expected(drawn, table)) > 100
    frame = polars.read_parquet(out)
    assert [{name: row[name] for name in frame.columns} for row in expected(drawn, table)] == frame.to_dicts()
    assert set(frame.columns) == set(expected(drawn, table)[0])


@pytest.mark.parametrize("table", sorted(KEYS))
def test_csv_and_json_lines_say_the_same(a: atlas.Atlas, drawn: Path, tmp_path: Path, table: str) -> None:
    for form in ("csv", "jsonl"):
        write_rows(Rows(a, table, RowPlan()), tmp_path / f"x.{form}", form)
    truth = expected(drawn, table)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    again = duckdb.sql(f"FROM read_csv('{tmp_path / 'x.csv'}', all_varchar=true, header=true)")
    told = [dict(zip(again.columns, row, strict=True)) for row in again.fetchall()]
    assert len(lines) == len(told) == len(truth)
    for row, line, cells in zip(truth, lines, told, strict=True):
        assert set(line) == set(row) == set(cells)
        for name, value in row.items():
            if isinstance(value, float):
                assert line[name] == pytest.approx(value, rel=1e-7) and float(cells[name]) == line[name]
            else:
                assert line[name] == value and cells[name] == (None if value is None else str(value))


def test_null_and_empty_text_differ_in_csv(tmp_path: Path, out: Path) -> None:
    tables = small_tables()
    tables["neurons"][3]["label"] = ""
    tables["neurons"][4]["label"] = 'two\nlines, "quoted"'
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        write_rows(Rows(opened, "neurons", RowPlan(columns=("neuron", "label"), layers=(0, 0))), out, "csv")
    assert out.read_text().startswith('"neuron","label"\n0,"dog words"\n')
    assert '\n3,""\n4,"two\nlines, ""quoted"""\n5,\n' in out.read_text()
    with out.open(newline="") as handle:
        assert next(row for row in csv.reader(handle) if row[0] == "4")[1] == 'two\nlines, "quoted"'


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path: Path, out: Path) -> None:
    tables = small_tables()
    tables["neurons"][0]["max_activation"] = math.nan
    tables["neurons"][1]["max_activation"] = math.inf
    tables["neurons"][2]["infomap_flow"] = -math.inf
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        write_rows(Rows(opened, "neurons", RowPlan(limit=3)), out, "jsonl")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines()]
    assert [row["max_activation"] for row in rows[:2]] == [None, None] and rows[2]["infomap_flow"] is None


@pytest.mark.parametrize(
    ("plan", "where"),
    [
        ({"layers": (1, 2)}, "src_layer BETWEEN 1 AND 2"),
        ({"to_layers": (3, 3), "min_count": 3}, "tgt_layer = 3 AND count >= 3"),
        ({"min_weight": 0.9}, "mean_abs_weight >= 0.9"),
        ({"where": "weight_min < -1 OR tgt = 55 -- said"}, "weight_min < -1 OR tgt = 55"),
        ({"selection": "layer:1-2"}, "src_layer IN (1, 2) OR tgt_layer IN (1, 2)"),
        ({"selection": "layer:1-2", "ends": "both"}, "src_layer IN (1, 2) AND tgt_layer IN (1, 2)"),
        ({"selection": ["L0/N3", "L1/N4"], "ends": "source"}, "src IN (3, 44)"),
        ({"selection": ["L4/N3", "L3/N4"], "ends": "target"}, "tgt IN (163, 124)"),
    ],
    ids=["layers", "targets", "weight", "where", "any", "both", "source", "target"],
)
def test_filters_of_edges(a: atlas.Atlas, drawn: Path, out: Path, plan: Row, where: str) -> None:
    truth = expected(drawn, "edges", where)
    found = written(a, "edges", out, **plan)
    assert truth and len(truth) < 600
    assert [{name: row[name] for name in found[0]} for row in truth] == found


def test_labels_and_modules_of_both_ends(tmp_path: Path, out: Path) -> None:
    with atlas.open(write_atlas(tmp_path / "a.duckdb", small_tables())) as opened:
        found = written(opened, "edges", out, with_labels=True)
    for (src, tgt), row in zip(sorted(FLOWS), found, strict=True):
        for end, one in (("src", src), ("tgt", tgt)):
            place = divmod(one, D_MLP)
            assert row[f"{end}_label"] == LABELS.get(place, (None,))[0] and row[f"{end}_cluster"] == PATHS.get(place)


def test_columns_are_in_the_order_asked_for(a: atlas.Atlas, out: Path) -> None:
    assert list(written(a, "edges", out, columns=("count", "tgt", "src"), limit=4)[0]) == ["count", "tgt", "src"]
    assert len(written(a, "edges", out, columns=("count",), limit=4)) == 4


def test_pieces_leave_no_trace(a: atlas.Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = RowPlan(selection="layer:0-3", with_labels=True)
    whole = {form: write_rows(Rows(a, "edges", plan), tmp_path / f"w.{form}", form) for form in FORMATS}
    monkeypatch.setattr(rows_module, "PIECE", 30)
    monkeypatch.setattr(rows_module, "_BLOCK", 4)
    monkeypatch.setattr(rows_module, "_BATCH", 7)
    assert len(Rows(a, "edges", plan)._spans()) > 10
    for form in FORMATS:
        assert write_rows(Rows(a, "edges", plan), tmp_path / f"p.{form}", form) == whole[form]
        assert (tmp_path / f"p.{form}").read_bytes() == (tmp_path / f"w.{form}").read_bytes(), form
    for limit in (1, 29, 31, 599):
        some = [row["src"] for row in written(a, "edges", tmp_path / "l", limit=limit)]
        assert some == [row["src"] for row in written(a, "edges", tmp_path / "l")][:limit]


@pytest.mark.parametrize("form", FORMATS)
def test_equal_bytes_however_many_threads(drawn: Path, tmp_path: Path, form: str) -> None:
    from atlas.query.atlas import Atlas
    from atlas.store.connection import Limits

    for place, threads in enumerate((1, 4)):
        with Atlas(drawn, limits=Limits("64MiB", threads)) as opened:
            write_rows(Rows(opened, "labels", RowPlan()), tmp_path / str(place), form)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_packed_text_has_no_date(a: atlas.Atlas, tmp_path: Path) -> None:
    for name in ("one.gz", "two.gz"):
        write_rows(Rows(a, "neurons", RowPlan()), tmp_path / name, "csv", compression="gzip")
    write_rows(Rows(a, "neurons", RowPlan()), tmp_path / "plain", "csv")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == (tmp_path / "plain").read_bytes()


def test_codecs_of_parquet(a: atlas.Atlas, tmp_path: Path) -> None:
    for how in COMPRESSIONS["parquet"]:
        write_rows(Rows(a, "edges", RowPlan(limit=50)), tmp_path / how, "parquet", compression=how)
        found = pq.ParquetFile(tmp_path / how).metadata.row_group(0).column(0).compression
        assert found == ("UNCOMPRESSED" if how == "none" else how.upper())


def test_parquet_says_what_it_is(a: atlas.Atlas, out: Path) -> None:
    write_rows(Rows(a, "edges", RowPlan(with_labels=True)), out, "parquet")
    schema = pq.read_schema(out)
    assert schema.metadata[b"model"] == b"toy" and schema.metadata[b"table"] == b"edges"
    assert b"sum of the flow" in schema.field("weight_sum").metadata[b"description"]
    assert schema.field("tgt_label").metadata[b"description"] == b"label of the target"


def test_an_atlas_of_another_tool(tmp_path: Path, out: Path) -> None:
    con = duckdb.connect(str(tmp_path / "f.duckdb"))
    con.execute("CREATE TABLE neurons AS SELECT 0 AS layer, unnest(range(3)) AS neuron, 'a' AS label")
    con.execute("CREATE TABLE edges AS SELECT 0 AS src_layer, 1 AS src_neuron, 0 AS tgt_layer, 2 AS tgt_neuron, "
                "5 AS count, 0.5 AS mean_weight, 0.75 AS mean_abs_weight")  # fmt: skip
    con.execute("INSERT INTO edges VALUES (0, 2, 1, 0, NULL, 1, 1)")
    con.close()
    with atlas.open(tmp_path / "f.duckdb") as opened:
        row, unknown = written(opened, "edges", out, with_labels=True)
        assert unknown["count"] is None and len(written(opened, "edges", out, min_count=2)) == 1
        assert (row["src"], row["tgt"], row["count"], row["mean_abs_weight"], row["tgt_label"]) == (1, 2, 5, 0.75, "a")
        assert len(written(opened, "neurons", out)) == 3
        with pytest.raises(StoreError, match=r"no table 'labels' in f\.duckdb"):
            Rows(opened, "labels", RowPlan())


def test_an_empty_table_is_a_head_line_and_a_note(tmp_path: Path, out: Path) -> None:
    with atlas.open(write_atlas(tmp_path / "a.duckdb", {"neurons": small_tables()["neurons"]})) as opened:
        rows = Rows(opened, "edges", RowPlan(columns=("src", "tgt")))
        assert write_rows(rows, out, "csv").rows == 0 and out.read_text() == '"src","tgt"\n'
        assert "table edges is empty" in rows.warnings[0]
        assert written(opened, "edges", out) == []


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"columns": ("src", "nothing")}, "no column 'nothing' of edges; there are src, tgt"),
        ({"columns": ("src", "tgt", "src")}, "columns src, tgt, src name one twice"),
        ({"where": "nothing > 1"}, "nothing"),
        ({"where": "count > $most"}, "most"),
        ({"where": "count >"}, "syntax error"),
        ({"where": "1=1) ; DROP TABLE edges; SELECT * FROM (SELECT 1"}, "syntax error|expected one SELECT"),
        ({"layers": (3, 1)}, "no layers 3 to 1: the atlas has layers 0 to 4"),
        ({"to_layers": (0, 5)}, "no layers 0 to 5"),
        ({"selection": "label:no such words"}, "no neuron matches"),
        ({"selection": "L9/N0"}, "out of range"),
    ],
    ids=["column", "twice", "unknown", "value", "syntax", "statements", "turned", "beyond", "nobody", "range"],
)
def test_what_cannot_be_asked(a: atlas.Atlas, out: Path, plan: Row, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_rows(Rows(a, "edges", RowPlan(**plan)), out, "csv")
    assert not out.exists() and not (out.parent.exists() and any(out.parent.iterdir()))


def test_targets_that_are_refused(a: atlas.Atlas, tmp_path: Path) -> None:
    def write(target: Path, form: str = "csv", **how: Any) -> None:
        write_rows(Rows(a, "neurons", RowPlan()), target, form, **how)

    (tmp_path / "there").write_text("mine")
    (tmp_path / "file").write_text("")
    for target, message in (
        (tmp_path / "there", "exists; give another -o FILE, or --force to replace it"),
        (tmp_path, "is a folder, expected a file"),
        (Path(os.devnull), "is no regular file"),
        (tmp_path / "file" / "x.csv", "cannot write .*; give another -o FILE"),
    ):
        with pytest.raises(InputError, match=message):
            write(target)
    with pytest.raises(InputError, match="csv is not packed with zstd; use none or gzip"):
        write(tmp_path / "x", compression="zstd")
    with pytest.raises(InputError, match="no writer for rows as 'xlsx'"):
        write(tmp_path / "x", "xlsx")
    assert (tmp_path / "there").read_text() == "mine"
    write(tmp_path / "there", force=True)
    assert (tmp_path / "there").read_text().startswith('"layer"')
    assert {path.name for path in tmp_path.iterdir()} == {"there", "file"}


def test_an_interrupted_export_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), new_file(target, force=True) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_leaves_the_old_file(
    drawn: Path, tmp_path: Path, form: str, limited: Callable[[int], None]
) -> None:
    target = tmp_path / f"e.{form}"
    target.write_text("old")
    done = subprocess.run(
        [sys.executable, "-m", "atlas", "export", "edges", "--atlas", str(drawn), "-o", str(target), "--force", "-q"],
        capture_output=True, text=True, preexec_fn=lambda: limited(4_000),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"atlas: cannot write {target}: File too large (") and done.stderr.count("\n") == 1
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.fixture
def limited() -> Callable[[int], None]:
    """No file may grow beyond so many bytes: as on a full disk."""
    return lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
