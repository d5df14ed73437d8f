"""The check as a whole: archives that lie, damage, sizes, layouts that are told apart, findings that are bounded."""

from __future__ import annotations

import doctest
import gzip
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_packages import (
    LAYOUTS,
    SOURCE,
    bulk,
    edited,
    feature,
    graph,
    lines,
    packed,
    prd,
    replaced,
    reports,
    saelens,
    upload,
    write,
)

from atlas import InputError
from atlas.export.package_check import LAYOUTS as KNOWN
from atlas.export.package_check import bulk as bulk_rules
from atlas.export.package_check import check_package, finding, package, pointer, rules
from atlas.export.package_check.finding import shown
from atlas.export.package_check.job import Names
from atlas.export.package_check.pointer import line_of

FEATURES = f"{SOURCE}/features/batch-0.jsonl.gz"


def rule_files(report: Any) -> list[tuple[str, str]]:
    return [(one.rule, one.file) for one in (*report.problems, *report.warnings)]


# -- archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.txt", "a/../../up.txt", "C:/up.txt", "a\\up.txt"])
def test_hostile_names_of_an_archive_are_findings_and_never_written(tmp_path: Path, name: str) -> None:
    target = tmp_path / "inside" / "package.zip"
    target.parent.mkdir()
    write(saelens(), target)
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(name, b"x")
    report = check_package(target)
    assert rule_files(report) == [("package-path", name)]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "package.zip"]


def test_a_name_twice_in_an_archive(tmp_path: Path) -> None:
    target = write(saelens(), tmp_path / "package.zip")
    with zipfile.ZipFile(target, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("blocks.3.mlp/cfg.json", b"{}")
    assert ("package-twice", "blocks.3.mlp/cfg.json") in rule_files(check_package(target))


def test_a_damaged_entry_of_an_archive(tmp_path: Path) -> None:
    files = upload()
    target = write(files, tmp_path / "package.zip")
    content = bytearray(target.read_bytes())
    at = content.index(b"two-pass")
    content[at] ^= 1  # stored without compression: the checksum is wrong now
    target.write_bytes(content)
    report = check_package(target)
    assert rule_files(report) == [("package-broken", "tiny-model/3-mlp/batch-0.json")]
    assert "CRC" in report.problems[0].found


def test_an_archive_of_another_name(tmp_path: Path) -> None:
    target = write(upload(), tmp_path / "package.zip").rename(tmp_path / "package.upload")
    assert check_package(target).layout == "upload"


def test_a_broken_archive_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"a\.zip is no zip archive .*; export the package again"):
        check_package(tmp_path / "a.zip")
    with pytest.raises(InputError, match=r"no .*gone: expected a package as a folder, a zip or a file"):
        check_package(tmp_path / "gone")


