"""Every macro of sql/diff: documented, free of name clashes, and its example runs here and in the released shell."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from synthetic import drawn, small  # noqa: F401

from atlas.store.connection import open_pair
from atlas.store.sqlfiles import example, header, sql_files

FILES = sql_files("diff")


def test_there_are_some() -> None:
    assert len(FILES) >= 5


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_is_one_documented_macro_of_its_name(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = re.search(r"CREATE OR REPLACE MACRO (\w+)\s*\(([^)]*)\)\s*AS TABLE", text)
    assert found and found[1] == path.stem
    words = " ".join(header(text))
    assert example(text) and len(header(text)) >= 2 and "ATTACH" in words
    for parameter in (p.split(":=")[0].strip() for p in found[2].split(",")):
        assert re.search(rf"\b{parameter}\b", words), f"{parameter} is not explained"
    assert "{{" not in text and "$" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_example_finds_the_same_whatever_the_threads(drawn: Path, small: Path, path: Path) -> None:  # noqa: F811
    for file in (small, drawn):
        answers = []
        for threads in (1, 2):
            con = open_pair(file, file)
            con.execute(f"SET threads = {threads}")
            con.execute(path.read_text(encoding="utf-8"))
            answers.append(con.execute(example(path.read_text(encoding="utf-8")) or "").fetchall())
        assert answers[0] and answers[0] == answers[1]


def test_no_parameter_is_named_like_a_column(small: Path) -> None:  # noqa: F811
    con = open_pair(small, small)
    for path in FILES:
        con.execute(path.read_text(encoding="utf-8"))
    clashes = con.execute("""
        SELECT DISTINCT f.function_name, c.column_name
        FROM (SELECT function_name, unnest(parameters) AS parameter FROM duckdb_functions()
              WHERE function_type = 'table_macro' AND NOT internal AND database_name = 'memory') AS f
        JOIN duckdb_columns() AS c ON lower(c.column_name) = lower(f.parameter) AND NOT c.internal""").fetchall()
    assert clashes == []


def test_they_run_in_the_released_shell(small: Path) -> None:  # noqa: F811
    shell = shutil.which("duckdb") or shutil.which("duckdb", path=str(Path(sys.executable).parent))
    if shell is None:
        pytest.skip("no duckdb shell on this machine (pip install duckdb-cli)")
    script = f"ATTACH '{small}' AS a (READ_ONLY); ATTACH '{small}' AS b (READ_ONLY);\n"
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        script += f"{text}\nSELECT '@{path.stem}';\n{example(text)};\n"
    done = subprocess.run(
        [shell, "-bail", "-csv", "-noheader"], input=script, capture_output=True, text=True, encoding="utf-8"
    )
    if "already attached" in done.stderr:  # released shells attach a file once
        copy = small.with_name("copy.duckdb")
        shutil.copyfile(small, copy)
        script = script.replace(f"ATTACH '{small}' AS b", f"ATTACH '{copy}' AS b")
        done = subprocess.run(
            [shell, "-bail", "-csv", "-noheader"], input=script, capture_output=True, text=True, encoding="utf-8"
        )
    assert done.returncode == 0 and not done.stderr, done.stderr
    parts = re.split(r"@(\w+)\n", done.stdout)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(found) == {p.stem for p in FILES} and all(found.values())


def test_the_pair_is_read_only(small: Path) -> None:  # noqa: F811
    with pytest.raises(duckdb.Error, match="read-only"):
        open_pair(small, small).execute("DELETE FROM b.edges")
