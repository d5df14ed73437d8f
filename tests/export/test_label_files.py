"""Labels written in every format and imported into an emptied copy of the atlas: what the format holds comes back."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.cli.label_imports import _READ
from atlas.errors import InputError, ResourceError
from atlas.export.label_forms import FORMS
from atlas.export.labels import Exported, export_labels
from atlas.ingest.label_choice import choose_labels
from atlas.ingest.labels import Imported, import_labels
from atlas.store.connection import open_writer

LAYERS, D_MLP = 3, 8
PASSES = ("output", "input", "autointerp", "manual")
ALL = ("layer", "neuron", "pass", "polarity", "label", "short_label", "description", "type", "interpretability",
       "confidence", "model", "prompt_version", "prompt_hash", "run", "score", "created")  # fmt: skip
MADE = ("model", "prompt_version", "prompt_hash", "run", "score", "created")
KIND = ("type", "interpretability", "confidence")
TEXTS = (
    "plain", 'quoted "so", \\"twice\\"', "comma, semicolon; tab\tand | bar", "two\nlines\r\nand\rthree",
    "größe 猫 🤦 e\u0301", "back\\slash \\n \\u0041", '{"L0/N1": {"label": "x"}}', "12", "null", "NaN", "=1+1", "'",
    '"', "line\u2028 para\u2029 nel\x85 vt\x0b bell\x07 bom\ufeff.", ",", "<s>&amp;",
    "  white space around it \u3000", "nul\0 inside", "Explanation could not be parsed.", "x" * 300,
)  # fmt: skip
Row = dict[str, Any]
Rows = list[Row]


def label_rows(seed: int) -> Rows:
    """Labels of every pass and sign, a few of two sources, with texts that have broken parsers."""
    dice, made = random.Random(seed), []
    for key in range(LAYERS * D_MLP):
        shared = dice.random() < 0.5  # one run labelled the whole neuron
        facts = {
            "model": dice.choice([None, "gpt"]), "prompt_version": dice.choice([None, "3"]), "prompt_hash": "0f",
            "run": dice.choice([None, "r1"]), "score": dice.choice([None, 0.1, 1 / 3, -2e-17]), "created": "2026-01-02",
        }  # fmt: skip
        for which in PASSES:
            for sign in (-1, 0, 1):
                for source in ("import:x", "llm") if dice.random() < 0.2 else ("llm",):
                    texts = (TEXTS[len(made) % len(TEXTS)], dice.choice([None, "a, b", "", *TEXTS[:5]]))
                    if dice.random() < (0.15 if which == "manual" else 0.5):
                        made.append({
                            "layer": key // D_MLP, "neuron": key % D_MLP, "pass": which, "polarity": sign,
                            "label": texts[0], "short_label": texts[1],
                            "description": dice.choice([None, None, "", *TEXTS]), "status": "ok", "source": source,
                            "type": dice.choice([None, "lexical", "x\ny"]), "confidence": dice.choice([None, "low"]),
                            "interpretability": dice.choice(["high", "low", None]), **facts,
                            **({} if shared else {"score": dice.choice([0.25, None]), "run": dice.choice("ab")}),
                        })  # fmt: skip
    made[0]["label"], made[1]["description"] = "a" * 9_000 + "é" * 1_000, 'long "text"\n' * 20_000
    return [*made, *_unfit(made[2])]


def _unfit(row: Row) -> Rows:
    """Labels that no import takes, and failures, which are no labels at all."""
    texts = ("", " \n\t\u3000", "\0", "y" * 10_001)
    return [row | {"label": text, "source": f"rule:{i}"} for i, text in enumerate(texts)] + [
        row | {"label": None, "status": "refused", "source": "rule:failed"}
    ]


# what each format has room for, in plain Python: the labels of a neuron in their order -> those that come back


def in_order(rows: Rows, positive: bool) -> Rows:
    """The labels of one neuron, the one it shows first."""

    def place(row: Row) -> tuple[Any, ...]:
        rule = row["source"].startswith("rule:")
        kind = 0 if row["pass"] == "manual" else 3 if rule else 2 if row["pass"] == "autointerp" else 1
        clarity = {"high": 0, "medium": 1}.get(row["interpretability"], 2)
        against = row["polarity"] != 0 and (row["polarity"] > 0) != positive
        tie = (row["source"], -row["polarity"], row["label"], row["pass"])
        return kind, (row["pass"] == "input") != rule, against, clarity, -(row["score"] or 0), *tie

    fit = [
        row for row in rows if row["label"] and row["label"].replace("\0", "").strip() and len(row["label"]) <= 10_000
    ]
    return sorted(fit, key=place)


def first_of(rows: Rows, key: Callable[[Row], object]) -> Rows:
    return [row for i, row in enumerate(rows) if key(row) not in [key(other) for other in rows[:i]]]


def a_pass_and_sign(rows: Rows) -> Rows:
    return first_of(rows, lambda row: (row["pass"], row["polarity"]))


def only(*fields: str) -> Callable[[Rows], Rows]:
    """The label shown, and of it these fields."""
    return lambda rows: [bare(row, *fields) for row in rows[:1]]


def bare(row: Row, *fields: str) -> Row:
    empty = dict.fromkeys(ALL) | {"pass": "autointerp", "polarity": 0}
    return empty | {name: row[name] for name in ("layer", "neuron", "label", *fields)}


def two_pass(rows: Rows) -> Rows:
    best = first_of([row for row in rows if row["pass"] != "manual"], lambda row: row["pass"])
    return [own(row, best) for row in best]


def combined(rows: Rows) -> Rows:
    known = [row for row in rows if row["pass"] != "manual"]
    signed = [row for row in known if row["pass"] == "autointerp" and row["polarity"]]
    best = first_of([row for row in known if row not in signed], lambda row: row["pass"])
    return [own(row, best) for row in best] + [
        bare(row, "polarity") for row in first_of(signed, lambda row: row["polarity"])
    ]


def own(row: Row, others: Rows) -> Row:
    """A label of a neuron's entry: what the entry says once is kept where all of its labels agree."""
    shared = [name for name in (*MADE, "polarity") if all(other[name] == row[name] for other in others)]
    its = {"output": ("short_label", "description", *KIND), "input": ("description", *KIND)}.get(row["pass"], ())
    return bare(row, "pass", *its, *shared)


