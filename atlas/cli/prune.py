"""`atlas prune`: neurons that are safest to remove; its commands remove them, and measure batches of them."""

from __future__ import annotations

import click

from atlas.cli.lazy import LazyGroup
from atlas.cli.options import View, view_options
from atlas.errors import InputError

# name: (module:function, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {}


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
@click.option("--threshold", default=10.0, show_default=True, help="Percentile of candidates within a layer.")
@click.option("--layer", type=int, help="Only this layer.")
@click.option("--all", "everything", is_flag=True, help="Also list neurons that are no candidates.")
@click.option("--summary", "by_layer", is_flag=True, help="Only their number by layer.")
@view_options
@click.pass_context
def prune(ctx: click.Context, view: View, /, *, threshold: float, layer: int | None, everything: bool,
          by_layer: bool) -> None:  # fmt: skip
    """Neurons that are safest to remove, safest first."""
    if ctx.invoked_subcommand is not None:
        return
    from atlas.query.pruning import summary

    with view.open() as a:
        if by_layer:
            view.show(summary(a, threshold=threshold))
        else:
            view.show(a.prune(threshold=threshold, layer=layer, everything=everything, limit=view.limit(50)))
