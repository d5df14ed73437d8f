"""What a rule found, where -> a report that counts everything and keeps the first findings of each rule.

A package of 2 GB may break one rule on every line: the number is always exact, the findings themselves are bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atlas.export.package_check.pointer import line_of
from atlas.export.package_check.rule import rules

_LOCATED = 8 << 20  # bytes: a pointer is looked up in at most as much text, for each finding that is kept


@dataclass(frozen=True)
class Finding:
    """One broken rule at one place."""

    rule: str
    file: str  # relative to the package, with /
    expected: str
    found: str
    line: int | None = None  # from 1, of the uncompressed text
    pointer: str | None = None  # JSON pointer within that line, or within the file where it is one document

    @property
    def place(self) -> str:
        """File, line and JSON pointer as one word.

        >>> Finding("json-nan", "features/batch-0.jsonl.gz", "a number", "NaN", 3, "/frac_nonzero").place
        'features/batch-0.jsonl.gz:3#/frac_nonzero'
        """
        line = "" if self.line is None else f":{self.line}"
        return f"{self.file}{line}" + (f"#{self.pointer}" if self.pointer else "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the rule's level and what to do."""
        rule = rules()[self.rule]
        return {
            "rule": self.rule, "level": rule.level, "file": self.file, "line": self.line, "pointer": self.pointer,
            "expected": self.expected, "found": self.found, "fix": rule.fix,
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What a package is and what is wrong with it; `found` counts all findings, the lists hold the first of a rule."""

    package: str
    layout: str
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    counts: Mapping[str, int]  # what was read: files, bytes, features, activations ...
    found: Mapping[str, int]  # findings by rule, also those that are not listed

    @property
    def problem_count(self) -> int:
        """All problems, also those that are not listed."""
        return sum(n for rule, n in self.found.items() if rules()[rule].level == "error")

    @property
    def warning_count(self) -> int:
        """All warnings, also those that are not listed."""
        return sum(n for rule, n in self.found.items() if rules()[rule].level == "warning")

    @property
    def clean(self) -> bool:
        """Whether there is no problem; warnings are allowed."""
        return not self.problem_count

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "package": self.package, "layout": self.layout, "problem_count": self.problem_count,
            "warning_count": self.warning_count, "counts": dict(self.counts), "found": dict(self.found),
            "problems": [one.to_dict() for one in self.problems], "warnings": [one.to_dict() for one in self.warnings],
        }  # fmt: skip


class Findings:
    """Collects what is found: all are counted, the first `keep` of each rule are kept."""

    def __init__(self, keep: int | None = 50) -> None:
        self._keep = keep
        self._kept: list[Finding] = []
        self.found: Counter[str] = Counter()

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it while its rule has few."""
        if self.room(finding.rule):
            self._kept.append(finding)
        self.found[finding.rule] += 1

    def room(self, rule: str) -> bool:
        """Whether the next finding of this rule is kept."""
        return self._keep is None or self.found[rule] < self._keep

    @property
    def damaged(self) -> int:
        """How often the rest of a file could not be read."""
        return sum(self.found[code] for code in ("gzip-broken", "package-broken", "json-size"))

    def report(self, package: str, layout: str, counts: Mapping[str, int]) -> Report:
        """Everything found until now; KeyError for a rule that is in no table."""
        levels = {code: rules()[code].level for code in self.found}
        kept = {level: tuple(one for one in self._kept if levels[one.rule] == level) for level in ("error", "warning")}
        found = dict(sorted(self.found.items()))
        return Report(package, layout, kept["error"], kept["warning"], dict(counts), found)


@dataclass(frozen=True)
class At:
    """A place in a package that findings are said of: a file, a line of it, or a value of a document."""

    findings: Findings
    file: str
    line: int | None = None
    base: str = ""  # JSON pointer that the pointers of findings start with
    text: bytes = field(default=b"", repr=False)  # of a whole document: pointers are looked up in it

    def say(self, rule: str, expected: str, found: object, pointer: str = "") -> None:
        """Report a finding here; `found` is shown shortened."""
        if not self.findings.room(rule):
            self.findings.found[rule] += 1
            return
        where, line = self.base + pointer, self.line
        if line is None and 0 < len(self.text) <= _LOCATED:
            line = line_of(self.text, where)
        self.findings.add(Finding(rule, self.file, expected, shown(found), line, where or None))

    def on(self, line: int) -> At:
        """The same file, at a line."""
        return At(self.findings, self.file, line, self.base)

    def under(self, pointer: str) -> At:
        """The same line or document, below a value."""
        return At(self.findings, self.file, self.line, self.base + pointer, self.text)


def shown(value: object) -> str:
    """A value in about 100 characters at most: text as it is, others as Python writes them.

    >>> shown([1] * 100)
    '[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1... (100 values)'
    """
    text = value if isinstance(value, str) else repr(value[:40] if isinstance(value, list) else value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[:400])
    if len(text) <= 90 and not (isinstance(value, list) and len(value) > 40):
        return text
    many = f" ({len(value):,} values)" if isinstance(value, list) else ""
    return f"{text[: 86 if many else 87]}...{many}"