def test_gzip_that_ends_early_names_the_line_reached(tmp_path: Path) -> None:
    rows = [feature(i) | {"pos_str": ["a"] * 2000, "pos_values": [i / 7] * 2000} for i in (0, 2, 5, 7, 9)]
    whole = packed(lines(*rows))
    report = check_package(write(replaced(bulk(), FEATURES, whole[: len(whole) // 2]), tmp_path / "p"))
    assert set(report.found) == {"gzip-broken"}
    assert 1 <= (report.problems[0].line or 0) <= 5


# -- sizes --------------------------------------------------------------------------------------------------------


def test_a_line_that_is_too_long_is_not_read_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LINE", 2000)
    rows = lines(feature(0), feature(2) | {"vector": [0.5] * 2000})
    report = check_package(write(replaced(bulk(), FEATURES, packed(rows)), tmp_path / "p"))
    assert [(one.rule, one.line) for one in report.problems] == [("json-size", 2)]


def test_a_document_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "DOCUMENT", 1000)
    report = check_package(write(prd(), tmp_path / "p"), layout="upload")
    assert "json-size" not in report.found
    report = check_package(write(upload(), tmp_path / "q"), layout="upload")
    assert report.problems[0].rule == "json-size" and report.problems[0].file == "tiny-model/3-mlp/batch-0.json"


def test_a_row_file_of_over_150_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bulk_rules.MOST_BYTES == 150_000_000
    monkeypatch.setattr(bulk_rules, "MOST_BYTES", len(lines(feature(0), feature(2))) - 1)
    report = check_package(write(bulk(), tmp_path / "p"))
    assert rule_files(report) == [("bulk-size", FEATURES)]


def test_a_row_file_is_not_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_rules, "_READ", 3000)
    report = check_package(write(replaced(bulk(), FEATURES, packed(lines(*[feature(0)] * 50))), tmp_path / "p"))
    assert [(one.rule, one.line) for one in report.problems if one.rule == "json-size"] == [("json-size", 4)]
    assert report.found["index-unique"] == 2


def test_a_source_without_features(tmp_path: Path) -> None:
    files = {name: content for name, content in bulk().items() if "/batch-" not in name and name != "metadata.json"}
    report = check_package(write(files, tmp_path / "p"))
    assert rule_files(report)[0] == ("bulk-no-features", f"{SOURCE}/features")
    assert set(report.found) == {
        "bulk-no-features", "bulk-no-activations", "bulk-no-explanations", "manifest-absent",
    }  # fmt: skip


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """60 MB of rows in one file are read within 40 MB above what the imports take."""
    row = json.dumps(feature(0) | {"vector": [0.123456789] * 5000}).encode()
    with gzip.open(tmp_path / "batch-0.jsonl.gz", "wb", compresslevel=1) as file:
        for i in range(1000):
            file.write(row.replace(b'"index": "0"', b'"index": "%d"' % i) + b"\n")
    target = tmp_path / "tiny-model" / "3" / "features"
    target.mkdir(parents=True)
    (tmp_path / "batch-0.jsonl.gz").rename(target / "batch-0.jsonl.gz")
    code = (
        "import resource, sys\n"
        "from atlas.export.package_check import check_package\n"
        "import atlas.export.package_check.rules_bulk, zipfile, numpy, orjson\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "report = check_package(sys.argv[1])\n"
        "print(report.counts['bytes'], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    words = [sys.executable, "-c", code, str(target / "batch-0.jsonl.gz")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    size, used = map(int, done.stdout.split())
    assert size > 60_000_000 and used * 1024 < 40_000_000


# -- layouts ------------------------------------------------------------------------------------------------------


def test_layouts_are_the_planted_ones() -> None:
    assert set(KNOWN) == set(LAYOUTS)
    assert all(set(rule.layouts) <= {"all", *KNOWN} for rule in rules().values())


def test_one_file_of_a_package(tmp_path: Path) -> None:
    write(bulk(), tmp_path / "b")
    report = check_package(tmp_path / "b" / FEATURES)
    assert (report.layout, report.found, report.counts["features"]) == ("bulk", {}, 2)
    broken = edited(bulk(), FEATURES, lambda found: found.update(layer="4"), line=2)
    report = check_package(write(broken, tmp_path / "c") / FEATURES)
    assert [(one.rule, one.line) for one in report.problems] == [("layer-source", 2)]
    for name, make in (("tiny-1.json", graph), ("tiny-model/3-mlp/batch-0.json", upload)):
        report = check_package(write(make(), tmp_path / make.__name__) / name)
        assert report.found == {}


def test_a_source_folder_is_a_package_too(tmp_path: Path) -> None:
    write({name: content for name, content in bulk().items() if name.startswith(SOURCE)}, tmp_path)
    report = check_package(tmp_path / SOURCE)
    assert report.layout == "bulk" and set(report.found) == {"readme-absent", "manifest-absent"}


def test_what_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"a is no package that is known: it holds 0 files; looked for bulk \("):
        check_package(tmp_path / "a")
    (tmp_path / "a" / "x.json").write_text('{"x": 1}')
    with pytest.raises(InputError, match=r"it holds 1 files, such as x\.json; looked for"):
        check_package(tmp_path / "a")
    with pytest.raises(InputError, match=r"no layout 'other'; one of bulk, upload"):
        check_package(tmp_path / "a", layout="other")


def test_weights_beside_another_layout_are_checked(tmp_path: Path) -> None:
    files = bulk() | saelens("saelens/blocks.3.mlp/")
    rest = {name: content for name, content in files.items() if name not in ("metadata.json", "saelens/metadata.json")}
    report = check_package(write(rest, tmp_path / "p"))
    assert (report.layout, report.counts["transcoders"], report.counts["features"]) == ("bulk", 1, 3)
    broken = rest | {"saelens/blocks.3.mlp/cfg.json": b"{}"}
    assert check_package(write(broken, tmp_path / "q")).found["field-missing"] == 9


def test_an_sae_that_is_no_selection_is_not_asked_for_a_map(tmp_path: Path) -> None:
    files = saelens()
    files = edited(files, "blocks.3.mlp/cfg.json", _without_map, line=None)
    assert check_package(write(files, tmp_path / "p")).found == {}


def _without_map(document: Any) -> None:
    for key in ("neuron_indices", "polarity"):
        del document["metadata"][key]
    document["metadata"]["hook_name"] = "blocks.3.hook_resid_pre"


# -- findings -----------------------------------------------------------------------------------------------------


class Counted:
    """Keeps what progress is told."""

    def __init__(self) -> None:
        self.tasks: list[list[Any]] = []

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[Counted]:
        self.tasks.append([title, total, unit, 0])
        yield self

    def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
        self.tasks[-1][3] += amount

    def note(self, text: str) -> None:
        raise AssertionError(text)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_progress_ends_at_its_total(tmp_path: Path, layout: str) -> None:
    files, told = LAYOUTS[layout](), Counted()
    check_package(write(files, tmp_path / "p"), progress=told)
    expected = [[title, len(files), "files", len(files)] for title in (f"check {layout}", "sha256")]
    assert told.tasks == (expected if "metadata.json" in files else expected[:1])


def test_all_findings_are_counted_and_the_first_are_kept(tmp_path: Path) -> None:
    rows = [feature(i) | {"frac_nonzero": 2} for i in range(100)]
    target = write(replaced(bulk(), FEATURES, packed(lines(*rows))), tmp_path / "p") / FEATURES
    report = check_package(target, keep=3)
    assert (report.problem_count, len(report.problems), report.found) == (100, 3, {"frac-nonzero": 100})
    assert [one.line for one in report.problems] == [1, 2, 3]
    assert len(check_package(target, keep=None).problems) == 100


def test_ids_are_unique_over_all_sources(tmp_path: Path) -> None:
    files = {name: content for name, content in bulk().items() if name.startswith(SOURCE)}
    for name, content in list(files.items()):
        text = gzip.decompress(content) if name.endswith(".gz") else content
        for old, new in ((b'"layer": "3"', b'"layer": "2"'), (b'"id": "3"', b'"id": "2"'), (b"blocks.3", b"blocks.2")):
            text = text.replace(old, new)
        moved = name.replace("tiny-model/3/", "tiny-model/2/")
        files[moved] = packed(text) if name.endswith(".gz") else text
    report = check_package(write(files, tmp_path / "p"))
    assert report.counts["sources"] == 2
    assert report.found["id-unique"] == 8 and report.problem_count == 8
    assert {one.file.split("/")[1] for one in report.problems} == {"3"}


def test_a_manifest_may_list_files_with_sizes(tmp_path: Path) -> None:
    files = reports() | {"README.md": b"x"}
    listed = [{"path": name, "bytes": len(content) + (name == "README.md")} for name, content in files.items()]
    document = json.dumps({"files": listed}).encode()
    report = check_package(write(files | {"metadata.json": document}, tmp_path / "p"))
    assert report.found["manifest-form"] == len(files)
    assert [one.file for one in report.problems if one.rule == "manifest-count"] == ["README.md"]


def test_a_manifest_may_name_files_with_facts(tmp_path: Path) -> None:
    files = upload()
    listed = {name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
              for name, content in files.items() if name != "metadata.json"}  # fmt: skip
    document = json.dumps({"files": listed}).encode()
    assert check_package(write(files | {"metadata.json": document}, tmp_path / "p")).found == {}
    listed["README.md"]["size"] = 1
    document = json.dumps({"files": listed}).encode()
    report = check_package(write(files | {"metadata.json": document}, tmp_path / "q"))
    assert rule_files(report) == [("manifest-count", "README.md")]


@pytest.mark.parametrize("form", [
    {"0": "label 0", "2": "label 2"},
    {"explanations": [{"index": 0, "description": "label 0"}, {"index": "2", "text": "label 2"}]},
])  # fmt: skip
def test_explanations_of_a_prd_may_have_other_forms(tmp_path: Path, form: Any) -> None:
    name = "explanations/explanations.json"
    report = check_package(write(replaced(prd(), name, json.dumps(form).encode()), tmp_path / "p"))
    assert (report.found, report.counts["explanations"]) == ({}, 2)


@given(st.lists(st.text(max_size=3), max_size=30))
def test_repeated_names_are_those_of_brute_force(texts: list[str]) -> None:
    names = Names()
    for i, text in enumerate(texts):
        names.add(text, f"file-{i // 7}", i % 7 + 1)
    place = [(f"file-{i // 7}", i % 7 + 1) for i in range(len(texts))]
    expected = [(place[i], place[texts.index(text)]) for i, text in enumerate(texts) if text in texts[:i]]
    assert list(names.repeated()) == expected


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), JSON, min_size=1, max_size=4), st.data())
def test_the_line_of_a_pointer_is_where_the_value_stands(document: dict[str, Any], data: st.DataObject) -> None:
    """One key a line when indented: the line holds the key."""
    key = data.draw(st.sampled_from(sorted(document)))
    text = json.dumps(document, indent=1)
    line = line_of(text.encode(), "/" + key.replace("~", "~0").replace("/", "~1"))
    before = json.dumps({name: document[name] for name in list(document)[: list(document).index(key)]}, indent=1)
    skipped = before.count("\n") if before != "{}" else 1
    assert line == skipped + 1
    assert text.split("\n")[line - 1].startswith(f" {json.dumps(key)}: ")


def test_examples_of_docstrings() -> None:
    for module in (finding, pointer):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed


def test_values_are_shown_short() -> None:
    assert shown("a\nb\ud800") == "a\\nb\\ud800"
    assert len(shown("x" * 1000)) == 90 and len(shown(list(range(1000)))) < 110
