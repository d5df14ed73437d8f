"""An atlas -> files of other tools, and the registry of what builds produced."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

# A type that the frontends do not know is drawn as a dot; the second is for tools that read only transcoder features.
_FEATURE_TYPES = ("mlp_neuron", "cross layer transcoder")


@click.group(epilog="Example: atlas export graph-json -o graphs")
def export() -> None:
    """Write an atlas in the formats of other tools."""


@export.command("seed-json", epilog="Example: atlas export seed-json -o export --neurons L3/N17 --neurons cluster:1.2")
@click.argument("part", required=False, type=click.Choice(["pruning"]))
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--neurons", multiple=True, metavar="SELECTION", help="Ids, cluster:PATH, layer:A-B, label:TEXT; repeat.")
@click.option("--limit", default=100, show_default=True, help="Query files of neurons, of modules; sample prompts.")
@click.option("--model", metavar="FOLDER", help="The atlas's model, to measure --prompt.")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="Write its activations; repeat.")
@click.option("--top", type=int, metavar="N", help="Only the N strongest neurons per layer in activation files.")
@click.option("--eval-id", "eval_ids", multiple=True, metavar="ID", help="Of scores or impacts that differ; repeat.")
@click.option("--force", is_flag=True, help="Replace files of the same name in a folder that is not empty.")
def seed_json(file: Path | None, output: Path, model: str | None, prompts: tuple[str, ...], **plan: Any) -> None:
    """Write NeuronScope's JSON files: clusters, token queries, samples, weight and impact analysis, activations.

    `pruning` writes only pruning/weight_analysis.json and pruning/impact_analysis.json (the newest batch measured).
    Activation files hold every neuron at every token unless --top says otherwise; their size is printed.
    """
    import atlas
    from atlas.cli.options import find_atlas
    from atlas.errors import InputError
    from atlas.export.seed_json import SeedPlan, export_seed_json

    if plan["part"] and (prompts or model or plan["neurons"]):
        raise InputError(
            f"{plan['part']} files hold no prompts and no selection; leave out --prompt, --model, --neurons"
        )
    with atlas.open(find_atlas(file)) as opened:
        measured = _measure(model, prompts)
        report = export_seed_json(opened, output, plan=SeedPlan(**plan), measured=measured)
    for name, size in report.files:
        click.echo(f"{output / name}  {size:,} bytes")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)


@export.command("graph-json", epilog="Example: atlas export graph-json -o graphs --limit 10")
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


@export.command("wiring-cache", epilog="Example: atlas export wiring-cache -o wiring_cache")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--force", is_flag=True, help="Replace files of the same name in a folder that is not empty.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def wiring_cache(file: Path | None, output: Path, force: bool, quiet: bool) -> None:
    """Write the wiring as layer_N.json files: tokens, upstream and downstream connections of every neuron."""
    import atlas
    from atlas.cli.options import find_atlas
    from atlas.export.wiring_cache import export_wiring_cache
    from atlas.progress import Lines, Quiet

    with atlas.open(find_atlas(file)) as opened:
        report = export_wiring_cache(opened, output, force=force, progress=Quiet() if quiet else Lines())
    for name, size in report.files:
        click.echo(f"{output / name}  {size:,} bytes")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)


@click.command(epilog="Example: atlas artifacts data -o ARTIFACTS.md")
@click.argument("root", type=click.Path(path_type=Path), default=Path("data"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("ARTIFACTS.md"), show_default=True)
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 when the file is out of date.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def artifacts(root: Path, output: Path, check: bool, quiet: bool) -> None:
    """List the atlases under ROOT (data by default) with sizes, rows, labels, methods and example queries.

    Writes ARTIFACTS.md from the files themselves; `-o -` prints it.
    """
    from atlas.export.artifacts import artifacts_text, check_artifacts, write_artifacts
    from atlas.progress import Lines, Quiet

    progress = Quiet() if quiet else Lines()
    if check:
        check_artifacts(root, output, progress=progress)
        click.echo(f"{output} is up to date", err=True)
    elif str(output) == "-":
        click.echo(artifacts_text(root, progress=progress), nl=False)
    else:
        write_artifacts(root, output, progress=progress)
        click.echo(str(output))


@export.command("saelens", epilog="Example: atlas export saelens label:aspirin --model data/demo/model -o transcoders")
@click.argument("neurons", nargs=-1, required=True, metavar="NEURONS...")
@click.option("--model", required=True, metavar="FOLDER", help="The atlas's model: its weights are read.")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option(
    "--sign", type=click.Choice(["both", "+", "-"]), default="both", show_default=True, help="Of activations."
)
@click.option("--max-size", default="8GB", show_default=True, metavar="SIZE", help="Refuse to write more.")
@click.option("--force", is_flag=True, help="Replace files of the same name in a folder that is not empty.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def saelens(
    neurons: tuple[str, ...], file: Path | None, output: Path, *, model: str, quiet: bool, **given: Any
) -> None:
    """Write NEURONS (ids, cluster:PATH, layer:A-B, label:TEXT) as transcoders that sae-lens loads, one a layer.

    A feature is the positive or the negative part of one neuron; together they compute exactly what the neurons write
    into the residual stream. cfg.json's metadata says which neuron and sign each feature is.
    """
    import atlas
    from atlas.build.saelens import SaelensPlan, export_saelens
    from atlas.cli.edges import parse_size
    from atlas.cli.options import find_atlas, selection
    from atlas.progress import Lines, Quiet

    signs = {"both": (1, -1), "+": (1,), "-": (-1,)}[given["sign"]]
    with atlas.open(find_atlas(file)) as opened:
        plan = SaelensPlan(opened.select(selection(neurons)), signs, parse_size(given["max_size"]), given["force"])
        made = export_saelens(opened, model, output, plan, progress=Quiet() if quiet else Lines())
    for folder, features, size in made.folders:
        click.echo(f"{folder}  {features:,} features  {size:,} bytes")


def _measure(model: str | None, prompts: tuple[str, ...]) -> list[Any]:
    from atlas.errors import InputError

    if bool(model) != bool(prompts):
        raise InputError("activations need both --model FOLDER and --prompt TEXT; give both or neither")
    if model is None:
        return []
    from atlas.measure.prompts import measure_prompt
    from atlas.models.adapter import load_model

    adapter = load_model(model)
    return [measure_prompt(adapter, text) for text in prompts]


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
