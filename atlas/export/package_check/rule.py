"""Tables of rules -> one dictionary by code: what is asked for, which importer asks for it, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

Level = Literal["error", "warning"]
Row = tuple[str, str, str, str, str]  # code, layouts, sentence, guards, fix; a code that starts with ? is a warning


@dataclass(frozen=True)
class Rule:
    """One thing that a package must (error) or should (warning) be."""

    code: str
    level: Level
    layouts: tuple[str, ...]
    sentence: str  # what holds of a good package
    guards: str  # what an importer does otherwise
    fix: str  # what to do

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"layouts": list(self.layouts)}


@cache
def rules() -> dict[str, Rule]:
    """All rules by code, in the order of the tables."""
    from atlas.export.package_check import rules_bulk, rules_files, rules_forms

    rows = (*rules_files.ROWS, *rules_bulk.ROWS, *rules_forms.ROWS)
    found = {rule.code: rule for rule in _rules(rows)}
    assert len(found) == len(rows), "two rules of one code"
    return found


def _rules(rows: Iterable[Row]) -> Iterable[Rule]:
    for code, layouts, sentence, guards, fix in rows:
        level: Level = "warning" if code.startswith("?") else "error"
        yield Rule(code.lstrip("?"), level, tuple(layouts.split()), sentence, guards, fix)
