"""`atlas label import | export | stats`: labels from and to files, and what the labels of an atlas are like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import View, find_atlas, view_options
from atlas.export.label_forms import FORMS

if TYPE_CHECKING:
    from atlas.build.label_import import ImportedLabels
    from atlas.query.label_stats import LabelStats

_READ = ("two-pass", "combined", "autointerp", "neuronpedia", "openai", "transluce", "delphi", "csv", "parquet")
_BAR = 24
_BANDS = 16  # rows of layers that are shown; more layers are shown in bands, all of them in JSON


@click.command("import", epilog="Example: atlas label import data/olmo.duckdb olmo3_enriched_labels.json")
@click.argument("file", type=click.Path(path_type=Path), metavar="ATLAS")
@click.argument("label_files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--format", "form", type=click.Choice(("auto", *_READ)), default="auto", show_default=True, help="Of the files."
)
@click.option("--strict", is_flag=True, help="Stop at the first entry that cannot be used.")
@click.option("--source", metavar="NAME", help="Of these labels; the file's name without it. manual: by hand.")
@click.option(
    "--precedence", metavar="LIST", help="Whose label is shown, best first. [manual,two-pass,autointerp,rule]"
)
@click.option("--memory", default="256MiB", show_default=True, metavar="SIZE", help="Most that DuckDB takes.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Of DuckDB.")
@click.option("--report", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def import_(*, file: Path, label_files: tuple[Path, ...], report: str, **given: Any) -> None:
    """Put the labels of FILEs (or folders) of other tools into ATLAS and choose anew what each neuron shows.

    The format is recognised by content; .gz is unpacked. Entries that cannot be used are counted and quoted. A file
    imported before is replaced, all other labels stay; on a refusal the atlas stays as it was.
    """
    from atlas.build.label_import import import_label_files, source_named
    from atlas.cli.edges import parse_size
    from atlas.ingest.labels import Reading
    from atlas.progress import Lines, Quiet
    from atlas.store.connection import Limits

    how = Reading(given["form"], source_named(given["source"]), given["strict"])
    order = given["precedence"].split(",") if given["precedence"] else None
    limits = Limits(f"{parse_size(given['memory']) >> 20}MiB", given["threads"])
    shown = Quiet() if given["quiet"] else Lines()
    made = import_label_files(find_atlas(file), label_files, how=how, precedence=order, limits=limits, progress=shown)
    click.echo(json.dumps(_facts(made), indent=2) if report == "json" else _told(made))


_EXPORT = """Write the labels of ATLAS for other tools, or to import them elsewhere.

OUTPUT is a file; of openai and delphi a folder with a file a neuron. Where a neuron has more labels than the format has
room for, the precedence decides, and the others are counted. What is written comes back by "atlas label import", its
source being the file. Of a neuron's labels the formats have room for

""" + "\n\n".join(one.text for one in FORMS.values())


@click.command(help=_EXPORT, epilog="Example: atlas label export data/demo.duckdb labels.json --format two-pass")
@click.argument("file", type=click.Path(path_type=Path), metavar="ATLAS")
@click.argument("output", type=click.Path(path_type=Path), metavar="OUTPUT")
@click.option("--format", "form", type=click.Choice(list(FORMS)), required=True, help="A file in .gz is packed.")
@click.option("--source", metavar="NAME", help="Only these labels: import:FILE, llm, manual; rule for all rules.")
@click.option("--force", is_flag=True, help="Replace files of the same name in a folder that is not empty.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def export(*, file: Path, output: Path, quiet: bool, **what: Any) -> None:
    """Write the labels of ATLAS in another tool's format."""
    import atlas
    from atlas.export.labels import export_labels
    from atlas.progress import Lines, Quiet

    with atlas.open(find_atlas(file)) as opened:
        made = export_labels(opened, output, progress=Quiet() if quiet else Lines(), **what)
    files = f" in {made.files:,} files" if made.files > 1 else ""
    click.echo(f"{output}  {made.labels:,} labels of {made.neurons:,} neurons, {made.bytes:,} bytes{files}")
    if made.left_out:
        room = f"of a neuron's labels {what['form']} has room for {FORMS[what['form']].holds}"
        click.echo(f"note: {made.left_out:,} labels are left out: {room}", err=True)


