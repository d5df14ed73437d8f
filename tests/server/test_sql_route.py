"""SQL over HTTP: what it answers, and all that it must not do, tried on a real server; afterwards all is as before."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest
from served import Served, serving
from synthetic import small_tables, write_atlas


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose statements may take 256 MiB and 3 s."""
    file = write_atlas(tmp_path_factory.mktemp("sql") / "small.duckdb", small_tables())
    with serving(file, sql_memory="256MiB", sql_seconds=3.0, max_bytes=1 << 20) as found:
        yield found


@pytest.fixture
def unharmed(served: Served) -> Iterator[None]:
    """After the test the file is the same, nothing lies beside it, cards and SQL are answered."""
    file = served.settings.atlas
    before, beside = sha256(file.read_bytes()).hexdigest(), sorted(file.parent.iterdir())
    yield
    assert sha256(file.read_bytes()).hexdigest() == before
    assert sorted(file.parent.iterdir()) == beside
    assert served.client.get("/api/v1/neurons/0:0").status_code == 200
    assert rows(served, "SELECT count(*) AS n FROM edges") == [{"n": 9}]


def post(served: Served, sql: str, **more: Any) -> Any:
    return served.client.post("/api/v1/sql", json={"sql": sql, **more})


def rows(served: Served, sql: str, **more: Any) -> Any:
    reply = post(served, sql, **more)
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]["rows"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) AS n FROM neurons",
        "FROM edges_from(1, 2)",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) AS s FROM t",
        "DESCRIBE neurons",
        "SHOW TABLES",
        "SUMMARIZE neurons",
        "SELECT * FROM duckdb_columns() WHERE table_name = 'edges' LIMIT 1",
        "SELECT table_name FROM information_schema.tables ORDER BY ALL LIMIT 1",
        "SELECT unnest(range(3)) AS n;",
        "VALUES (1), (2)",
        "SELECT n.label, e.count FROM edges AS e JOIN neurons AS n ON n.feature_id = e.src ORDER BY ALL LIMIT 2",
    ],
)
def test_selects_are_answered(served: Served, sql: str) -> None:
    assert rows(served, sql)


REFUSED = [
    "INSERT INTO labels SELECT * FROM labels", "UPDATE neurons SET label = 'x'", "DELETE FROM edges",
    "CREATE TABLE t (a INTEGER)", "CREATE MACRO m() AS 1", "CREATE TEMP VIEW v AS SELECT 1", "DROP TABLE edges",
    "ALTER TABLE edges ADD COLUMN x INTEGER", "TRUNCATE edges",
    "MERGE INTO labels USING labels AS x ON true WHEN MATCHED THEN DELETE",
    "ATTACH '{here}/new.duckdb'", "ATTACH '{atlas}' AS again", "DETACH atlas", "USE memory",
    "COPY neurons TO '{here}/out.csv'", "COPY labels FROM '/etc/passwd'", "COPY (SELECT 1) TO '/dev/stdout'",
    "EXPORT DATABASE '{here}/out'", "IMPORT DATABASE '{here}/out'",
    "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_parquet('/srv/*.parquet')", "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_blob('/proc/self/environ')", "SELECT * FROM glob('/etc/*')", "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'file.csv'", "FROM 'https://example.org/a.parquet'", "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/srv/a')", "SELECT * FROM \"read_text\"('/etc/hostname')",
    "SELECT * FROM system.main.read_text('/etc/hostname')", "SELECT (SELECT content FROM read_text('/etc/hostname'))",
    "WITH x AS (FROM read_text('/etc/hostname')) FROM x", "SELECT * FROM /* */ Read_Text /* */ ('/etc/hostname')",
    "INSTALL httpfs", "LOAD httpfs", "LOAD '/srv/x.duckdb_extension'", "FORCE INSTALL spatial",
    "SET threads = 64", "SET memory_limit = '100GB'", "SET enable_external_access = true", "RESET memory_limit",
    "SET lock_configuration = false", "PRAGMA enable_profiling", "PRAGMA database_list", "PRAGMA version",
    "SET VARIABLE x = 1",
    "CALL pragma_version()", "CALL duckdb_settings()", "CHECKPOINT", "VACUUM", "ANALYZE", "BEGIN", "COMMIT",
    "PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE p", "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT 1",
    "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE edges", "", "  ;  ", "-- nothing", "not sql at all",
    "SELECT getenv('HOME')", "SELECT current_setting('temp_directory')", "FROM duckdb_settings()",
    "FROM duckdb_databases()", "FROM duckdb_secrets()", "FROM duckdb_extensions()", "FROM pragma_database_list",
    "FROM pg_catalog.pg_settings", "FROM duckdb_databases", "SELECT * FROM query('FROM duckdb_settings()')",
    "SELECT * FROM query_table('duckdb_databases')", "FROM duckdb_logs", "FROM enable_logging()", "FROM checkpoint()",
    "FROM enable_profiling()", "FROM \"Duckdb_Settings\"()", "SELECT * FROM (FROM duckdb_settings()) AS x",
    "PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b)",
]  # fmt: skip


