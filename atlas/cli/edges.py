"""`atlas edges`: edges between two selections of an atlas; its commands keep the store that edges come from."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import View, selection, view_options
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.build.edge_store import Added, EdgeOptions
    from atlas.progress import Progress

_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}
_METHODS = ("relp_direct", "relp_total", "transcoder_direct", "weight_graph", "derived", "unknown")
_NOTES_RUNS = 64  # overlapping files from which on reading is noticeably slower


class _Edges(click.Group):
    """The question by itself, or a command on a store."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a selection given as one is explained."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise InputError(
                f"{args[0]!r} is no command of atlas edges ({', '.join(self.commands)}); to ask for edges use --from "
                f"and --to: atlas edges --from {' --to '.join(args[:2])}"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Edges,
    invoke_without_command=True,
    epilog="Example: atlas edges --from cluster:158 --to layer:20-30 --min-count 5; atlas edges add qwen.edges graphs/",
)
@click.option("--from", "sources", multiple=True, metavar="NEURONS", help="Sources: ids, cluster:, layer:, label:.")
@click.option("--to", "targets", multiple=True, metavar="NEURONS", help="Targets; without it any neuron.")
@click.option("--min-weight", default=0.0, help="Smallest mean |weight|.")
@click.option("--min-count", default=1, help="Fewest observations.")
@click.option("--by-cluster", is_flag=True, help="Collapse to modules.")
@click.option("--level", type=click.IntRange(min=1), help="Level of the modules, 1 = top.")
@view_options
@click.pass_context
def edges(ctx: click.Context, view: View, /, *, by_cluster: bool, level: int | None, min_weight: float, min_count: int,
          **ends: tuple[str, ...]) -> None:  # fmt: skip
    """Edges between two selections, strongest first, with the evidence for each.

    With a command: make, fill and read an edge store, the folder of exact statistics that an atlas takes its edges
    from.
    """
    if ctx.invoked_subcommand is not None:
        return
    from atlas.query.circuits import edges as between

    sources, targets = selection(ends["sources"]) or None, selection(ends["targets"]) or None
    with view.open() as a:
        found = between(a, sources, targets, min_weight=min_weight, min_count=min_count, limit=view.limit(50))
        view.show(found.by_cluster(level, limit=view.limit(50)) if by_cluster or level else found)


