"""Label files -> tables, against what a person reads off the lines."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import duckdb
import pytest

from atlas.errors import InputError
from atlas.ingest.labels import Reading, check_names, clear_labels, import_labels
from atlas.neuron import parse_neuron
from atlas.store.connection import open_writer
from atlas.store.ledger import set_metadata
from atlas.store.schema import apply_schema
from atlas.store.write import transaction

LAYERS, D_MLP = 4, 50


@pytest.fixture
def con(tmp_path: Path):
    connection = open_writer(tmp_path / "labels.duckdb")
    apply_schema(connection, d_mlp=D_MLP)
    set_metadata(connection, {"num_layers": LAYERS, "neurons_per_layer": D_MLP})
    yield connection
    connection.close()


def written(folder: Path, *lines: object, name: str = "labels.jsonl") -> Path:
    file = folder / name
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def imported(con: duckdb.DuckDBPyConnection, file: Path, **how: Any):
    return import_labels(con, file, layers=LAYERS, d_mlp=D_MLP, how=Reading(**how))


def labels(con: duckdb.DuckDBPyConnection, columns: str = 'layer, neuron, "pass", label') -> list[tuple]:
    return con.execute(f'SELECT {columns} FROM labels ORDER BY layer, neuron, "pass", polarity, source').fetchall()


AUTOINTERP = {
    "feature_id": 122,
    "labels": [
        {"label": "coins", "metadata": {"parsed_response": {"label": "coins", "description": "coins and minting"}}},
    ],
    "feature_metadata": {"layer": 2, "neuron": 22, "num_exemplars": 20, "max_activation": 65.5},
}
TWO_PASS = {
    "neuron_id": "L3/N7",
    "label": "promotes suffixes",
    "short_label": "suffixes",
    "output_function": "it biases logits",
    "type": "lexical",
    "interpretability": "high",
    "confidence": "llm-auto",
    "input_label": "after a verb",
    "input_function": "activates when",
    "input_type": "combination",
    "input_interpretability": "medium",
    "autointerp_label": "verbs",
}


def test_an_autointerp_line_gives_a_label_and_its_activations(con, tmp_path: Path) -> None:
    done = imported(con, written(tmp_path, AUTOINTERP))
    assert (done.rows_in, done.rows_out, done.rows_rejected, done.reason) == (1, 1, 0, None)
    assert labels(con, 'layer, neuron, "pass", polarity, label, description, status, source') == [
        (2, 22, "autointerp", 0, "coins", "coins and minting", "ok", "import:labels.jsonl")
    ]
    assert con.execute("FROM reported_activations").fetchall() == [(2, 22, 65.5, 20, "import:labels.jsonl")]


def test_a_line_of_two_passes_gives_a_row_for_each(con, tmp_path: Path) -> None:
    assert imported(con, written(tmp_path, TWO_PASS)).rows_out == 3
    assert labels(con, '"pass", label, short_label, description, type, interpretability, confidence') == [
        ("autointerp", "verbs", None, None, None, None, None),
        ("input", "after a verb", None, "activates when", "combination", "medium", None),
        ("output", "promotes suffixes", "suffixes", "it biases logits", "lexical", "high", "llm-auto"),
    ]


def test_every_form_of_an_id_means_what_the_parser_says(con, tmp_path: Path) -> None:
    forms = ["L1/N5", "1/6", "1_7", "1_8_3", "1:9", "L1/10", "l1/n11", "62", " 1 , 13 "]
    lines = [{"neuron_id": form, "label": form} for form in forms]
    lines += [{"feature_id": 64, "label": "a"}, {"layer": 1, "neuron": 15, "label": "b"}]
    lines += [{"layer": "L1", "neuron": "16", "label": "c"}, {"neuron": "L1/N17", "label": "d"}]
    lines += [{"layer": "1", "neuron": "L1/N18", "feature_id": "68", "label": "e"}]
    done = imported(con, written(tmp_path, *lines))
    assert done.rejected == {}
    found = {label: (layer, neuron) for layer, neuron, _, label in labels(con)}
    for form in forms:
        key = parse_neuron(form, layers=LAYERS, d_mlp=D_MLP)
        assert found[form.strip()] == (key.layer, key.neuron)
    assert [found[name] for name in "abcde"] == [(1, n) for n in (14, 15, 16, 17, 18)]


def test_lines_that_cannot_be_used_are_counted_by_reason(con, tmp_path: Path) -> None:
    bad = {
        "not JSON": ['{"feature_id": 3, "label": "cut', "plain text"],
        "not UTF-8 text": [{"feature_id": 5, "label": "\ud800"}],
        "not a JSON object": ["[1, 2]", '"text"', "null"],
        "without a neuron id": [{"label": "x"}, {"neuron": 3, "label": "x"}],
        "with an unreadable neuron id": [{"neuron_id": "MLP three", "label": "x"}, {"feature_id": -4, "label": "x"}],
        "with neuron ids that disagree": [{"feature_id": 122, "layer": 2, "neuron": 21, "label": "x"}],
        "with a label of over 10,000 characters": [{"feature_id": 4, "label": "x" * 10_001}],
        "with an unknown pass": [{"feature_id": 9, "pass": "guess", "label": "x"}],
        "without a label text": [{"feature_id": 8}, {"feature_id": 7, "label": "  "}, {"feature_id": 6, "labels": []}],
        "for a neuron that has an earlier line": [{"feature_id": 1, "label": "second"}],
    }
    lines = [{"feature_id": 1, "label": "first"}, "", *(line for group in bad.values() for line in group)]
    file = written(tmp_path, *lines, {"feature_id": 2, "label": "last"})
    done = imported(con, file)
    assert done.rejected == {fault: len(group) for fault, group in bad.items()}
    assert (done.rows_in, done.rows_out) == (len(lines), 2)  # a blank line is none; the last line is beyond `lines`
    assert done.reason is not None and "2 without a neuron id" in done.reason
    assert done.reason.endswith("first at line 3")
    assert 'line 3: not JSON: {"feature_id": 3, "label": "cut' in done.quotes
    assert all(len(quote) < 200 for quote in done.quotes)
    assert [row[3] for row in labels(con)] == ["first", "last"]
    with pytest.raises(InputError, match=r"labels\.jsonl, line 3: not JSON: .*; mend it"), transaction(con):
        imported(con, file, strict=True)
    assert len(labels(con)) == 2


def test_bytes_that_are_no_text_are_one_bad_line(con, tmp_path: Path) -> None:
    file = written(tmp_path, {"feature_id": 1, "label": "a"})
    with file.open("ab") as handle:
        handle.write(b'{"feature_id": 2, "label": "\xff\xfe"}\n{"feature_id": 3, "label": "cut by a kill')
    done = imported(con, file)
    assert done.rejected == {"not JSON": 1, "not UTF-8 text": 1}
    assert [row[3] for row in labels(con)] == ["a"]


def test_numbers_that_are_none_and_values_of_other_types_do_no_harm(con, tmp_path: Path) -> None:
    line = '{"feature_id": 1, "label": 7, "labels": "x", "score": "high", "max_activation": 1e300, "polarity": "-"}'
    assert imported(con, written(tmp_path, line)).rows_out == 1
    assert labels(con, "label, score, polarity") == [("7", None, -1)]
    assert con.execute("SELECT max_activation FROM reported_activations").fetchall() in ([], [(None,)])


def test_both_signs_and_passes_of_a_neuron_are_no_duplicates(con, tmp_path: Path) -> None:
    lines = [
        {"feature_id": 1, "pass": p, "polarity": s, "label": f"{p} {s}"} for p in ("input", "manual") for s in (1, -1)
    ]
    assert imported(con, written(tmp_path, *lines)).rows_out == 4


def test_the_first_line_of_a_neuron_wins_in_a_large_file(con, tmp_path: Path) -> None:
    dice = random.Random(3)
    lines = [{"feature_id": dice.randrange(200), "label": f"line {i}", "filler": "x" * 400} for i in range(30_000)]
    first: dict[int, str] = {}
    for line in lines:
        first.setdefault(line["feature_id"], line["label"])
    done = imported(con, written(tmp_path, *lines))
    assert {layer * D_MLP + n: label for layer, n, _, label in labels(con)} == first
    assert done.rejected == {"for a neuron that has an earlier line": len(lines) - len(first)}


def test_further_labels_of_a_line_are_said(con, tmp_path: Path) -> None:
    done = imported(con, written(tmp_path, {"feature_id": 1, "labels": [{"label": "a"}, {"label": "b"}]}))
    assert (done.rows_rejected, labels(con)[0][3]) == (0, "a")
    assert done.reason == "1 with further labels in their list (the first is taken)"


def test_packed_files_and_several_files(con, tmp_path: Path) -> None:
    packed = tmp_path / "old.jsonl.gz"
    packed.write_bytes(gzip.compress(b'\n\n{"feature_id": 1, "label": "old"}\nbad\n'))
    assert imported(con, packed).reason == "1 not JSON; first at line 4"
    imported(con, written(tmp_path, AUTOINTERP))
    assert {row[0] for row in labels(con, "source")} == {"import:old.jsonl.gz", "import:labels.jsonl"}
    con.execute("INSERT INTO labels (layer, neuron, label, status, source) VALUES (0, 0, 'mine', 'ok', 'manual')")
    clear_labels(con)
    assert labels(con, "source") == [("manual",)]
    with pytest.raises(InputError, match=r"two label files are called x\.jsonl"):
        check_names([Path("a/x.jsonl"), Path("b/x.jsonl")])


def test_a_file_of_other_units_is_refused(con, shared: Path) -> None:
    with pytest.raises(InputError, match=r"in no known label format .*Component.*; known: two-pass .*csv"):
        imported(con, shared / "neurons" / "feature-circuits_gemma-2-2b.jsonl")
    with pytest.raises(InputError, match="in no known label format"):
        imported(con, shared / "neurons" / "gpt2-small-a_universal.csv")


@pytest.mark.parametrize("strangers", [0, 3, 4])
def test_a_file_of_another_model_is_refused_with_counts(con, tmp_path: Path, strangers: int) -> None:
    lines = [{"layer": i // 50, "neuron": i % 50, "label": "x"} for i in range(200)]
    lines += [{"layer": 2, "neuron": i % 50, "label": "x"} for i in range(100)]  # second labels: bad lines too
    beyond = [{"feature_id": 200, "label": "x"}, {"layer": 1, "neuron": 50, "label": "x"}]
    beyond += [{"layer": 4, "neuron": 0, "label": "x"}, {"layer": 0, "neuron": 10**30, "label": "x"}]
    file = written(tmp_path, *lines, *beyond[:strangers])
    if strangers < 4:
        rest = {"out of the model's range": strangers} if strangers else {}
        assert imported(con, file).rejected == {"for a neuron that has an earlier line": 100, **rest}
    else:
        with (
            pytest.raises(InputError, match=r"another model: 4 of 304 .* \(4 layers of 50\), first at line 201"),
            transaction(con),
        ):
            imported(con, file)
        assert labels(con) == []
