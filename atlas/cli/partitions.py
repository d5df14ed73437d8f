"""`atlas cluster compare | import | export`: clusterings beside one another, from and to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import View, find_atlas, view_options

if TYPE_CHECKING:
    from atlas.derive.clustering.compare import Comparison, Side

_ATLAS = click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
_AGREEMENT = {
    "adjusted_mutual_information": "adjusted mutual information (1 = equal, 0 = chance)",
    "normalized_mutual_information": "normalised mutual information",
    "variation_of_information": "variation of information, bits (0 = equal)",
    "co_member_jaccard": "pairs of neurons together in both, of those in either",
    "best_match_of_a": "Jaccard with the likest module, of the first",
    "best_match_of_b": "Jaccard with the likest module, of the second",
}


@click.command(epilog="Example: atlas cluster compare infomap kmeans --level 1 -o comparison_report.json --format json")
@click.argument("names", nargs=-1, metavar="[A B]")
@click.option("--all", "every", is_flag=True, help="Every pair of stored clusterings.")
@click.option("--level", type=click.IntRange(min=1), help="Cut module paths to N levels; 1 = top modules.")
@click.option(
    "--draws", default=20, show_default=True, help="Permutations of labels for the null; 0 leaves labels out."
)
@click.option("--seed", default=42, show_default=True, help="Of the permutations.")
@view_options
def compare(view: View, names: tuple[str, ...], every: bool, **options: Any) -> None:
    """Two clusterings: how far they agree, the sizes of their modules, how alike the labels within them.

    A and B are names of stored clusterings ("primary" for the one shown) or assignment files.
    """
    from atlas.derive.clustering.compare import CompareOptions, compare_all
    from atlas.derive.clustering.compare import compare as compare_two
    from atlas.errors import InputError

    if (len(names) != 2) != every:
        raise InputError(f"{len(names)} clusterings to compare; give two names or files, or --all alone")
    with view.open() as a:
        chosen = CompareOptions(**options)
        found = compare_all(a, options=chosen) if every else [compare_two(a, *names, options=chosen)]
    data = [one.to_dict() for one in found]
    view.show_data(data if every else data[0], _pairs_text(found) if every else _text(found[0]))


@click.command("import", epilog="Example: atlas cluster import assignments.json --primary")
@click.argument("assignments", type=click.Path(path_type=Path), metavar="FILE")
@_ATLAS
@click.option("--primary", is_flag=True, help="Show it in neurons and clusters; without it only if none is shown.")
def import_(assignments: Path, file: Path | None, primary: bool) -> None:
    """Add the modules of an assignment file, {"assignments": {"L24/5326": {"path": "158.4", ...}}}.

    It becomes the clustering "import:<file name>". Paths that end in the neuron's own rank are mended; how many, and
    what else did not fit, is said.
    """
    from atlas.build.imported_clustering import import_clustering

    found = import_clustering(find_atlas(file), assignments, primary=primary)
    shown = "now shown in neurons and clusters" if found.primary else f'"atlas cluster use {found.name}" shows it'
    click.echo(f"{found.name}: {found.read.rows_out:,} of {found.read.rows_in:,} neurons in modules; {shown}")
    if found.read.reason:
        click.echo(f"note: {found.read.reason}", err=True)


@click.group(epilog="Example: atlas cluster export assignments -o assignments.json")
def export() -> None:
    """Write a clustering in the formats of other tools."""


@export.command(epilog="Example: atlas cluster export assignments --clustering leiden -o leiden.json")
@_ATLAS
@click.option("--clustering", metavar="NAME", help="A stored clustering; the primary one without it.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="File to write.")
def assignments(file: Path | None, clustering: str | None, output: Path) -> None:
    """Write path, top, sub, subsub, depth and flow of every neuron in a module as JSON."""
    import atlas
    from atlas.export.assignments import export_assignments

    with atlas.open(find_atlas(file)) as opened:
        rows = export_assignments(opened, output, clustering=clustering)
    click.echo(f"{output}  {rows:,} neurons, {output.stat().st_size:,} bytes")


@export.command("seed-clusters", epilog="Example: atlas cluster export seed-clusters --clustering kmeans -o clusters")
@_ATLAS
@click.option("--clustering", metavar="NAME", help="A stored clustering; the primary one without it.")
@click.option("--profile", type=click.Choice(["edges", "activations"]), help="Of the centroids; else the clustering's.")
@click.option("--layer", type=int, metavar="N", help="Only this layer; files of prompts then bear no layer.")
@click.option("--prompts", type=click.IntRange(min=0), default=100, show_default=True, help="Files of so many prompts.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--force", is_flag=True, help="Replace files of the same name in a folder that is not empty.")
def seed_clusters(file: Path | None, output: Path, **plan: Any) -> None:
    """Write NeuronScope's cluster files: of every layer, and of every prompt's attribution graph."""
    import atlas
    from atlas.export.seed_clusters import ClusterPlan, export_seed_clusters

    with atlas.open(find_atlas(file)) as opened:
        report = export_seed_clusters(opened, output, plan=ClusterPlan(**plan))
    for name, size in report.files:
        click.echo(f"{output / name}  {size:,} bytes")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)


def _text(found: Comparison) -> str:
    from atlas.cli.render import text_table

    both = found.agreement
    counts = f"neurons in both {both.neurons_in_both:,}, only first {both.only_in_a:,}, only second {both.only_in_b:,}"
    rows = [{"agreement": text, "value": getattr(both, key)} for key, text in _AGREEMENT.items()]
    return "\n\n".join([_sides_text([found.a, found.b]), counts, text_table(rows)])


def _pairs_text(found: list[Comparison]) -> str:
    from atlas.cli.render import text_table

    sides = {side.name: side for one in found for side in (one.a, one.b)}
    short = {"AMI": "adjusted_mutual_information", "VI bits": "variation_of_information", "pairs": "co_member_jaccard"}
    rows = [
        {"first": one.a.name, "second": one.b.name, "in both": one.agreement.neurons_in_both}
        | {name: getattr(one.agreement, key) for name, key in short.items()}
        for one in found
    ]
    return "\n\n".join([_sides_text(list(sides.values())), text_table(rows)])


def _sides_text(sides: list[Side]) -> str:
    from atlas.cli.render import text_table

    rows = [
        {"clustering": one.name, "modules": one.modules, "neurons": one.neurons, "outside": one.outside}
        | {"median": one.sizes.get("50%"), "largest": one.sizes.get("max"), "share": one.largest_share}
        | ({"labels alike": one.coherence.likeness, "null": one.coherence.null_mean} if one.coherence else {})
        | ({"z": one.coherence.z} if one.coherence else {})
        for one in sides
    ]
    reasons = {f"{one.name}: {one.coherence.reason}" for one in sides if one.coherence and one.coherence.reason}
    return "\n".join([text_table(rows), *(f"note: {reason}" for reason in sorted(reasons))])
