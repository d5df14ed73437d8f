"""Label files -> an atlas that exists: what is replaced, what stays, and that a refusal leaves it as it was."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from synthetic import LABELS, small_tables, write_atlas

import atlas
from atlas.build.label_import import import_label_files, source_named
from atlas.errors import InputError
from atlas.ingest.labels import Reading
from atlas.ingest.search_index import index_state
from atlas.store.connection import open_reader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_atlas(tmp_path / "a.duckdb", small_tables())


def two_pass(folder: Path, name: str = "two.json", word: str = "new") -> Path:
    said = {f"L{i % 3}/N{i}": {"label": f"{word} {i}", "input_label": f"{word} input {i}"} for i in range(4)}
    path = folder / name
    path.write_text(json.dumps(said))
    return path


def query(file: Path, sql: str) -> list[tuple]:
    con = duckdb.connect(str(file), read_only=True)
    found = con.execute(sql).fetchall()
    con.close()
    return found


def test_labels_are_added_chosen_and_indexed(file: Path, tmp_path: Path) -> None:
    before = query(file, "SELECT * FROM labels ORDER BY ALL")
    made = import_label_files(file, [two_pass(tmp_path)])
    assert made.files["import:two.json"].rows_out == 8 and made.replaced == {"import:two.json": 0}
    assert (
        made.coverage.text().startswith("8 neurons, 33.3%: 5 two-pass (import:two.json)") or made.coverage.labelled >= 8
    )
    assert query(file, "SELECT label, input_label FROM neurons WHERE (layer, neuron) = (1, 1)") == [
        ("new 1", "new input 1")
    ]
    assert query(file, "SELECT * FROM labels WHERE source <> 'import:two.json' ORDER BY ALL") == before
    assert query(file, "SELECT rows_out FROM ingests WHERE step = 'labels:two.json'") == [(8,)]
    con = open_reader(file)
    assert index_state(con) == "fresh"
    con.close()
    with atlas.open(file) as opened:
        assert all(check.healthy for check in opened.check())


def test_a_second_import_of_a_source_replaces_the_first(file: Path, tmp_path: Path) -> None:
    import_label_files(file, [two_pass(tmp_path)])
    two_pass(tmp_path, word="newer")
    made = import_label_files(file, [tmp_path / "two.json"])
    assert made.replaced == {"import:two.json": 8}
    texts = query(file, "SELECT label FROM labels WHERE source = 'import:two.json' ORDER BY ALL")
    assert len(texts) == 8 and all("newer" in text for (text,) in texts)


def test_labels_by_hand_replace_those_of_their_neurons_only(file: Path, tmp_path: Path) -> None:
    hand = tmp_path / "hand.csv"
    hand.write_text("layer,neuron,label\n0,0,mine\n2,2,mine too\n")
    assert import_label_files(file, [hand], how=Reading(source="manual")).replaced == {"manual": 0}
    hand.write_text("layer,neuron,label\n2,2,mine again\n")
    made = import_label_files(file, [hand], how=Reading(source="manual"))
    assert made.replaced == {"manual": 1}
    assert query(file, "SELECT layer, neuron, label FROM neurons WHERE label LIKE 'mine%' ORDER BY ALL") == [
        (0, 0, "mine"), (2, 2, "mine again"),
    ]  # fmt: skip


def test_a_precedence_is_kept_for_later_imports(file: Path, tmp_path: Path) -> None:
    made = import_label_files(file, [two_pass(tmp_path)], precedence=["rule"])
    shown = query(file, "SELECT label FROM neurons WHERE (layer, neuron) = (0, 0)")
    assert shown == [(LABELS[0, 0][0],)] and made.coverage.precedence[0] == "rule"
    again = import_label_files(file, [two_pass(tmp_path, "b.json")])
    assert again.coverage.precedence == made.coverage.precedence
    later = import_label_files(file, [two_pass(tmp_path, "c.json", "c")], precedence=["import:c.json"])
    assert query(file, "SELECT label FROM neurons WHERE (layer, neuron) = (0, 0)") == [("c 0",)]
    assert later.coverage.precedence[:2] == ("import:c.json", "manual")


def test_activations_that_a_file_reports_are_shown_where_none_were_measured(tmp_path: Path) -> None:
    tables = small_tables() | {"neuron_stats": [], "exemplars": [], "contexts": [], "token_stats": []}
    file = write_atlas(tmp_path / "b.duckdb", tables)
    line = {
        "feature_id": 9,
        "labels": [{"label": "a"}],
        "feature_metadata": {"num_exemplars": 7, "max_activation": 2.5},
    }
    (tmp_path / "l.jsonl").write_text(json.dumps(line) + "\n")
    import_label_files(file, [tmp_path / "l.jsonl"])
    told = "SELECT max_activation, num_exemplars, label FROM neurons WHERE (layer, neuron) = (1, 1)"
    assert query(file, told) == [(2.5, 7, "a")]


REFUSED = {
    "missing": (None, "no label file at"),
    "other model": (
        "".join(f'{{"layer": {i}, "neuron": 0, "label": "x"}}\n' for i in range(6)),
        "another model: 3 of 6",
    ),
    "unknown": ("hello\n", "in no known label format"),
    "no label": (
        '{"feature_id": 1}\n{"feature_id": 2, "label": " "}\n',
        r"no label that can be used \(2 without a label",
    ),
    "a bad line": ('{"feature_id": 1, "label": "a"}\n{"feature_id": 2, "la', "line 2: not JSON"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_leaves_the_atlas_as_it_was(file: Path, tmp_path: Path, what: str) -> None:
    content, message = REFUSED[what]
    bad, before = tmp_path / "bad.jsonl", file.read_bytes()
    if content is not None:
        bad.write_text(content)
    with pytest.raises(InputError, match=message):
        import_label_files(file, [two_pass(tmp_path), bad], how=Reading(strict=what == "a bad line"))
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"a.duckdb", "two.json"} | {p for p in ["bad.jsonl"] if content}
    )


def test_sources_are_named_or_refused(file: Path, tmp_path: Path) -> None:
    assert [source_named(name) for name in (None, "manual", "mine", "import:x")] == [
        None,
        "manual",
        "import:mine",
        "import:x",
    ]
    for name in ("llm", "rule:x", " ", "a\nb"):
        with pytest.raises(InputError, match="cannot be called"):
            source_named(name)
    with pytest.raises(InputError, match=r"2 files for the source 'manual'"):
        import_label_files(file, [two_pass(tmp_path), two_pass(tmp_path, "b.json")], how=Reading(source="manual"))
    with pytest.raises(InputError, match=r"two label files are called two\.json"):
        import_label_files(file, [tmp_path / "two.json", tmp_path / "two.json"])
