"""`atlas export`: its commands by name, imported when called."""

from __future__ import annotations

import click

from atlas.cli.lazy import LazyGroup

# name: (module:function, one line of help)
COMMANDS = {
    "labels": ("atlas.cli.export_plain:labels", "Labels as Parquet, CSV, JSON Lines or two-pass JSON."),
    "edges": ("atlas.cli.export_plain:edges", "Edges as Parquet, CSV or JSON Lines."),
    "neurons": ("atlas.cli.export_plain:neurons", "Neurons as tables, profiles or assignments."),
    "graph": ("atlas.cli.export_plain:graph", "A selection or circuit as GraphML or graph JSON."),
    "saelens": ("atlas.cli.export_saelens:saelens", "Neurons as transcoders that sae-lens loads."),
    "check": ("atlas.cli.export_check:check", "Whether the field's tools would import a package."),
    "neuronpedia": ("atlas.cli.export_neuronpedia:neuronpedia", "Packages that Neuronpedia and SAEDashboard read."),
    "graph-json": ("atlas.cli.export_graphs:graph_json", "Attribution graphs as JSON that frontends show."),
    "seed-json": ("atlas.cli.export_seed:seed_json", "NeuronScope's JSON files."),
    "wiring-cache": ("atlas.cli.export_seed:wiring_cache", "The wiring as one JSON file a layer."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: atlas export graph-json -o graphs")
def export() -> None:
    """Write an atlas in the formats of other tools."""
