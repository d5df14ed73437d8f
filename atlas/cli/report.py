"""`atlas report`: pages of neurons and modules that open offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import find_atlas, selection

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas


@click.command(epilog="Example: atlas report --top 200 -o neuron_reports; atlas report L3/N17 label:aspirin")
@click.argument("neurons", nargs=-1, metavar="[NEURONS]...")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("neuron_reports"), show_default=True,
    metavar="DIR", help="Folder of the pages; a rerun writes what changed.",
)  # fmt: skip
@click.option("--top", type=click.IntRange(1), metavar="N", help="The N neurons of most graphs.")
@click.option("--cluster", "modules", multiple=True, metavar="PATH", help="This module and its neurons; repeat.")
@click.option("--rows", type=click.IntRange(1), default=10, show_default=True, help="Of each list.")
@click.option("--similar", type=click.IntRange(0), default=5, show_default=True, help="Neurons of similar edges.")
@click.option("--force", is_flag=True, help="Write into a folder that holds other things.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def report(
    neurons: tuple[str, ...],
    file: Path | None,
    output: Path,
    *,
    top: int | None,
    modules: tuple[str, ...],
    **given: Any,
) -> None:
    """Write a page for each neuron: labels, texts, tokens, edges, module, wiring, pruning, on one page offline.

    NEURONS are ids, cluster:PATH, layer:A-B or label:TEXT; "-" reads them from stdin. html/ holds the pages, json/ the
    same as JSON, index.html lists, searches and sorts them.
    """
    import atlas
    from atlas.export.reports.write import ReportPlan, write_reports
    from atlas.progress import Lines, Quiet

    with atlas.open(find_atlas(file)) as opened:
        chosen = _chosen(opened, neurons, top, modules)
        shown = Quiet() if given.pop("quiet") else Lines()
        done = write_reports(opened, output, ReportPlan(chosen, modules, **given), progress=shown)
    told = f"{done.pages:,} pages, {done.written:,} written, {done.unchanged:,} unchanged, {done.size / 1e6:.1f} MB"
    click.echo(f"{done.index}  {told}")
    for one in done.missing:
        click.echo(f"note: pages show no {one.what}: {one.how}", err=True)


def _chosen(atlas: Atlas, neurons: tuple[str, ...], top: int | None, modules: tuple[str, ...]) -> list[int]:
    """Packed ids in ascending order; InputError when nothing is asked for."""
    from atlas.errors import InputError

    if not (neurons or top or modules):
        raise InputError("nothing to report: give neurons (L3/N17, label:TEXT ...), --top N or --cluster PATH")
    found = set(atlas.select(selection(neurons))) if neurons else set()
    for path in modules:
        atlas.require_cluster(path)
        found |= set(atlas.select(f"cluster:{path}"))
    if top:
        found |= {row["feature_id"] for row in atlas.ask("neurons_busiest", {"max_rows": top}).rows()}
    return sorted(found)
