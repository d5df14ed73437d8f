"""`atlas build RECIPE`: a recipe -> an atlas, with progress on stderr."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click


@click.command(epilog="Example: atlas build data/recipes/demo.toml")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--workers", type=int, default=0, help="Threads; all cores by default, at most 2 on a GPU.")
@click.option("--memory", default="4GiB", show_default=True, help="Memory limit of the table steps.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Write the atlas here, not where the recipe says."
)
@click.option("--shards", type=click.Path(path_type=Path), metavar="DIR", help="Read and write shards there.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def build(*, recipe: Path, output: Path | None, quiet: bool, **how: Any) -> None:
    """Build the atlas of RECIPE (a TOML file), doing only what is missing or changed.

    Stop it at any moment and run it again: it goes on where it was.
    """
    from dataclasses import replace

    from atlas.build.executor import BuildOptions
    from atlas.build.executor import build as run
    from atlas.build.recipe import read_recipe
    from atlas.progress import Lines, Quiet

    start, what = time.monotonic(), read_recipe(recipe)
    if output is not None:
        what = replace(what, atlas=str(output.resolve()))
    command = f"atlas build {recipe}"
    options = BuildOptions(command=command, **how)
    report = run(what, options=options, progress=Quiet() if quiet else Lines())
    spent = time.monotonic() - start
    size = report.atlas.stat().st_size / 1e6
    click.echo(f"{report.atlas}  {size:.1f} MB  {len(report.steps_run)} steps in {spent:.1f} s", err=True)