@click.command(epilog="Example: atlas label stats data/demo.duckdb --source rule")
@click.argument("place", type=click.Path(path_type=Path), metavar="[ATLAS]", required=False)
@click.option("--source", metavar="NAME", help="Only these labels: import:FILE, llm, manual; rule for all rules.")
@click.option("--generic", type=click.IntRange(2), default=10, show_default=True, help="Texts of so many are generic.")
@view_options
def stats(view: View, place: Path | None, source: str | None, generic: int) -> None:
    """What the labels of ATLAS are like: coverage, layers, types, interpretability, uniqueness, repeated texts."""
    from dataclasses import replace

    view = replace(view, file=view.file or place)
    with view.open() as a:
        found = a.label_stats(source=source, generic=generic, limit=view.limit(10))
        view.show_data(found.to_dict(), _stats_text(found))
        for note in found.warnings:
            click.echo(f"note: {note}", err=True)


def _facts(made: ImportedLabels) -> dict[str, Any]:
    files = [
        {"source": source, "format": one.form, "entries": one.rows_in, "labels": one.rows_out,
         "replaced": made.replaced[source], "rejected": one.rejected, "notes": one.notes, "quotes": list(one.quotes)}
        for source, one in made.files.items()
    ]  # fmt: skip
    shown = [dict(zip(("kind", "source", "neurons"), row, strict=True)) for row in made.coverage.sources]
    total = {"labelled": made.coverage.labelled, "neurons": made.coverage.neurons}
    return {"files": files, **total, "shown": shown, "precedence": list(made.coverage.precedence)}


def _told(made: ImportedLabels) -> str:
    lines = []
    for source, one in made.files.items():
        gone = f", {made.replaced[source]:,} earlier ones replaced" if made.replaced[source] else ""
        lines.append(f"{source} ({one.form}): {one.rows_out:,} labels from {one.rows_in:,} entries{gone}")
        for text, count in one.notes.items():
            lines.append(f"  {count:,} {text}")
        lines += [f"  {count:,} left out: {fault}" for fault, count in one.rejected.items()]
        lines += [f"    {quote}" for quote in one.quotes]
    return "\n".join([*lines, f"shown: {made.coverage.text()}"])


def _stats_text(found: LabelStats) -> str:
    told = found.to_dict()
    share = f", {100 * told['share']:.1f}%" if told["share"] is not None else ""
    parts = [f"{found.labelled:,} of {found.neurons:,} neurons{share}"]
    for title, rows in (
        ("Sources", told["sources"]),
        ("Layers", [_with_bar(row, "share") for row in _bands(told["layers"])]),
        ("Types", [_with_bar(row, "share") for row in told["types"]]),
        ("Interpretability", [_with_bar(row, "share") for row in told["clarity"]]),
        ("Output against input", [_with_bar(row, "share") for row in told["clarity_pairs"]]),
        ("Uniqueness", told["uniqueness"]),
        ("Most repeated", told["repeats"]),
    ):
        parts += [f"{title}\n{_table(rows)}"] if rows else []
    return "\n\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    from atlas.cli.render import text_table

    return text_table([{name: _shown(name, value) for name, value in row.items()} for row in rows])


def _shown(name: str, value: Any) -> Any:
    """Shares as percentages; what is not said as a dash."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}%" if name in ("share", "share_of_labelled", "generic_share", "uniqueness") else value


def _with_bar(row: dict[str, Any], name: str) -> dict[str, Any]:
    return row | {"": "█" * round(_BAR * (row[name] or 0))}


def _bands(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers, or bands of them where they are many, last layer first as the seed's tables have them."""
    width = -(-len(layers) // _BANDS) or 1
    bands = [layers[i : i + width] for i in range(0, len(layers), width)]
    rows = []
    for band in reversed(bands):
        first, last = band[0]["layer"], band[-1]["layer"]
        neurons, labelled = (sum(row[name] for row in band) for name in ("neurons", "labelled"))
        name = f"L{last}" if first == last else f"L{last}-L{first}"
        rows.append({"layers": name, "neurons": neurons, "labelled": labelled, "share": labelled / neurons})
    return rows