@pytest.mark.parametrize("sql", REFUSED)
@pytest.mark.usefixtures("unharmed")
def test_what_is_no_reading_of_the_atlas_is_refused(served: Served, tmp_path: Path, sql: str) -> None:
    reply = post(served, sql.format(here=tmp_path, atlas=served.settings.atlas))
    assert reply.status_code == 400, reply.text
    assert set(reply.json()) == {"error", "details"} and "\n" not in reply.json()["error"]
    assert list(tmp_path.iterdir()) == []


HUNGRY = [
    "SELECT len(range(1000000000000)) AS n",
    "SELECT list(range) AS n FROM range(10000000000)",
    "SELECT repeat('x', 1000000000) AS x FROM range(2000)",
    "SELECT string_agg(repeat('x', 1000000), '') AS x FROM range(100000)",
    "SELECT list_resize([1], 1000000000) AS x",
    "SELECT count(DISTINCT a.range * 100000 + b.range) AS n FROM range(100000) AS a, range(100000) AS b",
    "SELECT rpad('x', 2000000000, 'y') AS x",
]


@pytest.mark.parametrize("sql", HUNGRY)
@pytest.mark.usefixtures("unharmed")
def test_what_needs_too_much_memory_is_stopped(served: Served, sql: str) -> None:
    before = psutil.Process().memory_info().rss
    reply = post(served, sql)
    assert reply.status_code == 400, reply.text[:300]
    said = reply.json()["error"]
    assert "256MiB" in said or "took more than 3 s" in said or "bytes are sent" in said or "Lists larger" in said
    assert psutil.Process().memory_info().rss - before < 200 << 20


ENDLESS = [
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "SELECT count(*) FROM range(1000000) AS a, range(1000000) AS b WHERE (a.range * b.range) % 7 = 3",
    "SELECT regexp_replace(repeat('a', 100000000), '(a+)+b', 'x') FROM range(100)",
]


@pytest.mark.parametrize("sql", ENDLESS)
@pytest.mark.usefixtures("unharmed")
def test_what_runs_for_ever_is_stopped(served: Served, sql: str) -> None:
    begun = time.monotonic()
    reply = post(served, sql)
    assert reply.status_code == 400
    assert "took more than 3 s" in reply.json()["error"] or "256MiB" in reply.json()["error"]
    assert time.monotonic() - begun < 30
    assert not busy_children()


def test_a_client_that_goes_away_ends_its_statement(served: Served) -> None:
    with served.client.stream("GET", "/api/v1/sql", params={"q": "FROM range(1000000000000)"},
                              headers={"accept": "text/csv"}) as reply:  # fmt: skip
        assert next(reply.iter_raw()).startswith(b"range\n0\n1\n")
    assert eventually(lambda: not busy_children())
    with pytest.raises(Exception, match="timed out"):
        served.client.get("/api/v1/sql", params={"q": ENDLESS[0]}, timeout=0.5)
    assert eventually(lambda: not busy_children(), seconds=2.5)  # before the statement's own 3 s


