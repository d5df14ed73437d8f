"""`atlas cluster list | show | members | quotient | enrich`: what the primary clustering found."""

from __future__ import annotations

import re

import click

from atlas.cli.options import View, selection, view_options
from atlas.cli.pictures import Pictures, graph_view_options
from atlas.errors import InputError

_PATH = re.compile(r"\d+(\.\d+)*")


@click.command("list", epilog="Example: atlas cluster list --level 1")
@click.option("--level", type=click.IntRange(min=1), help="1 = top modules; all levels without it.")
@click.option("--below", metavar="PATH", help="Only modules below this one.")
@click.option("--min-size", default=1, show_default=True, help="Fewest neurons.")
@click.option("--search", "words", metavar="WORDS", help="Only modules with these words in their label.")
@view_options
def list_(view: View, level: int | None, below: str | None, min_size: int, words: str | None) -> None:
    """Modules, largest first."""
    from atlas.query.clusters import search as search_clusters

    with view.open() as a:
        if words:
            view.show(search_clusters(a, words, limit=view.limit(50)))
        else:
            view.show(a.clusters(level=level, below=below, min_size=min_size, limit=view.limit(50)))


@click.command("show", epilog="Example: atlas cluster show 158.4; atlas cluster 158.4 --html module.html")
@click.argument("path")
@click.option("--words", is_flag=True, help="Also the words its labels hold more often than chance (reads all labels).")
@graph_view_options
def show(view: View, path: str, words: bool, pictures: Pictures) -> None:
    """One module: weights, layers, parts, members, neighbours, inner edges, tokens; or its graph, of 60 members."""
    from atlas.cli.render import notes, text_table

    with view.open() as a:
        if pictures.wanted:
            from atlas.query.module_graph import cluster_subgraph

            return pictures.write(cluster_subgraph(a, path, max_nodes=view.limit(60)))
        card = a.cluster(path, k=view.limit(10), words=words)
        tables = [
            f"{name.capitalize()}\n{text_table(part.rows(), list(part.headline) or None)}"
            for name, part in card.lists().items()
            if len(part)
        ]
        view.show_data(card.to_dict(), "\n\n".join([text_table([card.about]), *tables]))
        for name, part in card.lists().items():
            notes(part, of=name)


@click.command("quotient", epilog="Example: atlas cluster quotient --level 1 --between")
@click.option("--level", type=click.IntRange(min=1), default=1, show_default=True, help="1 = top modules.")
@click.option("--between", is_flag=True, help="Leave out what stays inside a module.")
@view_options
def quotient(view: View, level: int, between: bool) -> None:
    """Module to module: weight, what chance would send between their layers, and z; largest weight first."""
    with view.open() as a:
        view.show(a.quotient(level=level, between=between, limit=view.limit(50)))


@click.command("enrich", epilog="Example: atlas cluster enrich 158.4; atlas cluster enrich --all --level 2")
@click.argument("which", nargs=-1, metavar="[PATH | SELECTION...]")
@click.option("--all", "everything", is_flag=True, help="Every module of --level instead of one selection.")
@click.option("--level", type=click.IntRange(min=1), default=1, show_default=True, help="Level of --all: 1 = top.")
@click.option("--field", default="label", show_default=True, metavar="NAME", help="Also type, source, input_label, ...")
@click.option("--min-hits", default=2, show_default=True, help="Fewest members with the word.")
@view_options
def enrich(  # noqa: PLR0917
    view: View, which: tuple[str, ...], everything: bool, level: int, field: str, min_hits: int
) -> None:
    """Words that the members' labels hold more often than other neurons of the same layers, with FDR."""
    if everything == bool(which):
        raise InputError("give a module path or a selection, or --all for every module of --level")
    chosen: list[object] | None = (
        None if everything else [f"cluster:{w}" if _PATH.fullmatch(w) else w for w in map(str, selection(which))]
    )
    with view.open() as a:
        view.show(a.enrich(chosen, level=level, field=field, min_hits=min_hits, limit=view.limit(50)))


@click.command("members", epilog="Example: atlas cluster members 158.4 --limit 0")
@click.argument("path")
@view_options
def members(view: View, path: str) -> None:
    """The neurons of a module and of its parts, largest flow first."""
    from atlas.query.clusters import members

    with view.open() as a:
        view.show(members(a, path, limit=view.limit(50)))
