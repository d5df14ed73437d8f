"""`atlas label index` as a person runs it."""

from __future__ import annotations

import shlex
from pathlib import Path

import duckdb
import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.cli.main import main
from atlas.store.connection import open_writer


def run(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(shlex.split(command))
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_labels_changed_by_sql_are_found_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write_atlas(tmp_path / "a.duckdb", small_tables())
    con = open_writer(file)
    con.execute("UPDATE neurons SET label = 'heron words' WHERE layer = 2 AND neuron = 0")
    con.execute(
        'INSERT INTO labels (layer, neuron, "pass", polarity, label, status, source) '
        "VALUES (2, 0, 'manual', 0, 'heron words', 'ok', 'manual')"
    )
    con.close()
    code, _, err = run(capsys, f"search herom --mode fuzzy --atlas {file}")
    assert code == 1 and f'run "atlas label index {file}"' in err
    code, out, err = run(capsys, f"label index {file}")
    with duckdb.connect(str(file), read_only=True) as con:
        counts = [
            con.execute(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in ("search_documents", "search_postings")
        ]
        words = con.execute("SELECT count(*) FROM search_words").fetchall()[0][0]
    assert (code, err) == (0, "")
    assert out == f"{file}  {words:,} words of {counts[0]:,} neurons, {counts[1]:,} postings\n"
    with atlas.open(file) as a:
        assert [(row["layer"], row["neuron"]) for row in a.search("herom", mode="fuzzy").rows()] == [(2, 0)]
    assert run(capsys, f"label index {file}")[1] == out and [p.name for p in tmp_path.iterdir()] == ["a.duckdb"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [("none.duckdb", 2, "no atlas at"), ("{file} --threads 0", 2, "--threads"), ("{file} --memory much", 2, "much")],
)
def test_faults_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, code: int, says: str
) -> None:
    file = write_atlas(tmp_path / "a.duckdb", small_tables())
    got, out, err = run(capsys, f"label index {words.format(file=file)}")
    assert (got, out) == (code, "") and says in err.splitlines()[-1]