def test_statements_at_once_leave_cards_alone_and_the_rest_are_told_to_wait(start: Callable[..., Served]) -> None:
    served = start(sql_seconds=12.0, sql_memory="256MiB", sql_workers=2)
    replies: list[Any] = []
    askers = [threading.Thread(target=lambda: replies.append(post(served, ENDLESS[1]))) for _ in range(3)]
    for asker in askers:
        asker.start()
    time.sleep(1)
    begun = time.monotonic()
    assert served.client.get("/api/v1/neurons/0:0").status_code == 200
    took = time.monotonic() - begun
    for asker in askers:
        asker.join()
    assert sorted(reply.status_code for reply in replies) == [400, 400, 503]
    assert next(r for r in replies if r.status_code == 503).headers["retry-after"] == "5"
    assert took < 5, "a card waited for statements"


def test_nothing_that_takes_no_argument_tells_of_the_machine(served: Served) -> None:
    named = """SELECT DISTINCT function_name AS f FROM duckdb_functions()
        WHERE internal AND len(parameters) = 0 AND function_type = $kind"""
    views = "SELECT view_name AS f FROM duckdb_views() WHERE internal"
    statements = [f'FROM "{row["f"]}"()' for row in rows(served, named, parameters={"kind": "table"})]
    statements += [f'SELECT "{row["f"]}"() AS x' for row in rows(served, named, parameters={"kind": "scalar"})]
    statements += [f'FROM "{row["f"]}"' for row in rows(served, views)]
    assert len(statements) > 60
    folder = str(served.settings.atlas.parent)
    for statement in statements:
        reply = post(served, statement)
        assert reply.status_code in (200, 400), (statement, reply.text[:300])
        assert folder not in reply.text, statement
        assert os.environ["PATH"] not in reply.text


def test_values_are_bound_and_never_read_as_sql(served: Served) -> None:
    odd = "'; DROP TABLE edges; --"
    assert rows(served, "SELECT $x AS x", parameters={"x": odd}) == [{"x": odd}]
    values = {"n": 3, "f": 0.5, "t": True, "z": None, "l": [1, 2], "s": {"a": 1}}
    sql = "SELECT $n AS n, $f AS f, $t AS t, $z AS z, $l AS l, $s AS s"
    assert rows(served, sql, parameters=values) == [values]
    assert post(served, "SELECT $n", parameters={"m": 1}).status_code == 400
    assert post(served, "SELECT $n", parameters={"n; --": 1}).status_code == 400


def test_values_of_every_type_have_a_form_in_json(served: Served) -> None:
    sql = """SELECT 1::HUGEINT << 100 AS huge, 'nan'::DOUBLE AS nan, 'inf'::FLOAT AS inf, 1.50::DECIMAL(5, 2) AS d,
        DATE '2026-01-02' AS day, TIMESTAMP '2026-01-02 03:04:05' AS t, INTERVAL 1 DAY AS i, {'a': [1, NULL]} AS s,
        MAP {'k': 1} AS m, 'é' AS e, '\\xAA'::BLOB AS b, NULL AS z, uuid_nil() AS u"""
    sql = sql.replace("uuid_nil()", "'00000000-0000-0000-0000-000000000000'::UUID")
    row = rows(served, sql)[0]
    assert row["huge"] == 1 << 100 and row["nan"] is None and row["inf"] is None and row["d"] == "1.50"
    assert (row["day"], row["t"], row["e"], row["z"]) == ("2026-01-02", "2026-01-02 03:04:05", "é", None)
    assert row["s"] == {"a": [1, None]} and row["m"] == {"k": 1}


def test_repeated_names_are_kept_apart_and_many_columns_refused(served: Served) -> None:
    reply = post(served, "SELECT 1 AS a, 2 AS a, 3 AS a_1").json()["data"]
    assert reply["columns"] == ["a", "a_1", "a_1_1"] and reply["rows"] == [{"a": 1, "a_1": 2, "a_1_1": 3}]
    wide = "SELECT " + ", ".join(f"{i} AS c{i}" for i in range(6000))
    assert "6,000 columns" in post(served, wide).json()["error"]


