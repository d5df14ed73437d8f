"""sql/schema and tables.py agree; every column says what it is; files open in released clients."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from atlas.errors import InputError, ResourceError, StoreError
from atlas.store.connection import explain_failure, open_reader, open_writer
from atlas.store.content import content_hash
from atlas.store.schema import apply_schema, newest_version, require_readable, schema_version, store_macros
from atlas.store.write import replace_from_arrow, replace_from_query, transaction
from atlas.tables import TABLES


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.duckdb"
    con = open_writer(path)
    apply_schema(con, d_mlp=100)
    store_macros(con)
    con.close()
    return path


def test_tables_py_and_schema_agree(empty: Path) -> None:
    con = open_reader(empty)
    names = {
        row[0] for row in con.execute("SELECT table_name FROM duckdb_tables() WHERE database_name='atlas'").fetchall()
    }
    assert names == set(TABLES)
    for table, schema in TABLES.items():
        assert con.sql(f"SELECT * FROM atlas.{table} LIMIT 0").to_arrow_table().schema == schema, table


def test_everything_has_a_comment(empty: Path) -> None:
    con = open_reader(empty)
    bare = con.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name='atlas' AND comment IS NULL"
    ).fetchall()
    assert bare == []
    assert (
        con.execute("SELECT table_name FROM duckdb_tables() WHERE database_name='atlas' AND comment IS NULL").fetchall()
        == []
    )


def test_generated_columns_use_the_models_width(empty: Path) -> None:
    con = open_writer(empty)
    con.execute("INSERT INTO edges (src, tgt, count, weight_sum, weight_abs_sum) VALUES (5, 342, 4, -2, 6)")
    row = con.execute("SELECT tgt_layer, tgt_neuron, mean_weight, mean_abs_weight FROM edges").fetchall()
    assert row == [(3, 42, -0.5, 1.5)]


def test_apply_schema_twice_changes_nothing(empty: Path) -> None:
    con = open_writer(empty)
    apply_schema(con, d_mlp=100)
    assert schema_version(con) == newest_version()


def test_newer_schema_is_refused(empty: Path) -> None:
    con = open_writer(empty)
    con.execute("UPDATE metadata SET value = '999' WHERE key = 'schema_version'")
    con.close()
    with pytest.raises(StoreError, match=r"schema 999.*upgrade atlas"):
        require_readable(open_reader(empty), "empty.duckdb")


def test_released_shell_opens_our_file(empty: Path) -> None:
    shell = shutil.which("duckdb", path=str(Path(sys.executable).parent)) or shutil.which("duckdb")
    if shell is None:
        pytest.skip("no duckdb shell (pip install duckdb-cli)")
    out = subprocess.run(
        [shell, "-readonly", "-csv", str(empty), "SELECT count(*) FROM neurons"], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.split()[-1] == "0"


def test_a_reader_cannot_write(empty: Path) -> None:
    with pytest.raises(duckdb.Error, match="read-only"):
        open_reader(empty).execute("DELETE FROM atlas.neurons")


def test_missing_file_and_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no atlas at"):
        open_reader(tmp_path / "none.duckdb")
    other = tmp_path / "text.duckdb"
    other.write_text("not a database " * 100)
    with pytest.raises(StoreError, match="not a valid DuckDB"):
        open_reader(other)


def test_second_process_is_told_who_writes(empty: Path) -> None:
    con = open_writer(empty)
    code = (
        "import sys\nfrom atlas.store.connection import open_writer\nfrom atlas.errors import StoreError\n"
        f"try:\n    open_writer({str(empty)!r})\nexcept StoreError as error:\n    print(error); sys.exit(7)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    con.close()
    assert out.returncode == 7, out.stderr
    assert "in use by another process" in out.stdout


def test_failed_transaction_leaves_the_old_rows(empty: Path) -> None:
    con = open_writer(empty)
    replace_from_arrow(con, "vocab", pa.table({"token_id": [1], "token": ["a"], "count": [3]}).cast(TABLES["vocab"]))
    with pytest.raises(RuntimeError), transaction(con):
        replace_from_query(con, "vocab", "SELECT 2 AS token_id, 'b' AS token, 1 AS count")
        raise RuntimeError
    assert con.execute("SELECT token FROM vocab").fetchall() == [("a",)]


def test_content_hash_is_order_free_and_sees_every_change(tmp_path: Path) -> None:
    def made(name: str, order: str, change: str = "") -> str:
        con = open_writer(tmp_path / name)
        apply_schema(con, d_mlp=10)
        con.execute(
            "INSERT INTO edges (src, tgt, count, weight_sum) "
            f"SELECT i, i + 10, 1, i / 7 FROM range(50) t(i) ORDER BY {order}"
        )
        con.execute("INSERT INTO metadata VALUES ('created', $1)", [name])
        if change:
            con.execute(change)
        return content_hash(con)

    first = made("a", "i")
    assert made("b", "hash(i)") == first
    assert made("c", "i", "UPDATE edges SET weight_sum = weight_sum + 1e-6 WHERE src = 7") != first
    assert made("d", "i", "DELETE FROM edges WHERE src = 3") != first
    assert made("e", "i", "INSERT INTO metadata VALUES ('model', 'x')") != first


def test_disk_full_names_the_next_step() -> None:
    error = explain_failure(
        duckdb.IOException('IO Error: Could not write file "x": No space left on device'), "x.duckdb"
    )
    assert isinstance(error, ResourceError)
    assert "disk full" in str(error)
    assert "free space" in str(error)