HELD: dict[str, Callable[[Rows], Rows]] = {
    "two-pass": two_pass,
    "combined": combined,
    "autointerp": only(*ALL),
    "neuronpedia": only("model", "run", "score", "created"),
    "openai": only("score"),
    "transluce": lambda rows: [
        bare(row, "polarity", "short_label", "score", "run") for row in first_of(rows, lambda row: row["polarity"])
    ],
    "delphi": lambda rows: only()([row for row in rows if not row["label"].startswith("Explanation could not")]),
    "csv": a_pass_and_sign,
    "parquet": a_pass_and_sign,
}


def held(rows: Rows, form: str) -> list[tuple[Any, ...]]:
    positive = {(s["layer"], s["neuron"]): (s["max"] or 0) >= -(s["min"] or 0) for s in small_tables()["neuron_stats"]}
    found = []
    for key in sorted({(row["layer"], row["neuron"]) for row in rows}):
        its = in_order([row for row in rows if (row["layer"], row["neuron"]) == key], positive[key])
        found += HELD[form](its)
    return sorted((tuple(_imported(row[name]) for name in ALL) for row in found), key=repr)


def _imported(value: Any) -> Any:
    """Imports take white space around a text, NUL characters and empty texts for none."""
    return (value.replace("\0", "").strip() or None) if isinstance(value, str) else value


def emptied(file: Path) -> Path:
    copy = file.with_name("emptied.duckdb")
    shutil.copyfile(file, copy)
    con = open_writer(copy)
    con.execute("DELETE FROM labels")
    con.close()
    return copy


