"""`atlas export labels | edges | neurons | graph`: tables and graphs for other programs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import find_atlas, selection
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.export.plain.rows import Layers, RowPlan
    from atlas.progress import Progress
    from atlas.query.atlas import Atlas

ROWS = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl"}
GRAPHS = {"graphml": ".graphml", "graph-json": ".json"}
_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_PACKED = ("csv", "jsonl", "two-pass")  # may end in .gz
_LEAST = 64 << 20  # bytes of DuckDB
_LAYERS = re.compile(r"(\d+)(?:-(\d+))?$")


def _target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Atlas, target and what becomes of what is there; every export of this file has them."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="No progress."),
        click.option("--force", is_flag=True, help="Replace a file that is there."),
        click.option(
            "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="File; - for stdout."
        ),
        click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file."),
        click.argument("neurons", nargs=-1, metavar="[NEURONS]..."),
    ):
        command = option(command)
    return command


def _row_options(command: Callable[..., None]) -> Callable[..., None]:
    """What of a table is written, and how much memory that may take."""
    for option in (
        click.option("--memory", default="1GiB", show_default=True, metavar="SIZE", help="Most that DuckDB takes."),
        click.option("--compression", metavar="NAME", help="zstd, snappy, gzip, lz4 or none; of text gzip or none."),
        click.option("--limit", type=click.IntRange(1), metavar="ROWS", help="The first rows only."),
        click.option("--where", metavar="SQL", help='A condition over the columns, as "count > 9".'),
        click.option("--columns", metavar="LIST", help="These columns, as a,b,c; all without it."),
        click.option("--layer", "layers", metavar="A-B", help="Layers of the neurons; of edges of the sources."),
    ):
        command = option(command)

    @wraps(command)
    def with_rows(**given: Any) -> None:
        command(**given | {"layers": _layers(given["layers"]), "columns": _list(given["columns"])})

    return _target_options(with_rows)


@click.command(epilog="Example: atlas export labels -o labels.parquet; atlas export labels layer:3 -o layer3.csv")
@click.option(
    "--format", "form", type=click.Choice([*ROWS, "two-pass"]), help="Else by the file's ending; .json is two-pass."
)
@click.option("--source", metavar="NAME", help="Only these labels: import:FILE, llm, manual; rule for all rules.")
@_row_options
def labels(form: str | None, source: str | None, **given: Any) -> None:
    """Write every label of NEURONS (all without any) with its pass, sign, source and score, failed requests included.

    "atlas label import" reads all of these files; "atlas label export" writes more formats of other tools.
    """
    chosen = _form(form, given["output"], {".json": "two-pass"})
    if chosen == "two-pass":
        _whole_only(given, chosen)
        _two_pass(source, given)
        return
    if source is not None:
        from atlas.query.answer import literal

        told = f"(source = {literal(source)} OR starts_with(source, {literal(source + ':')}))"
        given["where"] = f"({given['where']}\n) AND {told}" if given["where"] else told
    _write_rows("labels", chosen, given)


@click.command(epilog="Example: atlas export neurons label:aspirin -o aspirin.csv --columns layer,neuron,label")
@click.option(
    "--format", "form", type=click.Choice([*ROWS, "profiles", "assignments"]),
    help="Else by the file's ending; .json is profiles.",
)  # fmt: skip
@click.option("--top", type=click.IntRange(0), default=20, show_default=True, help="Of each list of a profile; 0: all.")
@click.option("--clustering", metavar="NAME", help="Of assignments; the primary one without it.")
@_row_options
def neurons(form: str | None, top: int, clustering: str | None, **given: Any) -> None:
    """Write NEURONS (all without any), one row each: labels, largest activation, graphs, module.

    profiles: enriched profiles, one JSON file with the strongest edges, tokens and labels of each neuron. assignments:
    the modules of a clustering as JSON, also by "atlas cluster export assignments".
    """
    chosen = _form(form, given["output"], {".json": "profiles"})
    if clustering is not None and chosen != "assignments":
        raise InputError(f"--clustering is of assignments, not of {chosen}; add --format assignments")
    if chosen == "profiles":
        _profiles(top or None, given)
    elif chosen == "assignments":
        _whole_only(given, chosen)
        _assignments(clustering, given)
    else:
        _write_rows("neurons", chosen, given)


@click.command(
    epilog="Example: atlas export edges -o edges.parquet; atlas export edges cluster:1.2 --ends both -o m.csv"
)
@click.option("--format", "form", type=click.Choice(list(ROWS)), help="Else by the file's ending.")
@click.option("--ends", type=click.Choice(["any", "both", "source", "target"]), default="any", show_default=True,
              help="Which end is among NEURONS.")  # fmt: skip
@click.option("--to-layer", "to_layers", metavar="A-B", help="Layers of the targets.")
@click.option("--min-count", type=click.IntRange(1), default=1, show_default=True, help="Fewest observations.")
@click.option("--min-weight", type=float, default=0.0, show_default=True, help="Smallest mean |F|.")
@click.option("--with-labels", is_flag=True, help="Also label and module of both ends.")
@_row_options
def edges(form: str | None, to_layers: str | None, **given: Any) -> None:
    """Write the edges of NEURONS (all without any) with all their statistics, in the order of source and target.

    A million edges take a few seconds whatever the atlas's size; memory stays under --memory.
    """
    if given["ends"] != "any" and not given["neurons"]:
        raise InputError(f"--ends {given['ends']} of no selection; give NEURONS too")
    _write_rows("edges", _form(form, given["output"], {}), given | {"to_layers": _layers(to_layers)})


@click.command(
    epilog="Example: atlas export graph cluster:1.2 -o m.graphml; atlas export graph --to 'logit: she' -o c.json"
)
@click.option(
    "--format", "form", type=click.Choice(list(GRAPHS)), help="Else by the file's ending; .json is graph-json."
)
@click.option("--from", "sources", multiple=True, metavar="SOURCE", help="Source of a circuit; repeat.")
@click.option("--to", "targets", multiple=True, metavar="TARGET", help="Target of a circuit; repeat.")
@click.option("--budget", default=0.8, show_default=True, help="Share of a circuit's influence to keep.")
@click.option("--max-nodes", default=200, show_default=True, help="Most nodes of a circuit.")
@click.option("--min-count", type=click.IntRange(1), default=1, show_default=True, help="Fewest observations.")
@click.option("--min-weight", type=float, default=0.0, show_default=True, help="Smallest mean |F|; not of a circuit.")
@click.option("--limit", type=click.IntRange(0), default=50_000, show_default=True, help="Strongest edges; 0: all.")
@_target_options
def graph(form: str | None, **given: Any) -> None:
    """Write the edges among NEURONS (ids, cluster:PATH, layer:A-B, label:TEXT), or a circuit, as a graph.

    graphml is for Gephi, igraph, networkx and yEd; graph-json is what Neuronpedia's and circuit-tracer's pages show.
    """
    import atlas

    chosen = _form(form, given["output"], {".graphml": "graphml", ".xml": "graphml", ".json": "graph-json"}, of=GRAPHS)
    with atlas.open(find_atlas(given["file"])) as opened:
        found = _graph(opened, given)
        _write_graph(found, chosen, given)
    for warning in found.warnings:
        click.echo(f"note: {warning}", err=True)


# -- what the commands are made of -------------------------------------------------------------------------------------


def _form(given: str | None, output: Path, more: dict[str, str], *, of: dict[str, str] = ROWS) -> str:
    """The format asked for, or that of the file's ending."""
    name = output.name.lower().removesuffix(".gz")
    found = given or ({} if of is GRAPHS else _SUFFIXES).get(Path(name).suffix) or more.get(Path(name).suffix)
    if found is None and str(output) == "-":
        found = next(iter(of)) if of is GRAPHS else "csv"
    if found is None:
        endings = ", ".join(sorted({*of.values(), *more}))
        raise InputError(f"no format by the ending of {output}; give --format, or end the file in {endings}")
    if output.suffix.lower() == ".gz" and found not in _PACKED:
        raise InputError(f"{found} files are not packed as a whole; end {output} without .gz")
    return found


