"""`atlas prune`: neurons that are safest to remove; its commands remove them, and measure batches of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.lazy import LazyGroup
from atlas.cli.options import View, view_options
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.query.pruning import Ranking

METHODS = ("fisher", "wifv", "weights", "taylor_abs", "wanda")  # as in atlas/query/pruning.py, which loads DuckDB
SCOPES = ("layer", "global")

# name: (module:function, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "apply": ("atlas.cli.prune_apply:apply", "The model without them, as a smaller folder."),
    "batch": ("atlas.cli.prune_batch:batch", "What a batch of them does, and how many may go."),
}


def ranking_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --method, --scope and --eval-id; the command gets them as its last positional argument, a Ranking."""

    @click.option("--method", type=click.Choice(METHODS), help="Score to rank by; the atlas's own by default.")
    @click.option("--scope", type=click.Choice(SCOPES), default="layer", show_default=True, help="Where to rank.")
    @click.option("--eval-id", metavar="ID", help="One of several evaluations in the atlas.")
    @wraps(command)
    def with_ranking(*given: Any, method: str | None, scope: str, eval_id: str | None, **options: Any) -> None:
        from atlas.query.pruning import Ranking

        command(*given, Ranking(method, scope, eval_id), **options)

    return with_ranking


class _Prune(LazyGroup):
    """The list by itself, or a command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a layer or neuron given as one is explained."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            known = ", ".join(COMMANDS) or "none yet"
            raise InputError(
                f"{args[0]!r} is no command of atlas prune ({known}); to list candidates: atlas prune --layer 3"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Prune, table=COMMANDS, invoke_without_command=True, epilog="Example: atlas prune --threshold 5 --layer 12"
)
@click.option("--threshold", default=10.0, show_default=True, help="Percentile of candidates.")
@click.option("--layer", type=int, help="Only this layer.")
@click.option("--all", "everything", is_flag=True, help="Also list neurons that are no candidates.")
@click.option("--summary", "by_layer", is_flag=True, help="Only their number by layer.")
@ranking_options
@view_options
def prune(
    view: View, ranking: Ranking, /, *, threshold: float, layer: int | None, everything: bool, by_layer: bool
) -> None:
    """Neurons that are safest to remove, safest first.

    --format json gives {candidates, total_candidates, threshold_percentile}; the total counts the candidates alone.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    from atlas.cli.render import notes
    from atlas.query.pruning import document, summary

    with view.open() as a:
        if by_layer:
            view.show(summary(a, threshold=threshold, ranking=ranking))
            return
        found = a.prune(threshold=threshold, layer=layer, everything=everything, limit=view.limit(50), ranking=ranking)
        if view.format != "json":
            view.show(found)
            return
        view.show_data(document(a, found, threshold=threshold, layer=layer, ranking=ranking), "")
        notes(found)