def _work_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --memory, --threads, --executor and --quiet; the command gets EdgeOptions and a Progress first."""

    @click.option("--memory", default="4GiB", show_default=True, help="Memory that all threads together may use.")
    @click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
    @click.option(
        "--executor",
        default="local",
        show_default=True,
        metavar="local|slurm|dask=ADDRESS",
        help="Where tasks run.",
    )
    @click.option("--quiet", "-q", is_flag=True, help="No progress.")
    @wraps(command)
    def with_options(*arguments: Any, memory: str, threads: int, executor: str, quiet: bool, **options: Any) -> None:
        from atlas.build.edge_store import EdgeOptions
        from atlas.progress import Lines, Quiet

        given = EdgeOptions(memory=parse_size(memory), threads=threads, executor=executor)
        command(given, Quiet() if quiet else Lines(), *arguments, **options)

    return with_options


@edges.command(epilog="Example: atlas edges add qwen.edges data/qwen.duckdb.build/ --memory 2GiB")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILES...")
@click.option("--model", help="Name of the model of a new store, where the files do not say it.")
@click.option("--layers", type=click.IntRange(min=1), help="Its layers.")
@click.option("--width", type=click.IntRange(min=1), help="Neurons (or features) of a layer.")
@click.option("--unit-type", type=click.Choice(["mlp_neuron", "transcoder_feature"]), help="What its nodes are.")
@click.option("--method", type=click.Choice(_METHODS), help="edge_method of the files, where they do not say it.")
@click.option("--half", type=click.IntRange(1, 2), help="Of a new store: take only this half of the graphs, by a hash.")
@click.option("--strict", is_flag=True, help="Stop at the first file that cannot be used.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_work_options
@click.pass_context
def add(ctx: click.Context, options: EdgeOptions, progress: Progress, /, *, store: Path, files: tuple[Path, ...],
        form: str, **said: Any) -> None:  # fmt: skip
    """Add graphs to STORE, which is made when it is not there.

    FILES are shards of `atlas measure relp`, folders of them, Parquet files of observations, attribution graphs
    (Neuronpedia and circuit-tracer JSON, circuit-tracer .pt, nodes-and-edges JSON), checkpoints and profiles of
    earlier tools, wiring caches, or other stores; "-" reads their names from stdin. A file that is in the store
    already is skipped; one that cannot be used is left out with the reason. After a kill, run the same again.
    """
    from dataclasses import replace

    from atlas.build.edge_store import Sizes
    from atlas.build.edge_store import add as run

    given = _names_from_stdin() if files == (Path("-"),) else list(files)
    options = replace(options, method=said.pop("method"), strict=said.pop("strict"))
    done = run(store, given, sizes=Sizes(**said), options=options, progress=progress)
    facts = {"sources": done.sources, "observations": done.observations, "known": done.known,
             "rejected": dict(done.rejected), "tasks": done.outcome.tasks,
             "bytes_read": done.outcome.bytes_read, "bytes_written": done.outcome.bytes_written}  # fmt: skip
    if form == "json":
        click.echo(json.dumps(facts, indent=2))
    skipped = f", {done.known:,} there already" if done.known else ""
    left = f", {len(done.rejected):,} left out" if done.rejected else ""
    click.echo(f"{store}  {done.sources:,} sources, {done.observations:,} observations added{skipped}{left}", err=True)
    for line in _after_add(store, done):
        progress.note(line)
    ctx.exit(1 if done.rejected and not done.sources and not done.known else 0)


@edges.command(epilog="Example: atlas edges compact qwen.edges --memory 2GiB")
@click.argument("store", type=click.Path(path_type=Path))
@_work_options
def compact(options: EdgeOptions, progress: Progress, *, store: Path) -> None:
    """Merge what was added to STORE, so that every edge is one row. Statistics do not change."""
    from atlas.build.edge_store import compact as run

    done = run(store, options=options, progress=progress)
    rows = sum(one.edges for one in done.manifest.partials)
    size = sum(one.bytes for one in done.manifest.partials)
    click.echo(f"{store}  {rows:,} edges, {size / 1e6:,.1f} MB", err=True)


@edges.command(epilog="Example: atlas edges status qwen.edges --format json")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--sources", "listed", is_flag=True, help="List every source, with what was read and left out of it.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(*, store: Path, listed: bool, form: str) -> None:
    """What STORE is of and holds."""
    from atlas.build.edge_store import sources
    from atlas.build.edge_store import status as find
    from atlas.cli.render import text_table

    found: Any = sources(store) if listed else find(store)
    if form == "json":
        click.echo(json.dumps(found, indent=2))
    elif listed:
        click.echo(text_table([_source_line(row) for row in found if row["status"] == "in"]))
        for row in found:
            if row["status"] != "in":
                click.echo(f"left out {row['path']}: {row['reason']}")
    else:
        click.echo("\n".join(f"{name:<14}{value}" for name, value in _status_lines(store, found).items()))


@edges.command(epilog="Example: atlas edges verify qwen.edges")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@click.pass_context
def verify(ctx: click.Context, *, store: Path, quiet: bool) -> None:
    """Read all of STORE: hashes, order, statistics; exit code 1 when something is wrong."""
    from atlas.build.edge_store import verify as run
    from atlas.progress import Lines, Quiet

    found = run(store, progress=Quiet() if quiet else Lines())
    for fault in found:
        click.echo(fault)
    click.echo(f"{store}  {len(found)} faults" if found else f"{store}  healthy", err=True)
    ctx.exit(1 if found else 0)


@edges.command(epilog="Example: atlas edges project qwen.edges data/qwen.duckdb --min-count 3")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path), metavar="ATLAS")
@click.option("--min-count", type=click.IntRange(min=1), default=3, show_default=True, help="Fewest observations.")
@click.option(
    "--neuron-graphs", type=click.Choice(["auto", "table", "store"]), default="auto", show_default=True,
    help="Which neurons each graph contains: in the atlas, or left in the store; auto = in the atlas up to 50M rows.",
)  # fmt: skip
@click.option("--cooccurrence", type=click.IntRange(min=0), default=20, show_default=True, help="Partners a neuron.")
@_work_options
def project(options: EdgeOptions, progress: Progress, *, store: Path, file: Path, min_count: int, neuron_graphs: str,
            cooccurrence: int) -> None:  # fmt: skip
    """Put the edges of STORE into ATLAS, which is made when it is not there; its other tables stay as they are."""
    from atlas.build.edge_store import status as find
    from atlas.build.projection import project_store
    from atlas.ingest.projection import ProjectOptions

    how = ProjectOptions(min_count, neuron_graphs)
    found = project_store(store, file, how=how, cooccurrence=cooccurrence, options=options, progress=progress)
    held = find(store)
    cut = held["edge_rows"] - found.edges
    fewer = f" ({cut:,} with fewer stay in {store})" if cut else ""
    graphs, size = _graphs(found.graphs, held["counts_graphs"]), file.stat().st_size / 1e6
    click.echo(
        f"{file}  {found.edges:,} edges of at least {min_count} observations{fewer}, {graphs}, {size:,.1f} MB", err=True
    )
    again = f"--min-count 1 takes all {cut:,} edges; " if cut and not found.edges else ""
    progress.note(f"{again}atlas info --atlas {shlex.quote(str(file))} says what it holds")


@edges.command(
    epilog="Example: atlas edges halves data/qwen.duckdb.build -o noise; "
    "atlas diff A.duckdb B.duckdb --noise noise/half-1.duckdb noise/half-2.duckdb"
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILES...")
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR")
@click.option("--min-count", type=click.IntRange(min=1), default=1, show_default=True, help="Fewest observations.")
@click.option("--model", help="Name of the model, where the files do not say it.")
@click.option("--layers", type=click.IntRange(min=1), help="Its layers.")
@click.option("--width", type=click.IntRange(min=1), help="Neurons (or features) of a layer.")
@click.option("--method", type=click.Choice(_METHODS), help="edge_method of the files, where they do not say it.")
@_work_options
def halves(options: EdgeOptions, progress: Progress, *, files: tuple[Path, ...], folder: Path, min_count: int,
           **said: Any) -> None:  # fmt: skip
    """Two atlases of one half of the graphs each, in DIR: what sampling alone changes, for atlas diff --noise.

    FILES are graphs as for `atlas edges add`, for example the build folder of a recipe. Which half a graph is in
    follows from a hash of what it is. After a kill, run the same again.
    """
    from dataclasses import replace

    from atlas.build.edge_store import Sizes
    from atlas.build.halves import make_halves
    from atlas.ingest.projection import ProjectOptions

    options = replace(options, method=said.pop("method"))
    how = ProjectOptions(min_count, "store")
    made = make_halves(files, folder, sizes=Sizes(**said), how=how, options=options, progress=progress)
    for one in made:
        click.echo(f"{one.file}  {one.graphs:,} graphs, {one.edges:,} edges", err=True)


def _names_from_stdin() -> list[Path]:
    names = [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
    if not names:
        raise InputError("no names on stdin; give one file or folder a line")
    return names


def _after_add(store: Path, done: Added) -> Iterator[str]:
    """What a person may want next."""
    from atlas.ingest.projection import LARGEST_WIDTH

    name, width = shlex.quote(str(store)), done.store.facts.width
    runs = sum(one.runs for one in done.store.manifest.partials)
    if done.rejected:
        yield f"atlas edges status {name} --sources says what was left out and why"
    if runs > _NOTES_RUNS:
        yield f"it is made of {runs} sorted files: atlas edges compact {name} makes reading fast"
    if width > LARGEST_WIDTH:
        yield f"an atlas holds {LARGEST_WIDTH:,} units a layer, not {width:,}: ask the store itself, with any SQL"
    elif done.store.manifest.partials:
        yield f"atlas edges project {name} ATLAS.duckdb puts its edges into an atlas"


def _graphs(found: int, counted: bool) -> str:
    """Checkpoints, profiles, wiring and loose observations bring no list of graphs."""
    return f"{found:,} {'graphs' if counted else 'known graphs'}" if found else "no graphs listed"


def _status_lines(store: Path, found: dict[str, Any]) -> dict[str, str]:
    """The facts of a store as a person reads them."""
    unit, name = found["unit_type"].replace("_", " "), shlex.quote(str(store))
    lines = {
        "store": str(store),
        "model": found["model"] + (f" (revision {found['revision']})" if found["revision"] else ""),
        "units": f"{found['layers']} layers x {found['width']} ({unit}s)",
        "edge method": found["edge_method"],
        **({"half": f"{found['half']} of 2, by a hash of each graph"} if found["half"] else {}),
        "quantum": f"2^{found['quantum']} of a weight",
        "sources": f"{found['sources']:,}",
        "graphs": _graphs(found["graphs"], found["counts_graphs"]),
        "observations": f"{found['observations']:,}",
        "edges": f"{found['edge_rows']:,}" if found["compact"] else f"at most {found['edge_rows']:,}",
        "on disk": f"{found['bytes'] / 1e6:,.1f} MB",
    }
    if found["sources"]:
        lines["compact"] = "yes" if found["compact"] else f"no; atlas edges compact {name}"
    if found["rejected"]:
        lines["left out"] = f"{found['rejected']:,} files; atlas edges status {name} --sources"
    if found["unfinished"]:
        lines["unfinished"] = "an add or compact was stopped, or is running; the same command again goes on"
    return lines


def _source_line(row: dict[str, Any]) -> dict[str, Any]:
    """One source in a row of a table; --format json has all of it."""
    skipped = ", ".join(f"{count:,} {what}" for what, count in row["skipped"].items())
    return {name: row[name] for name in ("name", "format", "graphs", "observations")} | {"left out of it": skipped}


def parse_size(text: str) -> int:
    """Bytes of "2GiB", "512MB", "4G"; InputError for anything else."""
    digits = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = _UNITS.get(digits[-1:], 0)
    number = digits[:-1] if unit else digits
    try:
        size = int(float(number) * (1 << unit))
    except ValueError as error:
        raise InputError(f"cannot read a size from {text!r}; use a form such as 2GiB or 512MiB") from error
    if size <= 0:
        raise InputError(f"a size of {text!r} is nothing; use a form such as 2GiB")
    return size
