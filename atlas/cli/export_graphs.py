"""`atlas export graph-json`: attribution graphs as files that frontends read."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

# A type that the frontends do not know is drawn as a dot; the second is for tools that read only transcoder features.
_FEATURE_TYPES = ("mlp_neuron", "cross layer transcoder")


@click.command("graph-json", epilog="Example: atlas export graph-json -o graphs --limit 10")
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[SHARDS_DIR|RECIPE]")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas of labels and tokens.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--graph", "graphs", multiple=True, type=int, metavar="ID", help="This graph_id; repeat.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="The first N graphs; 0: all.")
@click.option("--top-nodes", type=click.IntRange(min=1), metavar="N", help="The N strongest neurons of a graph.")
@click.option("--top-edges", type=click.IntRange(min=1), metavar="N", help="The N strongest links of a graph.")
@click.option("--scan", metavar="NAME", help="What to call the model; its own name by default.")
@click.option("--feature-type", type=click.Choice(_FEATURE_TYPES), default=_FEATURE_TYPES[0], help="Of neurons.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def graph_json(source: Path | None, file: Path | None, output: Path, limit: int, *, quiet: bool, **plan: Any) -> None:
    """Write attribution graphs as JSON files that Neuronpedia and circuit-tracer's frontend read, with an index.

    The graphs are the shards that a build leaves in its .build folder: SHARDS_DIR, or those of RECIPE (a TOML file)
    or --atlas. SHARDS_DIR without --atlas gives graphs without labels. What --top-nodes and --top-edges leave out is
    counted in metadata.info.export of each file.
    """
    from atlas.export.graph_form import GraphPlan
    from atlas.export.graph_json import export_graph_json
    from atlas.progress import Lines, Quiet

    shards, labels = _graph_source(source, file)
    with labels as opened:
        chosen, shown = GraphPlan(limit=limit or None, **plan), Quiet() if quiet else Lines()
        report = export_graph_json(shards, output, atlas=opened, plan=chosen, progress=shown)
    for name, size in report.files:
        click.echo(f"{output / name}  {size:,} bytes")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)


def _graph_source(source: Path | None, file: Path | None) -> tuple[Path, AbstractContextManager[Atlas | None]]:
    """The folder of the graphs' shards, and the atlas of their labels (None for bare shards)."""
    import atlas
    from atlas.cli.options import find_atlas

    if source is not None and source.suffix == ".toml":
        from atlas.build.recipe import read_recipe

        recipe = read_recipe(source)
        return recipe.build_folder, atlas.open(file or recipe.atlas_path)
    if source is not None:
        return source, atlas.open(file) if file else nullcontext()
    found = find_atlas(file)
    return found.with_name(found.name + ".build"), atlas.open(found)
