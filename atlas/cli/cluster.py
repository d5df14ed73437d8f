"""`atlas cluster`: its commands by name, imported when called; a module path shows it, an atlas file clusters it."""

from __future__ import annotations

import re

import click

from atlas.cli.lazy import LazyGroup
from atlas.errors import InputError

# name: (module:function, one line of help)
COMMANDS = {
    "list": ("atlas.cli.clusters:list_", "Modules, largest first."),
    "show": ("atlas.cli.clusters:show", "One module: its weights, parts, strongest members and neighbours."),
    "members": ("atlas.cli.clusters:members", "The neurons of a module and of its parts."),
    "run": ("atlas.cli.clustering:run", "Find modules in the edges; atlas cluster ATLAS is short for it."),
    "use": ("atlas.cli.clustering:use", "Show another stored clustering."),
    "runs": ("atlas.cli.clustering:runs", "The stored clusterings."),
    "quotient": ("atlas.cli.clusters:quotient", "Weight from module to module, expected weight and z."),
    "enrich": ("atlas.cli.clusters:enrich", "Words that the labels of a module hold more often than chance."),
    "compare": ("atlas.cli.partitions:compare", "Two clusterings: agreement, sizes, likeness of labels."),
    "import": ("atlas.cli.partitions:import_", "Add the modules of an assignment file."),
    "export": ("atlas.cli.partitions:export", "Write a clustering in the formats of other tools."),
}
_PATH = re.compile(r"\d+(\.\d+)*")


class _Cluster(LazyGroup):
    """Commands, and two short forms: PATH for show, an atlas file for run."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; put in the one that a short form stands for."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            args = [_meant(args[0]), *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Cluster, table=COMMANDS, epilog="Example: atlas cluster list; atlas cluster 158.4")
def cluster() -> None:
    """Modules: find them, compare them, look into them."""


def _meant(word: str) -> str:
    if _PATH.fullmatch(word):
        return "show"
    if word.endswith((".duckdb", ".db")):
        return "run"
    raise InputError(
        f"{word!r} is no command of atlas cluster ({', '.join(COMMANDS)}) and no module path such as 158.4; "
        '"atlas cluster list" shows the modules'
    )
