"""`atlas label embed`: vectors of labels, for search by meaning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atlas.cli.options import find_atlas

if TYPE_CHECKING:
    from atlas.models.text_embedder import TextEmbedder


@click.command(epilog="Example: atlas label embed data/demo.duckdb")
@click.argument("file", type=click.Path(path_type=Path), metavar="[ATLAS]", required=False)
@click.option("--model", "name", metavar="NAME", help="An installed embedder. [all-MiniLM-L6-v2]")
@click.option("--device", default="cpu", show_default=True, help="Where it runs: cpu, cuda, cuda:1, auto.")
@click.option("--descriptions", is_flag=True, help="Descriptions too: three times the texts' length.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def embed(file: Path | None, name: str | None, device: str, descriptions: bool, quiet: bool) -> None:
    """Embed the labels of ATLAS, so that "atlas search --mode semantic", hybrid and --like can be asked.

    Only texts without a vector are embedded, each distinct one once; stopped, the same command goes on. No network.
    """
    from atlas.build.label_embedding import embed_atlas
    from atlas.ingest.label_embeddings import FIELDS
    from atlas.progress import Lines, Quiet

    fields = (*FIELDS, "description") if descriptions else FIELDS
    progress = Quiet() if quiet else Lines()
    done = embed_atlas(find_atlas(file), _embedder(name, device), fields=fields, progress=progress)
    if done.stored is None:
        click.echo("every text has its vector; nothing to do")
        return
    resumed = f" ({done.resumed:,} by an earlier run)" if done.resumed else ""
    places = f"{done.stored.texts:,}, in {done.stored.uses:,} places"
    click.echo(f"{done.missing:,} texts embedded{resumed}; the atlas has {places}")


def _embedder(name: str | None, device: str) -> TextEmbedder:
    """The model for many texts: torch where it is installed, 2 to 7 times as fast as NumPy."""
    import importlib.util

    from atlas.models.text_embedder import DEFAULT, load_embedder

    if name not in (None, DEFAULT) or not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        return load_embedder(name or DEFAULT)
    from atlas.models.minilm_torch import load_bulk_minilm

    return load_bulk_minilm(device)
