"""`atlas label`: its commands by name, imported when called."""

from __future__ import annotations

import click

from atlas.cli.lazy import LazyGroup

# name: (module:function, one line of help)
COMMANDS = {
    "output": ("atlas.cli.labelling:output", "Say what neurons do when they fire, last layer first, with an LLM."),
    "input": ("atlas.cli.labelling:input_", "Say what makes neurons fire, first layer first, with an LLM."),
    "clusters": ("atlas.cli.labelling:clusters", "Name modules from their members, with an LLM."),
    "rules": ("atlas.cli.label_rules:rules", "Label by rules over the tables, without an LLM."),
    "score": ("atlas.cli.label_scores:score", "Test labels on documents that they were not made from."),
    "embed": ("atlas.cli.label_embed:embed", "Vectors of labels, for search by meaning."),
    "import": ("atlas.cli.label_imports:import_", "Bring in the labels of other tools' files."),
    "export": ("atlas.cli.label_imports:export", "Write the labels in other tools' formats."),
    "index": ("atlas.cli.label_index:index", "The word index that atlas search answers from."),
    "stats": ("atlas.cli.label_imports:stats", "Coverage, layers, types, interpretability, uniqueness."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: atlas label output data/demo.duckdb --dry-run")
def label() -> None:
    """Labels: make them, bring them in, score them."""