def read_again(file: Path, target: Path) -> tuple[Imported, list[tuple[Any, ...]]]:
    """Read a file into an emptied copy of an atlas."""
    con = open_writer(emptied(file))
    made = import_labels(con, target, layers=LAYERS, d_mlp=D_MLP)
    found = stored(con)
    con.close()
    return made, found


def stored(con: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    names = ", ".join(f'"{name}"' for name in ALL)
    return sorted(con.execute(f"SELECT {names} FROM labels WHERE status = 'ok'").fetchall(), key=repr)


def exported(file: Path, target: Path, form: str, **how: Any) -> Exported:
    with atlas.open(file) as opened:
        return export_labels(opened, target, form=form, **how)


def test_every_format_that_is_read_is_written() -> None:
    assert set(FORMS) == set(_READ) == set(HELD)


@pytest.mark.parametrize("form", FORMS)
def test_what_a_format_holds_comes_back(tmp_path: Path, form: str) -> None:
    rows = label_rows(4)
    file = write_atlas(tmp_path / "a.duckdb", {**small_tables(), "labels": rows})
    wanted = held(rows, form)
    made = exported(file, tmp_path / "labels.out", form)
    assert (made.labels, made.left_out) == (len(wanted), len(rows) - 1 - len(wanted))  # but for the failure
    assert made.neurons == len({row[:2] for row in wanted}) > 15
    read, found = read_again(file, tmp_path / "labels.out")
    assert [_short(row) for row in found] == [_short(row) for row in wanted]
    assert found == wanted
    assert (read.form, read.rejected, read.notes) == (form, {}, {})


def _short(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value[:40] if isinstance(value, str) else value for value in row)


def test_the_texts_of_the_round_trip_are_all_used() -> None:
    used = {row["label"] for row in label_rows(4)}
    assert set(TEXTS) <= used and any(len(text or "") == 10_000 for text in used)


@pytest.mark.parametrize("form", FORMS)
def test_half_of_a_surrogate_pair_is_refused_and_named(tmp_path: Path, form: str) -> None:
    rows = [
        row for row in label_rows(4) if row["pass"] == "autointerp" and row["polarity"] == 0 and row["source"] == "llm"
    ]
    rows = [row | {"label": f"label {i}", "description": None} for i, row in enumerate(rows)]
    rows[3]["label"] = "half @ here"
    file = write_atlas(tmp_path / "a.duckdb", {**small_tables(), "labels": rows})
    target = tmp_path / "labels.out"
    exported(file, target, form)
    broken = 0
    for path in [target, *target.rglob("*")]:
        if path.is_file():
            broken += _break(path, form)
    assert broken == (2 if form == "autointerp" else 1)  # it says a label twice
    read, found = read_again(file, target)
    assert found == [row for row in held(rows, form) if "half" not in row[4]] and len(found) == len(rows) - 1
    assert sum(read.rejected.values()) == 1 and read.rejected.keys() <= {"not UTF-8 text", "not JSON"}
    assert "half " in read.quotes[0]


def _break(path: Path, form: str) -> int:
    if form == "parquet":
        table = pq.read_table(path)
        texts = [value.encode().replace(b"@", b"\xed\xa0\x80") for value in table["label"].to_pylist()]
        raw = pa.array(texts, pa.binary()).view(pa.string())
        pq.write_table(table.set_column(table.column_names.index("label"), "label", raw), path)
        return 1
    content = path.read_bytes()
    path.write_bytes(content.replace(b"@", b"\xed\xa0\x80" if form == "csv" else b"\\ud800"))
    return content.count(b"@")


@pytest.mark.parametrize("form", FORMS)
def test_the_label_shown_is_among_those_written(tmp_path: Path, form: str) -> None:
    rows = [row | {"label": f"{i}"} for i, row in enumerate(label_rows(8)) if row["source"] == "llm"]
    file = write_atlas(tmp_path / "a.duckdb", {**small_tables(), "labels": rows})
    con = open_writer(file)
    choose_labels(con, precedence=["autointerp", "two-pass"])
    shown = set(con.execute("SELECT layer, neuron, label FROM neurons WHERE label IS NOT NULL").fetchall())
    manual = {(r["layer"], r["neuron"], r["label"]) for r in rows if r["pass"] == "manual"}
    con.close()
    exported(file, tmp_path / "labels.out", form)
    found = {(row[0], row[1], row[4]) for row in read_again(file, tmp_path / "labels.out")[1]}
    assert found >= (shown - manual if form in ("two-pass", "combined") else shown) and shown - manual


@pytest.mark.parametrize("form", [one.name for one in FORMS.values() if one.layout in ("object", "lines", "csv")])
def test_a_packed_file(tmp_path: Path, form: str) -> None:
    file = write_atlas(tmp_path / "a.duckdb", small_tables())
    exported(file, tmp_path / "l.txt", form)
    exported(file, tmp_path / "l.gz", form)
    assert gzip.decompress((tmp_path / "l.gz").read_bytes()) == (tmp_path / "l.txt").read_bytes() != b""


def test_folders_hold_a_file_a_neuron(tmp_path: Path) -> None:
    file = write_atlas(tmp_path / "a.duckdb", small_tables())
    made = exported(file, tmp_path / "deep" / "delphi", "delphi")
    files = {p.name: p.read_bytes() for p in (tmp_path / "deep" / "delphi").iterdir()}
    assert len(files) == made.files == made.labels == 6 and made.bytes == sum(map(len, files.values()))
    assert files["layers.1.mlp_latent3.txt"] == '"Über-Hund (German dog)"'.encode()
    exported(file, tmp_path / "openai", "openai")
    names = sorted(str(p.relative_to(tmp_path / "openai")) for p in (tmp_path / "openai").rglob("*.json"))
    assert names == ["0/0.json", "0/1.json", "0/2.json", "1/2.json", "1/3.json", "2/7.json"]
    told = json.loads((tmp_path / "openai" / "1" / "3.json").read_text())
    assert told["neuron_id"] == {"layer_index": 1, "neuron_index": 3}
    assert [one["explanation"] for one in told["scored_explanations"]] == ["Über-Hund (German dog)"]


@pytest.mark.parametrize("form", ["openai", "delphi"])
def test_a_folder_that_is_there(tmp_path: Path, form: str) -> None:
    file, target = write_atlas(tmp_path / "a.duckdb", small_tables()), tmp_path / "out"
    target.mkdir()
    exported(file, target, form)  # an empty one is filled
    before = sorted(target.rglob("*"))
    (target / "mine").write_text("kept")
    with pytest.raises(InputError, match="out is not empty; give an empty folder, or --force"):
        exported(file, target, form)
    exported(file, target, form, force=True)
    assert sorted(target.rglob("*")) == sorted([*before, target / "mine"])
    with pytest.raises(InputError, match="is a file, expected a folder"):
        exported(file, target / "mine", form)
    with pytest.raises(InputError, match="no labels of source 'none'"):
        exported(file, tmp_path / "new", form, source="none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.duckdb", "out"]


def test_one_source_alone_and_no_labels(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    with atlas.open(write_atlas(tmp_path / "a.duckdb", small_tables())) as opened:
        assert export_labels(opened, file, form="csv", source="rule").labels == 6
        assert "rule:tokens" in file.read_text() and "llm" not in file.read_text()
        assert export_labels(opened, file, form="csv", source="llm").labels == 1  # failures are no labels
        before = file.read_bytes()
        with pytest.raises(InputError, match=r"no labels of source 'import:y' in a\.duckdb; nothing is written"):
            export_labels(opened, file, form="csv", source="import:y")
        assert file.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["a.duckdb", "x.csv"]
        with pytest.raises(ResourceError, match="cannot be written: No such file"):
            export_labels(opened, tmp_path / "none" / "x.csv", form="csv")
        with pytest.raises(ResourceError, match="cannot be written: Is a directory"):
            export_labels(opened, tmp_path, form="csv")
        with pytest.raises(InputError, match="no writer for label format 'xml'; there are two-pass, combined, "):
            export_labels(opened, file, form="xml")
