"""`atlas artifacts`: the registry of what builds and exports produced."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(epilog="Example: atlas artifacts data -o ARTIFACTS.md")
@click.argument("root", type=click.Path(path_type=Path), default=Path("data"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("ARTIFACTS.md"), show_default=True)
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 when the file is out of date.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def artifacts(root: Path, output: Path, check: bool, quiet: bool) -> None:
    """List atlases, edge stores, packages and reports under ROOT (data by default): sizes, rows, labels, origins.

    Writes ARTIFACTS.md from the files themselves; `-o -` prints it.
    """
    from atlas.export.artifacts import artifacts_text, check_artifacts, write_artifacts
    from atlas.progress import Lines, Quiet

    progress = Quiet() if quiet else Lines()
    if check:
        check_artifacts(root, output, progress=progress)
        click.echo(f"{output} is up to date", err=True)
    elif str(output) == "-":
        click.echo(artifacts_text(root, progress=progress), nl=False)
    else:
        write_artifacts(root, output, progress=progress)
        click.echo(str(output))
