"""Every label format, from samples written by hand after what its tool writes, against the rows one reads off them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.errors import InputError
from atlas.ingest.label_formats.entries import json_lines
from atlas.ingest.label_formats.members import members
from atlas.ingest.label_formats.recognise import recognise
from atlas.ingest.labels import Imported, Reading, import_labels
from atlas.store.connection import open_writer
from atlas.store.ledger import set_metadata
from atlas.store.schema import apply_schema

LAYERS, D_MLP = 12, 50
COLUMNS = 'layer, neuron, "pass", polarity, label, description, model, run, score'


@pytest.fixture
def con(tmp_path: Path):
    connection = open_writer(tmp_path / "labels.duckdb")
    apply_schema(connection, d_mlp=D_MLP)
    set_metadata(connection, {"num_layers": LAYERS, "neurons_per_layer": D_MLP})
    yield connection
    connection.close()


def file_of(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def read(con: duckdb.DuckDBPyConnection, path: Path, **how: Any) -> Imported:
    return import_labels(con, path, layers=LAYERS, d_mlp=D_MLP, how=Reading(**how))


def rows(con: duckdb.DuckDBPyConnection, columns: str = COLUMNS) -> list[tuple]:
    return con.execute(f'SELECT {columns} FROM labels ORDER BY layer, neuron, "pass", polarity').fetchall()


def test_a_two_pass_dict_in_one_line_or_many(con, tmp_path: Path) -> None:
    content = {
        "L11/N3": {"label": "ends words", "output_function": "biases", "type": "lexical", "input_label": "after verbs",
                   "input_function": "fires when", "input_type": "context", "autointerp_label": "suffixes"},
        "L0/N1": {"label": "only a label"},
        "L2/N2": {"input_label": "only an input"},
    }  # fmt: skip
    expected = [
        (0, 1, "output", "only a label", None, None),
        (2, 2, "input", "only an input", None, None),
        (11, 3, "autointerp", "suffixes", None, None),
        (11, 3, "input", "after verbs", "fires when", "context"),
        (11, 3, "output", "ends words", "biases", "lexical"),
    ]
    for name, text in (("a.json", json.dumps(content)), ("b.json", json.dumps(content, indent=2))):
        done = read(con, file_of(tmp_path, name, text))
        assert (done.form, done.rows_in, done.rows_out, done.rejected) == ("two-pass", 3, 5, {})
        found = con.execute(
            'SELECT layer, neuron, "pass", label, description, type FROM labels WHERE source = $1 ORDER BY ALL',
            [f"import:{name}"],
        ).fetchall()
        assert found == expected


def test_rows_are_stored_in_the_order_of_neurons(con, tmp_path: Path) -> None:
    content = {f"L{layer}/N{n}": {"label": f"{layer} {n}"} for layer in range(11, -1, -1) for n in range(50)}
    read(con, file_of(tmp_path, "a.json", content))
    stored = con.execute("SELECT layer, neuron FROM labels ORDER BY rowid").fetchall()
    assert len(stored) == 600 and stored == sorted(stored)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_combined_file_falls_back_to_other_labels(con, tmp_path: Path, wrapped: bool) -> None:
    neurons = {
        "L1/N1": {"neuron_id": "L1/N1", "layer": 1, "neuron_idx": 1, "function_label": "switches articles",
                  "function_description": "long", "function_type": "routing", "interpretability": "low",
                  "input_label": "nouns", "input_description": "before nouns", "input_interpretability": "high",
                  "transluce_label_positive": "the word the"},
        "L1/N2": {"function_label": "", "transluce_label_positive": "up", "transluce_label_negative": "down"},
        "L1/N3": {"function_label": "", "max_act_label": "fallback"},
        "L1/N4": {"function_label": ""},
    }  # fmt: skip
    content = {"metadata": {"total": 4, "neurons": "four"}, "neurons": neurons} if wrapped else neurons
    done = read(con, file_of(tmp_path, "combined.json", content))
    assert (done.form, done.rejected) == (
        "combined",
        {"without a label text": 1},
    )
    kinds = rows(con, 'layer, neuron, "pass", polarity, label, description, type, interpretability')
    assert kinds == [
        (1, 1, "autointerp", 1, "the word the", None, None, None),
        (1, 1, "input", 0, "nouns", "before nouns", None, "high"),
        (1, 1, "output", 0, "switches articles", "long", "routing", "low"),
        (1, 2, "autointerp", -1, "down", None, None, None),
        (1, 2, "autointerp", 1, "up", None, None, None),
        (1, 3, "autointerp", 0, "fallback", None, None, None),
    ]


def test_profiles_are_read_as_a_combined_file(con, tmp_path: Path) -> None:
    profile = {"layer": 3, "neuron": 4, "neuron_id": "L3/N4", "transluce_label_positive": "cats", "top": [{"a": 1}]}
    assert read(con, file_of(tmp_path, "stats.json", {"profiles": [profile]})).form == "combined"
    assert rows(con, "layer, neuron, polarity, label") == [(3, 4, 1, "cats")]


def test_neuronpedia_explanations(con, tmp_path: Path) -> None:
    line = {"id": "cl1", "modelId": "gpt2-small", "layer": "6", "index": "12", "description": "words of media",
            "typeName": "oai_token-act-pair", "explanationModelName": "gpt-4o-mini"}  # fmt: skip
    sae = line | {"layer": "6-res-jb", "index": "13"}
    done = read(con, file_of(tmp_path, "batch-0.jsonl.gz", lines(line, sae)))
    assert (done.form, done.rows_out) == ("neuronpedia", 1)
    assert done.rejected == {"of a dictionary's feature (its layer names a source), not of a neuron": 1}
    assert rows(con) == [(6, 12, "autointerp", 0, "words of media", None, "gpt-4o-mini", "oai_token-act-pair", None)]


def test_openai_explanations_take_the_best_score(con, tmp_path: Path) -> None:
    def scored(text: str, score: float | None) -> dict:
        return {
            "explanation": text,
            "scored_simulation": {"scored_sequence_simulations": [], "ev_correlation_score": score},
        }

    record = {"neuron_id": {"layer_index": 2, "neuron_index": 9},
              "scored_explanations": [scored("worse", 0.1), scored("better", 0.4), scored("none", None)]}  # fmt: skip
    file_of(tmp_path, "explanations/2/9.jsonl", lines(record))
    file_of(
        tmp_path,
        "explanations/2/10.json",
        json.dumps(record | {"neuron_id": {"layer_index": 2, "neuron_index": 10}}, indent=1),
    )
    assert read(con, tmp_path / "explanations").form == "openai"
    assert rows(con, "layer, neuron, label, score") == [(2, 9, "better", 0.4), (2, 10, "better", 0.4)]


def test_transluce_rows_and_files_by_sign(con, tmp_path: Path) -> None:
    told = [
        {"neuron_id": 77123, "layer": 4, "neuron": 5, "polarity": "1", "description": "years", "version": "v2"},
        {"neuron_id": 77123, "layer": 4, "neuron": 5, "polarity": "-1", "description": "months",
         "description_metadata": {"score": 0.7}},
    ]  # fmt: skip
    assert read(con, file_of(tmp_path, "rows.jsonl", lines(*told))).form == "transluce"
    signs = {"explanations": {"positive": [{"explanation": "up", "score": 0.5}], "negative": None}}
    file_of(tmp_path, "half/7/8.json", json.dumps(signs, indent=2))
    assert read(con, tmp_path / "half").form == "transluce"
    assert rows(con, "layer, neuron, polarity, label, score") == [
        (4, 5, -1, "months", 0.7), (4, 5, 1, "years", None), (7, 8, 1, "up", 0.5),
    ]  # fmt: skip


def test_delphi_files(con, tmp_path: Path) -> None:
    file_of(tmp_path, "explanations/layers.5.mlp_latent12.txt", json.dumps("dates in 1990s"))
    file_of(tmp_path, "explanations/.model.layers.10_feature7.txt", json.dumps("ä question"))
    file_of(tmp_path, "explanations/layers.6_latent3.txt", "not quoted at all")
    file_of(tmp_path, "explanations/layers.6_latent4.txt", json.dumps("Explanation could not be parsed."))
    file_of(tmp_path, "explanations/notes.txt", "nothing")
    done = read(con, tmp_path / "explanations")
    assert done.rejected == {"of an explanation that failed": 1, "without a neuron id in the name of the file": 1}
    assert done.quotes[0].startswith("layers.6_latent4.txt, line 1: of an explanation that failed")
    told = [(5, 12, "dates in 1990s"), (6, 3, "not quoted at all"), (10, 7, "ä question")]
    assert rows(con, "layer, neuron, label") == told
    single = file_of(tmp_path, "x/.model.layers.10_feature7.txt", json.dumps("ä question"))
    assert read(con, single).form == "delphi"
    assert rows(con, "layer, neuron, label") == [*told, told[-1]]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_tables(con, tmp_path: Path, separator: str) -> None:
    text = 'layer,neuron,label,polarity,note\r\n1,2,"a ""b""",+,x\r\n1,3,c,-,\r\n1,4,,,\r\n1,5\r\n\r\n'
    text += '1.0,6.0,"two\nlines",,\r\n'
    done = read(con, file_of(tmp_path, "t.csv", b"\xef\xbb\xbf" + text.replace(",", separator).encode()))
    assert (done.form, done.rows_out) == ("csv", 3)
    assert done.rejected == {"of another number of columns than the header": 1, "without a label text": 1}
    assert done.first == "at line 4"
    assert rows(con, "layer, neuron, polarity, label") == [(1, 2, 1, 'a "b"'), (1, 3, -1, "c"), (1, 6, 0, "two\nlines")]


