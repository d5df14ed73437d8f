"""`atlas serve`, `atlas token`: the questions over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atlas.cli.options import find_atlas

_DATA = click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help="What the server keeps; FILE.server by default."
)
_ATLAS = click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")


@click.command(epilog="Example: atlas serve --atlas data/demo.duckdb --model data/demo/model --port 5001")
@_ATLAS
@click.option("--model", "models", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="The atlas's model, for what is measured; repeat to switch between several.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), envvar="PORT", default=5001, show_default=True,
              help="Also from $PORT.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Others need a token (atlas token add).")
@_DATA
@click.option("--allow-origin", "origins", multiple=True, metavar="URL", help="Pages that may ask (CORS); repeat.")
@click.option("--rate", metavar="N/TIME", help='Requests of a token, e.g. "600/minute"; no limit by default.')
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Jobs at a time.")
@click.option("--also", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="An atlas to compare with, besides those beside it; repeat.")  # fmt: skip
@click.option("--memory", default="4GiB", show_default=True, metavar="SIZE", help="Of questions to the atlas.")
@click.option("--sql-memory", default="2GiB", show_default=True, metavar="SIZE", help="Of one statement of /sql.")
@click.option("--sql-seconds", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Of one statement.")
@click.option("--require-token", is_flag=True, help="Also on this machine.")
def serve(file: Path | None, models: tuple[Path, ...], **given: Any) -> None:
    """Answer over HTTP until Ctrl-C; http://127.0.0.1:5001/ lists the paths.

    Long work is done as jobs, which survive a restart. Once there are tokens, every request needs one.
    """
    from atlas.cli.edges import parse_size
    from atlas.server.run import serve as run
    from atlas.server.settings import Settings

    given |= {name: f"{max(parse_size(given[name]) >> 20, 1)}MiB" for name in ("memory", "sql_memory")}
    settings = Settings(find_atlas(file), models, **given)
    run(settings, started=lambda address: click.echo(f"{address}  {settings.atlas}", err=True))


@click.group(epilog="Example: atlas token add laptop --atlas data/demo.duckdb")
def token() -> None:
    """Bearer tokens of a server: kept as hashes, shown once."""


@token.command(epilog="Example: atlas token add laptop")
@click.argument("name")
@_ATLAS
@_DATA
def add(name: str, file: Path | None, data: Path | None) -> None:
    """Make a token and print it; it cannot be shown again."""
    click.echo(_tokens(file, data).add(name))


@token.command("list", epilog="Example: atlas token list")
@_ATLAS
@_DATA
def list_(file: Path | None, data: Path | None) -> None:
    """Names and dates of the tokens."""
    for one in _tokens(file, data).known():
        click.echo(f"{one.name}  {one.created}")


@token.command(epilog="Example: atlas token remove laptop")
@click.argument("name")
@_ATLAS
@_DATA
def remove(name: str, file: Path | None, data: Path | None) -> None:
    """Forget a token; a running server refuses it at once."""
    _tokens(file, data).remove(name)


def _tokens(file: Path | None, data: Path | None) -> Any:
    from atlas.server.settings import Settings
    from atlas.server.tokens import Tokens

    return Tokens(data or Settings(find_atlas(file)).folder)
