"""`atlas cluster run | use | runs`: find modules in the edges, choose the clustering that is shown, list them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import View, find_atlas, view_options

if TYPE_CHECKING:
    from atlas.build.clustering import Forecast, RunOptions
    from atlas.progress import Progress

_METHODS = ("infomap", "leiden", "louvain-hierarchical", "kmeans", "nmf", "spectral")
_ATLAS = click.argument("file", type=click.Path(path_type=Path), metavar="[ATLAS]", required=False)
_FILE = click.option("--atlas", "named", type=click.Path(path_type=Path), metavar="FILE", help="The same as ATLAS.")
_FORM = click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
_QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress.")
_MEMORY = click.option("--memory", metavar="SIZE", help="Memory it may take, such as 14GiB; what is free without it.")
_THREADS = click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of DuckDB.")


@click.command(epilog="Example: atlas cluster data/qwen.duckdb --method infomap --min-count 5 --memory 14GiB")
@_ATLAS
@_FILE
@click.option("--method", type=click.Choice(_METHODS), default="infomap", show_default=True)
@click.option("--weight", metavar="SQL", help="Weight of an edge, any expression over its columns. [mean_abs_weight^2]")
@click.option("--min-count", type=int, help="Fewest observations of an edge. [3; 1 where none has more]")
@click.option("--seed", type=int, help="Random seed; the same seed gives the same modules. [42]")
@click.option("--trials", type=int, help="infomap, leiden, louvain-hierarchical: the best of so many. [1]")
@click.option("--resolution", type=float, help="leiden, louvain-hierarchical: higher = smaller modules. [1]")
@click.option("--max-size", type=int, help="leiden: a module with more neurons is split again. [1000]")
@click.option("--objective", type=click.Choice(["modularity", "cpm"]), help="leiden: what it maximises. [modularity]")
@click.option("--k", type=int, help="kmeans, nmf, spectral: modules to look for. [sqrt(neurons / 2)]")
@click.option(
    "--profile", type=click.Choice(["edges", "activations"]), help="kmeans, nmf, spectral: what is compared. [edges]"
)
@click.option("--name", help="Name of the clustering; that of the method without it. The same name is replaced.")
@click.option("--primary/--no-primary", default=None, help="Show it in neurons and clusters. [if none is shown yet]")
@_MEMORY
@_THREADS
@click.option("--dry-run", is_flag=True, help="Only say how much memory, time and disk it would take.")
@_FORM
@_QUIET
def run(
    *, file: Path | None, named: Path | None, method: str, form: str, quiet: bool, dry_run: bool, **given: Any
) -> None:
    """Cluster the edges of ATLAS and store the modules in it. `atlas cluster ATLAS` is short for it.

    infomap takes edges with their direction; leiden and louvain-hierarchical add up both directions. Memory and disk
    are checked first. The atlas is changed as a whole at the end: a run that is stopped leaves it as it was. Ctrl-C
    waits for the step at hand, which is long for leiden and louvain-hierarchical on many edges; a kill does no harm.
    """
    from atlas.build.clustering import cluster_atlas, forecast, require

    place, how, progress = _one(file, named), _how(given, given.pop("primary")), _progress(quiet)
    found = forecast(place, method, given, how=how)
    if dry_run:
        click.echo(json.dumps(_told(found), indent=2) if form == "json" else _sentence(method, found))
    else:
        progress.note(_sentence(method, found))
    require(found)
    if not dry_run:
        _show(place, cluster_atlas(place, method, given, how=how, progress=progress), form)


@click.command(epilog="Example: atlas cluster use leiden --atlas data/qwen.duckdb")
@click.argument("name")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@_MEMORY
@_THREADS
@_FORM
@_QUIET
def use(*, name: str, file: Path | None, form: str, quiet: bool, **given: Any) -> None:
    """Show the stored clustering NAME in neurons and clusters, and in every question about modules."""
    from atlas.build.clustering import use_clustering

    place = find_atlas(file)
    _show(place, use_clustering(place, name, how=_how(given, True), progress=_progress(quiet)), form)


@click.command(epilog="Example: atlas cluster runs")
@view_options
def runs(view: View) -> None:
    """The stored clusterings; the primary one is what neurons and clusters show."""
    with view.open() as a:
        view.show(a.clusterings(limit=view.limit(50)))


def _one(file: Path | None, named: Path | None) -> Path:
    from atlas.errors import InputError

    if file is not None and named is not None:
        raise InputError(f"two atlases, {file} and --atlas {named}; give one")
    return find_atlas(file or named)


def _how(given: dict[str, Any], primary: bool | None) -> RunOptions:
    """Take --memory and --threads out of the options."""
    from atlas.build.clustering import RunOptions
    from atlas.cli.edges import parse_size

    memory = given.pop("memory")
    return RunOptions(parse_size(memory) if memory else None, given.pop("threads"), primary)


def _progress(quiet: bool) -> Progress:
    from atlas.progress import Lines, Quiet

    return Quiet() if quiet else Lines()


def _show(file: Path, row: dict[str, Any], form: str) -> None:
    if form == "json":
        click.echo(json.dumps(row, indent=2))
        return
    quality = "" if row["quality"] is None else f", {row['quality_measure']} {row['quality']:.4f}"
    shown = "shown in neurons and clusters" if row["primary"] else f'"atlas cluster use {row["clustering"]}" shows it'
    levels = "1 level" if row["levels"] == 1 else f"{row['levels']} levels"
    click.echo(
        f"{file}  {row['clustering']}: {row['neurons']:,} neurons in {row['modules']:,} modules of {levels}, "
        f"{row['top_modules']:,} at the top{quality}; {shown}"
    )


def _told(found: Forecast) -> dict[str, Any]:
    """A forecast as plain values; bytes and seconds."""
    need = found.need
    return {
        "entries": need.entries, "memory": need.memory, "memory_allowed": found.allowed,
        "seconds": round(need.seconds, 1), "disk": found.disk, "disk_free": found.disk_free,
    }  # fmt: skip


def _sentence(method: str, found: Forecast) -> str:
    need = found.need
    allowed = "" if found.allowed is None else f" of {found.allowed / 2**30:.2f} allowed"
    minutes = f"{need.seconds / 60:.0f} minutes" if need.seconds >= 120 else f"{need.seconds:.0f} s"
    return (
        f"{method}: {need.entries:,} entries, about {need.memory / 2**30:.2f} GiB of memory{allowed}, "
        f"{minutes} (within a factor of three), {found.disk / 1e9:.2f} GB of disk for a while"
    )