def test_a_parquet_table(con, tmp_path: Path) -> None:
    table = {
        "layer": [1, 1, None],
        "neuron_idx": [2, 3, 4],
        "explanation": ["a", None, "c"],
        "score": [0.5, None, None],
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    done = read(con, tmp_path / "t.parquet")
    assert (done.form, done.rows_out) == ("parquet", 1)
    assert done.rejected == {"without a label text": 1, "without a neuron id": 1}
    assert rows(con, "layer, neuron, label, score") == [(1, 2, "a", 0.5)]
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="no sound Parquet file"):
        read(con, tmp_path / "cut.parquet")


def test_a_byte_order_mark_crlf_and_a_line_of_10_mb(con, tmp_path: Path) -> None:
    long = json.dumps({"feature_id": 1, "label": "a", "prompt": "x" * 10_000_000})
    content = "\r\n".join(
        [json.dumps({"feature_id": 0, "label": "ü"}), long, "", json.dumps({"feature_id": 2, "label": "c"})]
    )
    done = read(con, file_of(tmp_path, "l.jsonl", b"\xef\xbb\xbf" + content.encode()))
    assert (done.rows_in, done.rows_out, done.rejected) == (3, 3, {})
    assert [row[0] for row in rows(con, "label")] == ["ü", "a", "c"]
    with pytest.raises(InputError, match="is UTF-16 text; save it as UTF-8"):
        read(con, file_of(tmp_path, "u.jsonl", content[:40].encode("utf-16")))


