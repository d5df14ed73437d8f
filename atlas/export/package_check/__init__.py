"""A published package -> whether the field's tools would import it, rule by rule, with file and line."""

from __future__ import annotations

from atlas.export.package_check.check import check_package
from atlas.export.package_check.finding import Finding, Report
from atlas.export.package_check.layout import LAYOUTS
from atlas.export.package_check.rule import Rule, rules

__all__ = ["LAYOUTS", "Finding", "Report", "Rule", "check_package", "rules"]
