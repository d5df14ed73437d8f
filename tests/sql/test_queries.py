"""Every macro: documented, free of name clashes, and its example runs here and in the released shell."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from synthetic import drawn, small  # noqa: F401

from atlas.store.connection import open_reader
from atlas.store.sqlfiles import example, header, sql_files

FILES = sql_files("queries")
FAMILIAR = [
    "SELECT layer, neuron, label FROM neurons WHERE top_cluster = 1 AND sub_module = 2",
    "SELECT layer, neuron, label, top_cluster FROM neurons WHERE label ILIKE '%aspirin%'",
    "SELECT top_cluster, count(*) AS n, arg_max(label, max_activation, 3) FROM neurons "
    "WHERE top_cluster IS NOT NULL GROUP BY top_cluster ORDER BY n DESC LIMIT 20",
    "SELECT e.src_layer, e.src_neuron, e.tgt_layer, e.tgt_neuron, e.mean_weight, n1.label AS src_label, "
    "n2.label AS tgt_label FROM edges e JOIN neurons n1 ON e.src_layer = n1.layer AND e.src_neuron = n1.neuron "
    "JOIN neurons n2 ON e.tgt_layer = n2.layer AND e.tgt_neuron = n2.neuron "
    "WHERE n1.top_cluster = 1 AND n1.sub_module = 2 AND n2.top_cluster = 1 AND n2.sub_module = 2 "
    "ORDER BY e.mean_abs_weight DESC",
]


@pytest.fixture(scope="module")
def con(small: Path) -> duckdb.DuckDBPyConnection:  # noqa: F811
    return open_reader(small)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_is_one_documented_macro_of_its_name(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = re.search(r"CREATE OR REPLACE MACRO (\w+)\s*\(([^)]*)\)\s*AS TABLE", text)
    assert found and found[1] == path.stem
    words = " ".join(header(text))
    assert example(text) and len(header(text)) >= 2
    for parameter in (p.split(":=")[0].strip() for p in found[2].split(",")):
        assert re.search(rf"\b{parameter}\b", words), f"{parameter} is not explained"
    assert "{{" not in text and "$" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_example_runs_and_finds_something(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    rows = con.execute(example(path.read_text(encoding="utf-8")) or "").fetchall()
    assert rows


def test_no_parameter_is_named_like_a_column(con: duckdb.DuckDBPyConnection) -> None:
    clashes = con.execute("""
        SELECT DISTINCT f.function_name, c.column_name
        FROM (SELECT function_name, unnest(parameters) AS parameter FROM duckdb_functions()
              WHERE function_type = 'table_macro' AND NOT internal) AS f
        JOIN duckdb_columns() AS c ON lower(c.column_name) = lower(f.parameter) AND NOT c.internal""").fetchall()
    assert clashes == []
    kind = "function_type = 'table_macro' AND NOT internal"
    macros = f"SELECT count(DISTINCT function_name) FROM duckdb_functions() WHERE {kind}"
    assert con.execute(macros).fetchall() == [(len(FILES),)]  # the test above saw all of them


def test_the_macros_stored_in_the_file_run_in_the_released_shell(small: Path) -> None:  # noqa: F811
    shell = shutil.which("duckdb") or shutil.which("duckdb", path=str(Path(sys.executable).parent))
    if shell is None:
        pytest.skip("no duckdb shell on this machine (pip install duckdb-cli)")
    script = "".join(f"SELECT '@{p.stem}';\n{example(p.read_text(encoding='utf-8'))};\n" for p in FILES)
    script += "".join(f"{query};\n" for query in FAMILIAR)
    done = subprocess.run(
        [shell, "-readonly", "-bail", "-csv", "-noheader", str(small)],
        input=script, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    parts = re.split(r"@(\w+)\n", done.stdout)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(found) == {p.stem for p in FILES}
    assert all(found.values()), [name for name, rows in found.items() if not rows]


def test_the_stored_macros_run_without_this_package(small: Path) -> None:  # noqa: F811
    con = duckdb.connect(str(small), read_only=True)
    assert len(con.execute("FROM label_search('aspirin')").fetchall()) == 1
    con.close()


def test_the_stored_macros_say_what_they_mean(small: Path) -> None:  # noqa: F811
    con = duckdb.connect(str(small), read_only=True)
    kind = "function_type = 'table_macro' AND NOT internal"
    found = dict(con.execute(f"SELECT function_name, comment FROM duckdb_functions() WHERE {kind}").fetchall())
    con.close()
    assert set(found) == {p.stem for p in FILES}
    for path in FILES:
        lines = [line for line in header(path.read_text(encoding="utf-8")) if not line.startswith("Try:")]
        assert found[path.stem] == " ".join(lines)


@pytest.mark.parametrize("query", FAMILIAR)
def test_the_familiar_queries_run(con: duckdb.DuckDBPyConnection, query: str) -> None:
    assert con.execute(query).fetchall()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_answers_come_in_one_order_whatever_the_threads(drawn: Path, path: Path) -> None:  # noqa: F811
    statement = example(path.read_text(encoding="utf-8")) or ""
    answers = []
    for threads in (1, 2):
        con = open_reader(drawn)
        con.execute(f"SET threads = {threads}")
        answers.append(repr(con.execute(statement).fetchall()))
    assert answers[0] == answers[1]
