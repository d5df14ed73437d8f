"""`atlas cluster list | show | members`: what the primary clustering found."""

from __future__ import annotations

import click

from atlas.cli.options import View, view_options
from atlas.cli.pictures import Pictures, graph_view_options


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
@graph_view_options
def show(view: View, path: str, pictures: Pictures) -> None:
    """One module: its weights, parts, strongest members and neighbours; or its graph, of the strongest 60 members."""
    from atlas.cli.render import notes, text_table

    with view.open() as a:
        if pictures.wanted:
            from atlas.query.module_graph import cluster_subgraph

            return pictures.write(cluster_subgraph(a, path, max_nodes=view.limit(60)))
        card = a.cluster(path, k=view.limit(10))
        lists = {"Parts": card.parts, "Members": card.members, "Neighbours": card.neighbours}
        tables = [
            f"{name}\n{text_table(part.rows(), list(part.headline))}" for name, part in lists.items() if len(part)
        ]
        view.show_data(card.to_dict(), "\n\n".join([text_table([card.about]), *tables]))
        for name, part in lists.items():
            notes(part, of=name.lower())


@click.command("members", epilog="Example: atlas cluster members 158.4 --limit 0")
@click.argument("path")
@view_options
def members(view: View, path: str) -> None:
    """The neurons of a module and of its parts, largest flow first."""
    from atlas.query.clusters import members

    with view.open() as a:
        view.show(members(a, path, limit=view.limit(50)))