def test_a_json_answer_is_cut_at_rows_and_bytes_and_says_so(served: Served) -> None:
    data = post(served, "FROM range(100000)").json()["data"]
    assert (len(data["rows"]), data["truncated"]) == (10_000, True) and "all" in data["warnings"][0]
    data = post(served, "FROM range(10)", limit=10).json()["data"]
    assert (len(data["rows"]), data["truncated"], data["warnings"]) == (10, False, [])
    data = post(served, "FROM range(10)", limit=9).json()["data"]
    assert (len(data["rows"]), data["truncated"]) == (9, True)
    data = post(served, "SELECT repeat('x', 100000) AS x FROM range(100)").json()["data"]
    assert (len(data["rows"]), data["truncated"]) == (10, True)
    assert "1,048,576 are sent" in post(served, "SELECT repeat('x', 2000000) AS x").json()["error"]


def test_a_stream_has_all_rows_in_every_form(served: Served) -> None:
    import pyarrow.ipc

    def stream(kind: str, **more: Any) -> bytes:
        given = {"q": "SELECT range AS n, [range] AS l FROM range(25000)", **more}
        reply = served.client.get("/api/v1/sql", params=given, headers={"accept": kind})
        assert (reply.status_code, reply.headers["content-type"].split(";")[0]) == (200, kind)
        return bytes(reply.content)

    assert [json.loads(line) for line in stream("application/x-ndjson").splitlines()] == [
        {"n": n, "l": [n]} for n in range(25_000)
    ]
    assert stream("text/csv", limit=2) == b"n,l\n0,[0]\n1,[1]\n"
    table = pyarrow.ipc.open_stream(stream("application/vnd.apache.arrow.stream")).read_all()
    assert table["n"].to_pylist() == list(range(25_000))


def test_a_stream_that_fails_on_the_way_is_not_taken_for_whole(served: Served) -> None:
    sql = "SELECT CASE WHEN range < 3000000 THEN range ELSE error('halfway') END AS n FROM range(4000000)"
    with pytest.raises(Exception, match=r"(?i)incomplete|closed|protocol"):
        served.client.get("/api/v1/sql", params={"q": sql}, headers={"accept": "text/csv"})
    early = served.client.get("/api/v1/sql", params={"q": "SELECT error('at once')"}, headers={"accept": "text/csv"})
    assert (early.status_code, "at once" in early.json()["error"]) == (400, True)


def test_a_replaced_atlas_is_what_sql_reads(start: Callable[..., Served], tmp_path: Path) -> None:
    served = start(sql_memory="256MiB")
    assert rows(served, "SELECT count(*) AS n FROM edges") == [{"n": 9}]
    tables = small_tables()
    tables["edges"] = tables["edges"][:4]
    write_atlas(tmp_path / "next.duckdb", tables).replace(served.settings.atlas)
    assert rows(served, "SELECT count(*) AS n FROM edges") == [{"n": 4}]


def test_the_processes_of_sql_end_with_the_server(tmp_path: Path) -> None:
    file = write_atlas(tmp_path / "small.duckdb", small_tables())
    known = set(sandboxes())
    with serving(file, sql_memory="256MiB") as found:
        rows(found, "SELECT 1")
        mine = set(sandboxes()) - known
        assert mine
    assert eventually(lambda: not any(one.is_running() for one in mine))


def sandboxes() -> list[psutil.Process]:
    """The processes of this one that answer SQL."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any("sandbox.process" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def busy_children() -> list[psutil.Process]:
    """Those that work: a look at their time of work, twice."""
    before = {child: child.cpu_times().user for child in sandboxes()}
    time.sleep(0.3)
    return [child for child, spent in before.items() if child.is_running() and _spent(child) > spent + 0.05]


def _spent(child: psutil.Process) -> float:
    try:
        return float(child.cpu_times().user)
    except psutil.Error:
        return 0.0


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something comes true within seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.05)
    return False
