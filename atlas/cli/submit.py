"""`atlas submit RECIPE`: the measuring of a recipe as SLURM jobs; the same command goes on after a failure."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.build.job_plan import Plan

_PATH = click.Path(path_type=Path)
_RESOURCES = (
    click.option("--partition", "-p", required=True, help="Where the jobs run."),
    click.option("--time", default="02:00:00", show_default=True, help="Wall time of each job."),
    click.option("--mem", "memory", default="16G", show_default=True, help="Memory of each job."),
    click.option("--cpus", type=click.IntRange(min=1), default=2, show_default=True, help="Cores of each job."),
    click.option("--account", metavar="NAME", help="What the time is charged to."),
    click.option("--gpus", metavar="[TYPE:]N", help="GPUs of each array task."),
    click.option("--max-running", type=click.IntRange(min=1), metavar="K", help="Tasks of one array at a time."),
)


def _resource_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_RESOURCES):
        command = option(command)
    return command


@click.command(epilog="Example: atlas submit data/recipes/demo.toml --partition cpu --array 4 --dry-run")
@click.argument("recipe", type=_PATH)
@click.option(
    "--array",
    type=click.IntRange(1, 99999),
    metavar="N",
    help="Shards of each array; what was begun, else the recipe's.",
)
@_resource_options
@click.option(
    "--python", type=_PATH, default=Path(sys.executable), help="Interpreter of the jobs; this one by default."
)
@click.option("--venv", type=_PATH, help="Virtual environment of the jobs, instead of --python.")
@click.option("--setup", type=_PATH, metavar="FILE", help="Lines of bash before the work (module load ...).")
@click.option("--template", type=_PATH, metavar="FILE", help="Your copy of scripts/slurm/job.sbatch.")
@click.option("--dry-run", is_flag=True, help="Print a bash script that would submit; write and submit nothing.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def submit(*, recipe: Path, array: int | None, dry_run: bool, form: str, **options: Any) -> None:
    """Submit the measuring of RECIPE to SLURM as job arrays, and the merge that waits for them.

    Run it again at any time: only shards that are neither there nor queued are submitted.
    """
    from atlas.build import slurm
    from atlas.build.batch_scripts import Resources, read_site
    from atlas.build.recipe import read_recipe

    venv, python = options.pop("venv"), options.pop("python")
    site = read_site(
        python=venv / "bin" / "python" if venv else python, setup=options.pop("setup"), template=options.pop("template")
    )
    what, resources = read_recipe(recipe), Resources(**options)
    if dry_run:
        text, plan = slurm.dry_run(what, of=array, resources=resources, site=site)
        click.echo(text if form == "table" else json.dumps({"script": text}), nl=form == "json")
    else:
        rows, plan = slurm.submit(what, of=array, resources=resources, site=site)
        _show([vars(row) for row in rows], form)
    _say(plan, what.atlas_path.name)


def _show(rows: list[dict[str, Any]], form: str) -> None:
    from atlas.cli.render import text_table

    if form == "json":
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(text_table(rows, ["step", "job", "tasks", "of", "after", "state"]))


def _say(plan: Plan, atlas: str) -> None:
    """Say on stderr what there was nothing to do for."""
    for note in plan.notes:
        click.echo(f"note: {note}", err=True)
    if plan.cancel:
        click.echo(f"note: {', '.join(plan.cancel)} waited for failed jobs and gave way to new ones", err=True)
    if not plan.jobs:
        said = f"all of it is queued; {atlas} will be built" if plan.kept else f"{atlas} is up to date"
        click.echo(f"note: nothing to submit: {said}", err=True)
    elif not plan.measures and not plan.kept:
        click.echo("note: every shard is measured; only the merge is left", err=True)
