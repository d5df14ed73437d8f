"""Every rule: the valid package passes, the broken one gives exactly that rule, with the file and the line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from broken_packages import CASES, Case
from planted_packages import LAYOUTS, Files, write

from atlas.export.package_check import check_package, rules

ALONE = {"package-path", "package-twice", "package-broken", "json-size", "bulk-size", "bulk-no-features"}
IDS = [f"{case.rule}-{i}" for i, case in enumerate(CASES)]


def line_of(files: Files, case: Case) -> int | None:
    """The line that a case names; of text, the only line, or the last, where it stands."""
    if not isinstance(case.mark, str):
        return case.mark
    content = files[case.file]
    text = (gzip.decompress(content) if case.file.endswith(".gz") else content).decode()
    found = [i for i, line in enumerate(text.split("\n"), 1) if case.mark in line]
    return found[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["", ".zip"], ids=["folder", "zip"])
def test_a_valid_package_is_clean(tmp_path: Path, layout: str, kind: str) -> None:
    report = check_package(write(LAYOUTS[layout](), tmp_path / f"package{kind}"))
    assert report.layout == layout and report.found == {} and report.clean
    assert report.counts


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_broken_package_gives_its_rule(tmp_path: Path, case: Case) -> None:
    valid = LAYOUTS[case.layout]()
    files = case.change(valid)
    assert files != valid
    report = check_package(write(files, tmp_path / "package"), layout=case.layout)
    assert list(report.found) == [case.rule], [*report.problems, *report.warnings]
    warning = rules()[case.rule].level == "warning"
    found = (report.warnings if warning else report.problems)[0]
    assert found.file == case.file
    assert report.clean is warning
    if case.mark is not None:
        assert found.line == line_of(files, case)
    assert found.expected and found.found


def test_every_rule_has_a_broken_package() -> None:
    assert {case.rule for case in CASES} | ALONE == set(rules())
    assert not {case.rule for case in CASES} & ALONE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_broken_packages_name_rules_of_their_layout(layout: str) -> None:
    for case in CASES:
        if case.layout == layout:
            assert {"all", layout} & set(rules()[case.rule].layouts), case.rule