def _plan(given: dict[str, Any]) -> RowPlan:
    from atlas.export.plain.rows import RowPlan

    names = ("columns", "where", "layers", "to_layers", "limit", "ends", "min_count", "min_weight", "with_labels")
    chosen = selection(given["neurons"]) if given["neurons"] else None
    return RowPlan(selection=chosen, **{name: given[name] for name in names if name in given})


def _write_rows(table: str, form: str, given: dict[str, Any]) -> None:
    from atlas.cli.edges import parse_size
    from atlas.export.plain.files import write_rows
    from atlas.export.plain.rows import Rows
    from atlas.query.atlas import Atlas
    from atlas.store.connection import Limits

    output = given["output"]
    packed = "gzip" if output.suffix.lower() == ".gz" else None
    memory = parse_size(given["memory"])
    if memory < _LEAST:
        raise InputError(f"--memory {given['memory']} is too little to open an atlas; use at least {_LEAST >> 20}MiB")
    limits = Limits(f"{memory >> 20}MiB")
    with Atlas(find_atlas(given["file"]), limits=limits) as opened:
        rows = Rows(opened, table, _plan(given), progress=_progress(given))
        target = None if str(output) == "-" else output
        done = write_rows(rows, target, form, compression=given["compression"] or packed, force=given["force"])
    if done.size is not None:
        click.echo(f"{output}  {done.rows:,} rows  {done.size:,} bytes")
    for warning in rows.warnings:
        click.echo(f"note: {warning}", err=True)


