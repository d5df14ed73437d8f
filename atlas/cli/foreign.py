"""`atlas import wiring-cache`: files of earlier tools -> an existing atlas."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(name="import", epilog="Example: atlas import wiring-cache caches/olmo --atlas data/olmo.duckdb")
def import_() -> None:
    """Put files of earlier tools into an atlas; on a fault the atlas stays as it was."""


@import_.command("wiring-cache", epilog="Example: atlas import wiring-cache caches/olmo --atlas data/olmo.duckdb")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="The atlas to write into.")
@click.option("--replace", is_flag=True, help="Also when the atlas has a wiring of its own.")
def wiring_cache(folder: Path, file: Path | None, *, replace: bool) -> None:
    """Read layer_0.json, layer_1.json ... of FOLDER into the wiring (and, where empty, the logit lens) of an atlas."""
    from atlas.build.foreign_wiring import import_wiring
    from atlas.cli.options import find_atlas
    from atlas.progress import Lines

    path = find_atlas(file)
    found = import_wiring(folder, path, replace=replace, progress=Lines())
    click.echo(f"{path}  {found.wiring:,} wiring rows, {found.logit_lens:,} logit-lens rows", err=True)