def test_a_line_longer_than_the_window_is_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as handle:
        handle.write(b'{"a": 1}\n{"b": "')
        for _ in range(66):
            handle.write(b"x" * (1 << 20))
        handle.write(b'"}\n{"c": 3}\n')
    found = [(entry.line, entry.value, entry.fault) for entry in json_lines(path, lambda _: None)]
    assert found == [(1, {"a": 1}, None), (2, None, "longer than 64 MiB"), (3, {"c": 3}, None)]


@pytest.mark.parametrize("cut", [1, 40, 95, 96, 150, 151, 200, 240])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_dict_cut_in_the_middle_keeps_the_members_before(con, tmp_path: Path, cut: int, indent: int | None) -> None:
    whole = {f"L{i}/N{i}": {"label": f"label {i}", "output_function": 'it {does} "so"'} for i in range(5)}
    text = json.dumps(whole, indent=indent)[:-cut]
    complete = [key for key in whole if json.dumps({key: whole[key]}, indent=indent)[1:-1].strip() in text]
    done = read(con, file_of(tmp_path, "cut.json", text))
    assert [f"L{layer}/N{neuron}" for layer, neuron in rows(con, "layer, neuron")] == complete
    assert done.rejected == {"cut off by the end of the file": 1}


def test_reading_goes_on_behind_a_damaged_member(con, tmp_path: Path) -> None:
    text = (
        '{"L0/N0": {"label": "a"},\n"L0/N1": {"label": oops},\n"L0/N2": {"label": "c\\q"}, "L0/N3": {"label": "d"}\n}'
    )
    done = read(con, file_of(tmp_path, "damaged.json", text))
    assert [row[0] for row in rows(con, "label")] == ["a", "d"]
    assert done.rejected == {"not JSON": 2} and done.first == "at line 2"
    assert 'line 2: not JSON: "L0/N1": {"label": oops}' in done.quotes[0]


