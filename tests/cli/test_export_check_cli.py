"""`atlas export check`: what it prints, its exit codes, and the list of its rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted_packages import SOURCE, bulk, edited, feature, lines, packed, replaced, write

from atlas.cli import export_check
from atlas.cli import main as cli
from atlas.export.package_check import LAYOUTS, rules

FEATURES = f"{SOURCE}/features/batch-0.jsonl.gz"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", "check", *words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return write(edited(bulk(), FEATURES, lambda row: row.update(frac_nonzero=3), line=2), tmp_path / "broken")


def test_a_clean_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(write(bulk(), tmp_path / "package")), "-q") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "layout bulk; 1 sources, 6 files, 3 features" in printed.err and "0 problems, 0 warnings" in printed.err


def test_a_problem_is_told_with_file_line_and_what_to_do(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(broken)) == 1
    printed = capsys.readouterr()
    assert printed.out == (
        f"problem frac-nonzero  {FEATURES}:2#/frac_nonzero\n"
        "    expected -1 or 0 to 1, found 3; write the share of tokens, or -1\n"
    )
    assert "1 problems, 0 warnings" in printed.err and "check bulk" in printed.err


def test_formats(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(broken), "--format", "json", "-q") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["layout"], report["problem_count"], report["counts"]["features"]) == ("bulk", 1, 3)
    assert report["problems"][0] | {"fix": ""} == {
        "rule": "frac-nonzero", "level": "error", "file": FEATURES, "line": 2, "pointer": "/frac_nonzero",
        "expected": "-1 or 0 to 1", "found": "3", "fix": "",
    }  # fmt: skip
    assert run(str(broken), "--format", "jsonl", "-q") == 1
    assert json.loads(capsys.readouterr().out)["rule"] == "frac-nonzero"


def test_strict_counts_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = write(replaced(bulk(), "README.md", None), tmp_path / "package")
    assert run(str(package), "-q") == 0
    assert "warning readme-absent  README.md" in capsys.readouterr().out
    assert run(str(package), "-q", "--strict") == 1


def test_what_the_limit_cuts_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [feature(i) | {"frac_nonzero": 2} for i in (0, 2, 5, 7)]
    package = write(replaced(bulk(), FEATURES, packed(lines(*rows))), tmp_path / "package") / FEATURES
    assert run(str(package), "-q", "--max-problems", "1") == 1
    printed = capsys.readouterr()
    assert printed.out.count("problem ") == 1
    assert "note: 1 of 4 findings of frac-nonzero shown; --max-problems 0 shows all" in printed.err
    assert "4 problems" in printed.err
    assert run(str(package), "-q", "--max-problems", "0") == 1
    printed = capsys.readouterr()
    assert printed.out.count("problem ") == 4 and "note:" not in printed.err


def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "gone")) == 2
    assert "expected a package as a folder, a zip or a file" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("x")
    assert run(str(tmp_path / "a.txt")) == 2
    assert "is no package that is known" in capsys.readouterr().err
    assert run() == 2
    assert "no package: give a folder, a zip or a file" in capsys.readouterr().err


def test_the_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--rules", "--format", "json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [rule["code"] for rule in listed] == list(rules())
    assert set(listed[0]) == {"code", "level", "layouts", "sentence", "guards", "fix"}
    assert run("--rules", "--layout", "saelens") == 0
    printed = capsys.readouterr().out
    assert "sae-selection  saelens, prd\n" in printed and "json-nan" in printed and "upload-density" not in printed
    assert run("--rules", "--format", "jsonl") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rules())


def test_the_layouts_of_the_option_are_those_of_the_check() -> None:
    assert export_check._LAYOUTS == LAYOUTS