def _two_pass(source: str | None, given: dict[str, Any]) -> None:
    import atlas
    from atlas.export.labels import export_labels

    _refuse_existing(given)
    with atlas.open(find_atlas(given["file"])) as opened:
        made = export_labels(opened, given["output"], form="two-pass", source=source, progress=_progress(given))
    click.echo(f"{given['output']}  {made.labels:,} labels of {made.neurons:,} neurons  {made.bytes:,} bytes")
    if made.left_out:
        click.echo(f"note: {made.left_out:,} labels are left out: two-pass has room for one a pass", err=True)


def _profiles(top: int | None, given: dict[str, Any]) -> None:
    import atlas
    from atlas.export.profiles import ProfilePlan, export_profiles

    _whole_only({**given, "neurons": ()}, "profiles")
    chosen = selection(given["neurons"]) if given["neurons"] else None
    with atlas.open(find_atlas(given["file"])) as opened:
        plan = ProfilePlan(chosen, top, given["force"])
        made = export_profiles(opened, given["output"], plan=plan, progress=_progress(given))
    click.echo(f"{given['output']}  {made.profiles:,} profiles  {made.size:,} bytes")


def _assignments(clustering: str | None, given: dict[str, Any]) -> None:
    import atlas
    from atlas.export.assignments import export_assignments

    _refuse_existing(given)
    with atlas.open(find_atlas(given["file"])) as opened:
        neurons = export_assignments(opened, given["output"], clustering=clustering)
    click.echo(f"{given['output']}  {neurons:,} neurons  {given['output'].stat().st_size:,} bytes")


def _graph(opened: Atlas, given: dict[str, Any]) -> Any:
    from atlas.export.plain.graph import EdgeCut, selection_graph

    if given["targets"]:
        if given["neurons"]:
            raise InputError("a graph is of NEURONS or of a circuit (--from, --to); give one of them")
        ends = selection(given["sources"]) or None, selection(given["targets"])
        names = ("budget", "max_nodes", "min_count")
        return opened.circuit(*ends, **{name: given[name] for name in names})
    if given["sources"] or not given["neurons"]:
        raise InputError("no graph without NEURONS or --to TARGET; give for example cluster:1.2, or --to 'logit: she'")
    cut = EdgeCut(given["min_count"], given["min_weight"], given["limit"] or None)
    return selection_graph(opened, selection(given["neurons"]), cut=cut)


def _write_graph(found: Any, form: str, given: dict[str, Any]) -> None:
    from atlas.export.plain.graph import write_graph

    if str(given["output"]) == "-":
        from atlas.export.pictures.files import render

        click.echo(render(found, form), nl=False)
        return
    size = write_graph(found, given["output"], form, force=given["force"])
    told = f"{len(found.nodes):,} nodes  {len(found.links):,} edges  {size:,} bytes"
    click.echo(f"{given['output']}  {told}")
    if left := found.facts.get("weaker edges left out"):
        click.echo(f"note: {left:,} weaker edges are left out; --limit 0 writes all", err=True)


def _whole_only(given: dict[str, Any], form: str) -> None:
    """Options that choose rows and columns have no meaning for documents of another tool."""
    for name in ("neurons", "columns", "where", "layers", "limit", "compression"):
        if given[name]:
            option = "NEURONS" if name == "neurons" else "--layer" if name == "layers" else f"--{name}"
            raise InputError(f"{form} files hold all there is; leave out {option}, or write parquet, csv or jsonl")
    if str(given["output"]) == "-":
        raise InputError(f"{form} is written into a file: give -o FILE")


def _refuse_existing(given: dict[str, Any]) -> None:
    if given["output"].is_file() and not given["force"]:
        raise InputError(f"{given['output']} exists; give another -o FILE, or --force to replace it")


def _progress(given: dict[str, Any]) -> Progress:
    from atlas.progress import Lines, Quiet

    return Quiet() if given["quiet"] else Lines()


def _layers(text: str | None) -> Layers | None:
    if text is None:
        return None
    match = _LAYERS.match(text)
    if match is None:
        raise InputError(f'cannot read layers from {text!r}; use "3" or "0-5"')
    return int(match[1]), int(match[2] or match[1])


def _list(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()