def test_bytes_that_are_no_text_spoil_their_member_only(con, tmp_path: Path) -> None:
    text = b'{"L0/N0": {"label": "a\xff"}, "L0/N1": {"label": "b"}, "L0/N2": {"label": "\\ud800"}}'
    assert read(con, file_of(tmp_path, "bytes.json", text)).rejected == {"not UTF-8 text": 2}
    assert [row[0] for row in rows(con, "label")] == ["b"]
    table = b"layer,neuron,label\n0,3,a\xff\n0,4,d\n"
    assert read(con, file_of(tmp_path, "bytes.csv", table)).rejected == {"not UTF-8 text": 1}


def test_a_packed_file_that_is_cut_off(con, tmp_path: Path) -> None:
    text = "".join(json.dumps({"feature_id": i, "label": f"label {i * 7919}"}) + "\n" for i in range(500))
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode())[:-400])
    done = read(con, path)
    assert done.rejected["cut off by the end of the file"] == 1 and 0 < done.rows_out < 500


def test_members_do_not_depend_on_where_a_chunk_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {f"L{i}/N{i}": {"label": 'größe \\ " }' * (i % 5), "n": [1.5e-7, i]} for i in range(60)}
    path = file_of(tmp_path, "d.json", json.dumps(content, ensure_ascii=False, indent=1))
    for size in (1, 7, 64, 1 << 22):
        monkeypatch.setattr("atlas.ingest.label_formats.entries._CHUNK", size)
        assert dict(entry.value for entry in members(path, lambda _: None)) == content
        path_lines = file_of(tmp_path, "d.jsonl", "".join(json.dumps(v) + "\n" for v in content.values()))
        assert [entry.value for entry in json_lines(path_lines, lambda _: None)] == list(content.values())


@pytest.mark.parametrize("content", ["", "   \n", "hello", "[1, 2]", '{"a": 1}', "layer,neuron\n1,2\n", "\x00\x01\x02"])
def test_what_is_no_label_file_is_refused_with_the_known_formats(con, tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match=r"in no known label format .*two-pass .*parquet"):
        recognise(file_of(tmp_path, "x", content))
    with pytest.raises(InputError, match="no label format 'xml'"):
        read(con, file_of(tmp_path, "x.jsonl", '{"feature_id": 1, "label": "a"}'), form="xml")
