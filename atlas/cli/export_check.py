"""`atlas export check`: whether a package would be imported, with file and line of what would not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.export.package_check import Finding, Report

_LAYOUTS = ("bulk", "upload", "prd", "sae-dashboard", "saelens", "graph", "reports")  # checked by a test


@click.command("check", epilog="Example: atlas export check neuronpedia_export")
@click.argument("package", required=False, type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(_LAYOUTS), help="Recognised from what is inside by default.")
@click.option("--format", "form", type=click.Choice(("table", "json", "jsonl")), default="table", show_default=True)
@click.option("--max-problems", type=click.IntRange(0), default=50, show_default=True, help="Of a rule; 0 for all.")
@click.option("--strict", is_flag=True, help="Warnings too give exit code 1.")
@click.option("--rules", "list_rules", is_flag=True, help="List the rules instead.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def check(package: Path | None, *, form: str, strict: bool, list_rules: bool, quiet: bool, **given: Any) -> None:
    """Check PACKAGE, a folder, zip or file, against what Neuronpedia, SAEDashboard and sae-lens import.

    Exit code 0: would be imported; 1: problems; 2: cannot be read. Warnings are what an importer takes but does
    not do what one expects.
    """
    from atlas.errors import InputError
    from atlas.export.package_check import check_package
    from atlas.progress import Lines, Quiet

    if list_rules:
        return _show_rules(form, given["layout"])
    if package is None:
        raise InputError("no package: give a folder, a zip or a file; --rules lists the rules")
    keep = given["max_problems"] or None
    report = check_package(package, layout=given["layout"], keep=keep, progress=Quiet() if quiet else Lines())
    _show(report, form)
    if report.problem_count or (strict and report.warning_count):
        raise SystemExit(1)


def _show(report: Report, form: str) -> None:
    """Findings on stdout, what they sum up to on stderr."""
    if form == "json":
        click.echo(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    elif form == "jsonl":
        for one in (*report.problems, *report.warnings):
            click.echo(json.dumps(one.to_dict(), ensure_ascii=False))
    else:
        for level, findings in (("problem", report.problems), ("warning", report.warnings)):
            for one in findings:
                click.echo(_line(level, one))
    _show_sum(report)


def _line(level: str, one: Finding) -> str:
    from atlas.export.package_check import rules

    fix = rules()[one.rule].fix
    return f"{level} {one.rule}  {one.place}\n    expected {one.expected}, found {one.found}; {fix}"


def _show_sum(report: Report) -> None:
    """Layout, counts, and what the limit cut, rule by rule."""
    listed: dict[str, int] = {}
    for one in (*report.problems, *report.warnings):
        listed[one.rule] = listed.get(one.rule, 0) + 1
    for rule, number in report.found.items():
        if number > listed.get(rule, 0):
            told = f"note: {listed.get(rule, 0):,} of {number:,} findings of {rule} shown; --max-problems 0 shows all"
            click.echo(told, err=True)
    counted = ", ".join(f"{number:,} {what}" for what, number in report.counts.items())
    sums = f"{report.problem_count:,} problems, {report.warning_count:,} warnings"
    click.echo(f"{report.package}: layout {report.layout}; {counted or 'nothing counted'}; {sums}", err=True)


def _show_rules(form: str, layout: str | None) -> None:
    from atlas.export.package_check import rules

    chosen = [rule for rule in rules().values() if layout is None or {layout, "all"} & set(rule.layouts)]
    if form == "json":
        click.echo(json.dumps([rule.to_dict() for rule in chosen], ensure_ascii=False, indent=2))
    for rule in chosen if form != "json" else ():
        if form == "jsonl":
            click.echo(json.dumps(rule.to_dict(), ensure_ascii=False))
        else:
            mark = " (warning)" if rule.level == "warning" else ""
            head = f"{rule.code}{mark}  {', '.join(rule.layouts)}"
            click.echo(f"{head}\n    {rule.sentence} Otherwise: {rule.guards}. {rule.fix[0].upper()}{rule.fix[1:]}.")
