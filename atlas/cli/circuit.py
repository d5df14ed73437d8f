"""`atlas circuit`: two ends -> the neurons between them, as tables, JSON, a page or a picture."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import View, selection
from atlas.cli.pictures import Pictures, graph_view_options
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.query.subgraph import Link, Node, Subgraph


@click.command(
    epilog="Example: atlas circuit 'embedding: doctor' 'logit: she' --html she.html; atlas circuit L24/N5326"
)
@click.argument("ends", nargs=-1, metavar="[SOURCE] TARGET")
@click.option("--from", "sources", multiple=True, metavar="SOURCE", help="Source, several times for a set.")
@click.option("--to", "targets", multiple=True, metavar="TARGET", help="Target, several times for a set.")
@click.option("--budget", default=0.8, show_default=True, help="Share of the influence to keep.")
@click.option("--max-nodes", default=200, show_default=True, help="Most nodes to keep, token ends beside them.")
@click.option("--min-count", default=1, show_default=True, help="Fewest observations of an edge.")
@click.option("--tokens/--no-tokens", default=True, show_default=True, help="Show the tokens that the ends touch.")
@graph_view_options
def circuit(view: View, ends: tuple[str, ...], sources: tuple[str, ...], targets: tuple[str, ...],
            pictures: Pictures, **options: Any) -> None:  # fmt: skip
    """The neurons by which SOURCE acts on TARGET, up to a share of the influence (the sum over all paths).

    SOURCE: ids, cluster:PATH, layer:A-B, label:TEXT or "embedding: doctor"; without it everything that feeds TARGET.
    TARGET: neurons or "logit: she". Edges are sums over many prompts: a path need not occur in any single one.
    """
    since, to = _ends(ends, sources, targets)
    with view.open() as a:
        found = a.circuit(selection(since) or None, selection(to), **options)
        pictures.write(found) if pictures.wanted else show_subgraph(found, view)


def show_subgraph(found: Subgraph, view: View) -> None:
    """Write a subgraph in the view's format, warnings to stderr: facts, nodes and edges as text, or all as JSON."""
    shown = view.limit(20)
    view.show_data(found.to_dict(), _text(found, shown) if view.format == "table" else "")
    for warning in found.warnings:
        click.echo(f"note: {warning}", err=True)
    if view.format == "table" and shown is not None and max(len(found.nodes), len(found.links)) > shown:
        click.echo(
            f"note: at most {shown} of {len(found.nodes)} nodes and {len(found.links)} edges are shown; "
            "--limit 0 shows all",
            err=True,
        )


def _ends(
    ends: tuple[str, ...], sources: tuple[str, ...], targets: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Positional ends and options -> (source, target)."""
    if len(ends) > 2 or (ends and targets) or (len(ends) == 2 and sources):
        raise InputError("give one SOURCE and one TARGET, or sets with --from and --to; see atlas circuit --help")
    found = (sources or ends[:-1], targets or ends[-1:])
    if not found[1]:
        raise InputError('a circuit needs a TARGET: neurons, or a logit such as "logit: she"')
    return found


def _text(found: Subgraph, shown: int | None) -> str:
    from atlas.cli.render import text_table

    facts = "\n".join(f"  {name:<24}{_value(value)}" for name, value in found.facts.items())
    nodes = sorted(found.nodes, key=lambda n: (-(n.influence or 0), n.key))[:shown]
    links = sorted(found.links, key=lambda e: (-(e.influence or 0), e.source, e.target))[:shown]
    return "\n".join([
        f"{found.title} ({found.model})", facts,
        f"\n{len(found.nodes)} nodes, by influence", text_table([_node_row(n) for n in nodes]),
        f"\n{len(found.links)} edges, by influence", text_table([_link_row(e) for e in links]),
    ])  # fmt: skip


def _value(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _node_row(node: Node) -> dict[str, Any]:
    name = f"{node.kind} {node.token!r}" if node.kind != "neuron" else node.label
    return {"node": node.key, "role": node.role, "influence": node.influence, "label": name,
            "cluster_path": node.cluster_path}  # fmt: skip


def _link_row(link: Link) -> dict[str, Any]:
    columns = ("source", "target", "influence", "share", "mean_weight", "standard_error", "sign_consistency", "count")
    row = asdict(link)
    return {c: row[c] for c in columns}
