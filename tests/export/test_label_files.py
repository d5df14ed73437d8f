"""Labels written in another tool's format and read again: the same labels, for every format that is written."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.errors import InputError, ResourceError
from atlas.export.labels import WRITTEN, export_labels
from atlas.ingest.label_choice import choose_labels
from atlas.ingest.labels import Reading, import_labels
from atlas.store.connection import open_writer
from atlas.store.ledger import set_metadata
from atlas.store.schema import apply_schema

LAYERS, D_MLP = 3, 8
ALL = ("layer", "neuron", "pass", "polarity", "label", "short_label", "description", "type", "interpretability",
       "confidence", "model", "prompt_version", "prompt_hash", "run", "score", "created")  # fmt: skip
# what each format has room for
CARRIES = {
    "csv": ALL,
    "parquet": ALL,
    "two-pass": ("layer", "neuron", "pass", "label", "type", "interpretability", "model", "run", "created"),
    "autointerp": tuple(name for name in ALL if not name.startswith("prompt_")),
    "neuronpedia": ("layer", "neuron", "label", "model", "run", "score", "created"),
}
TEXTS = [
    "plain",
    'quoted "so"',
    "comma, semicolon; tab\t.",
    "two\nlines",
    "größe 猫",
    "back\\slash",
    "{brace}",
    "x" * 300,
]


def label_rows(passes: tuple[str, ...], signs: tuple[int, ...], seed: int) -> list[dict]:
    dice, made = random.Random(seed), []
    for key in range(LAYERS * D_MLP):
        for which in passes:
            for sign in signs:
                if dice.random() < 0.7:
                    made.append({
                        "layer": key // D_MLP, "neuron": key % D_MLP, "pass": which, "polarity": sign,
                        "label": f"{dice.choice(TEXTS)} {key}", "short_label": dice.choice([None, "short"]),
                        "description": dice.choice([None, "why, exactly"]), "type": dice.choice([None, "lexical"]),
                        "interpretability": dice.choice(["high", None]), "confidence": None, "status": "ok",
                        "source": "import:x", "model": "gpt", "prompt_version": dice.choice([None, "3"]),
                        "prompt_hash": None, "run": "r1", "score": dice.choice([None, 0.125]), "created": "2026-01-02",
                    })  # fmt: skip
    return made


def written(folder: Path, rows: list[dict]) -> Path:
    return write_atlas(folder / "from.duckdb", {**small_tables(), "labels": rows})


def read_again(folder: Path, file: Path, columns: tuple[str, ...]) -> list[tuple]:
    con = open_writer(folder / f"{file.name}.duckdb")
    apply_schema(con, d_mlp=D_MLP)
    set_metadata(con, {"num_layers": LAYERS, "neurons_per_layer": D_MLP})
    done = import_labels(con, file, layers=LAYERS, d_mlp=D_MLP, how=Reading())
    assert done.rejected == {}
    names = ", ".join(f'"{name}"' for name in columns)
    found = con.execute(f"SELECT {names} FROM labels").fetchall()
    con.close()
    return sorted(found, key=repr)


@pytest.mark.parametrize("form", WRITTEN)
def test_what_is_written_is_read_again(tmp_path: Path, form: str) -> None:
    many = form in ("csv", "parquet")
    passes = ("output", "input", "autointerp") if many or form == "two-pass" else ("autointerp",)
    rows = label_rows((*passes, "manual") if many else passes, (-1, 0, 1) if many else (0,), 4)
    file = tmp_path / "labels.out"
    with atlas.open(written(tmp_path, rows)) as opened:
        made = export_labels(opened, file, form=form)
    assert (made.labels, made.left_out) == (len(rows), 0)
    for row in rows:
        if form == "two-pass" and row["pass"] == "autointerp":  # it has room for the text alone
            row |= {"type": None, "interpretability": None}
    wanted = sorted((tuple(row[name] for name in CARRIES[form]) for row in rows), key=repr)
    assert read_again(tmp_path, file, CARRIES[form]) == wanted


@pytest.mark.parametrize("form", ["autointerp", "neuronpedia", "two-pass"])
def test_of_several_labels_the_first_by_precedence_is_written(tmp_path: Path, form: str) -> None:
    rows = label_rows(("output", "input", "autointerp", "manual"), (-1, 1), 8)
    path = written(tmp_path, rows)
    con = open_writer(path)
    choose_labels(con, precedence=["autointerp"])
    shown = con.execute("SELECT layer, neuron, label FROM neurons WHERE label IS NOT NULL").fetchall()
    con.close()
    file = tmp_path / "labels.jsonl.gz"
    with atlas.open(path) as opened:
        made = export_labels(opened, file, form=form)
    assert made.labels + made.left_out == len(rows) and made.left_out > 0
    assert gzip.decompress(file.read_bytes())
    if form == "two-pass":
        assert max(len(m) for m in json.loads(gzip.decompress(file.read_bytes())).values()) > 5
    else:
        assert read_again(tmp_path, file, ("layer", "neuron", "label")) == sorted(shown, key=repr)


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
        with pytest.raises(InputError, match="no writer for label format 'openai'"):
            export_labels(opened, file, form="openai")
