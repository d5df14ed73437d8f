"""atlas label import, export and stats at the command line."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

from atlas.cli.label_imports import _bands
from atlas.cli.main import main
from atlas.export.label_forms import FORMS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_atlas(tmp_path / "a.duckdb", small_tables())


def run(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["label", *shlex.split(command)])
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_import_says_what_came_and_what_did_not(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    lines = ['{"feature_id": 1, "label": "one"}', '{"feature_id": 2, "label"', '{"feature_id": 3, "label": ""}']
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    code, out, err = run(capsys, f"import {file} {tmp_path}/l.jsonl --quiet")
    assert (code, err) == (0, "")
    assert out.splitlines()[:5] == [
        "import:l.jsonl (autointerp): 1 labels from 3 entries",
        "  1 left out: not JSON",
        "  1 left out: without a label text",
        '    line 2: not JSON: {"feature_id": 2, "label"',
        '    line 3: without a label text: {"feature_id": 3, "label": ""}',
    ]
    assert "shown: 6 neurons, 25.0%: " in out and "1 autointerp (import:l.jsonl)" in out
    code, out, _ = run(capsys, f"import {file} {tmp_path}/l.jsonl -q --report json --precedence rule")
    told = json.loads(out)
    assert told["files"][0]["replaced"] == 1 and told["files"][0]["rejected"] == {
        "not JSON": 1,
        "without a label text": 1,
    }
    assert (told["labelled"], told["neurons"], told["precedence"][0]) == (6, 24, "rule")
    code, _, err = run(capsys, f"import {file} {tmp_path}/l.jsonl -q --strict")
    assert code == 2 and err.startswith("atlas: l.jsonl, line 2: not JSON")
    code, _, err = run(capsys, f"import {file} {tmp_path}/l.jsonl -q --precedence best")
    assert code == 2 and "'best' is no kind of labels" in err


def test_export_and_import_again(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, f"export {file} {tmp_path}/l.csv --format csv")
    assert code == 0 and "7 labels of 6 neurons" in out
    code, out, _ = run(capsys, f"import {file} {tmp_path}/l.csv -q")
    assert code == 0 and "import:l.csv (csv): 7 labels from 7 entries" in out


@pytest.mark.parametrize("form", ["delphi", "openai"])
def test_a_folder_of_files_is_written_and_imported_again(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, form: str
) -> None:
    code, out, err = run(capsys, f"export {file} {tmp_path}/out --format {form} -q")
    assert code == 0 and "out  6 labels of 6 neurons, " in out and out.endswith(" bytes in 6 files\n")
    assert err == f"note: 1 labels are left out: of a neuron's labels {form} has room for the one that it shows\n"
    code, _, err = run(capsys, f"export {file} {tmp_path}/out --format {form} -q")
    assert code == 2 and "out is not empty" in err and "--force" in err
    assert run(capsys, f"export {file} {tmp_path}/out --format {form} -q --force")[0] == 0
    code, out, _ = run(capsys, f"import {file} {tmp_path}/out -q")
    assert code == 0 and f"import:out ({form}): 6 labels from 6 entries" in out


def test_the_help_of_export_says_what_each_format_holds(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(run(capsys, "export --help")[1].split())
    for one in FORMS.values():
        assert one.text in text and one.text.startswith(f"{one.name}: ")


def test_stats_as_text_and_json(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out, _ = run(capsys, f"stats {file}")
    assert code == 0 and out.startswith("6 of 24 neurons, 25.0%")
    assert all(f"\n{title}\n" in out for title in ("Sources", "Layers", "Types", "Interpretability", "Uniqueness"))
    assert "████" in out and "parse_error" not in out
    code, out, _ = run(capsys, f"stats {file} --source rule --format json")
    told = json.loads(out)
    assert code == 0 and told["labelled"] == 6 and {row["type"] for row in told["types"]} == {"lexical"}


def test_stats_as_json_are_the_counts_of_the_tables(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out, err = run(capsys, f"stats {file} --format json")
    told, rows = json.loads(out), [row for row in small_tables()["labels"] if row["status"] == "ok"]
    assert (code, err) == (0, "") and (told["neurons"], told["labelled"]) == (24, 6)
    assert [(row["layer"], row["neurons"], row["labelled"]) for row in told["layers"]] == [
        (0, 8, 3),
        (1, 8, 2),
        (2, 8, 1),
    ]
    for name in ("type", "source"):
        key = {"type": "types", "source": "sources"}[name]
        counted = Counter(row[name] for row in told[key] for _ in range(row.get("labels", row.get("count", 0))))
        assert counted == Counter(row[name] for row in rows), told[key]
    code, _, err = run(capsys, f"stats {file} --format csv")
    assert code == 2 and len(err.splitlines()) == 1
    narrow = json.loads(run(capsys, f"stats {file} --format json --source llm")[1])
    assert narrow["labelled"] == 1 and {row["type"] for row in narrow["types"]} == {"token-pattern"}


@pytest.mark.parametrize("layers", [1, 16, 17, 64])
def test_many_layers_are_shown_in_bands(layers: int) -> None:
    rows = [{"layer": i, "neurons": 10, "labelled": i % 10, "share": 0.0} for i in range(layers)]
    bands = _bands(rows)
    assert len(bands) <= 16
    assert sum(band["neurons"] for band in bands) == 10 * layers
    assert sum(band["labelled"] for band in bands) == sum(row["labelled"] for row in rows)
