"""`atlas measure STEP RECIPE`: one shard of a step, or all that are missing; `atlas measure status`: what there is."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atlas.errors import InputError
from atlas.shards import spans

if TYPE_CHECKING:
    from atlas.build.measurement import Place

# command: (step of atlas/build/steps.py, first line of its help)
_COMMANDS = {
    "model": ("model", "Measure the sizes of the model; the other commands do it when it is missing."),
    "activations": ("activations", "Measure the activations in shards: blocks of documents of the corpus."),
    "gradients": ("gradients", "Measure the gradient sums in shards: blocks of calibration documents."),
    "logit-lens": ("logit_lens", "Measure the logit lens in shards: layers."),
    "read-tokens": ("read_tokens", "Measure the tokens that input rows read in shards: layers."),
    "weights": ("weights", "Measure the weight analysis in shards: tensors and layers."),
    "wiring": ("wiring", "Measure the wiring in shards: layers; reads the complete activations."),
    "relp": ("relp", "Measure the attribution graphs in shards: prompts."),
}


@click.group(
    epilog="Example: atlas measure activations data/recipes/demo.toml --shard 0/4; "
    "atlas measure all data/recipes/demo.toml --shards 16 --executor dask=tcp://node01:8786"
)
def measure() -> None:
    """Measure a model in shards: any number of processes, on any machines that see one folder.

    `atlas build RECIPE` merges the shards, whatever their number.
    """


def _place_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --out, --workers, --device; the command gets a Place."""

    @click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Not the recipe's build folder.")
    @click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=0,
        help="Threads of a shard; all usable cores by default, at most 2 on a GPU.",
    )
    @click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
    @wraps(command)
    def with_options(*arguments: object, out: Path | None, workers: int, device: str, **options: object) -> None:
        from atlas.build.measurement import Place

        command(*arguments, Place(out, workers, device), **options)

    return with_options


@dataclass(frozen=True)
class _Missing:
    """How all missing shards are made; `asked` says that the person wants them, not one."""

    of: int | None
    executor: str | None
    wait: bool

    @property
    def asked(self) -> bool:
        return self.of is not None or self.executor is not None or not self.wait


def _missing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --shards, --executor and --no-wait; the command gets a _Missing first."""

    @click.option(
        "--shards",
        type=click.IntRange(1, 99999),
        metavar="N",
        help="Make all missing shards of N; what was begun, else the recipe's.",
    )
    @click.option(
        "--executor",
        metavar="local|slurm|dask=ADDRESS",
        help="Where all missing shards are made: here, in SLURM arrays (slurm:partition=cpu,mem=16G), by Dask.",
    )
    @click.option("--no-wait", is_flag=True, help="With slurm: submit only; the same command later goes on.")
    @wraps(command)
    def with_options(
        *arguments: object, shards: int | None, executor: str | None, no_wait: bool, **options: object
    ) -> None:
        command(_Missing(shards, executor, not no_wait), *arguments, **options)

    return with_options


def _step_command(name: str, step: str, summary: str) -> click.Command:
    @click.command(
        name,
        help=f"{summary}\n\nA shard that is complete is left as it is.\n\n\b\nExample:\n"
        f"  atlas measure {name} data/recipes/demo.toml --shard 0/4\n"
        f"  atlas measure {name} data/recipes/demo.toml --shards 4 --executor dask=tcp://node01:8786",
    )
    @click.argument("recipe", type=click.Path(path_type=Path))
    @click.option("--shard", metavar="I/N", help="Make shard I of N alone, counted from 0.  [default: 0/1]")
    @_place_options
    @_missing_options
    @click.option("--quiet", "-q", is_flag=True, help="No progress.")
    def command(missing: _Missing, place: Place, *, recipe: Path, shard: str | None, quiet: bool) -> None:
        if shard is not None and missing.asked:
            raise InputError(
                "--shard makes one shard, --shards and --executor make all that are missing; leave one out"
            )
        if missing.asked:
            _measure_missing(recipe, [step], missing, place=place, quiet=quiet)
        else:
            _measure_one(recipe, step, shard or "0/1", place=place, quiet=quiet)

    return command


def _measure_one(recipe: Path, step: str, shard: str, *, place: Place, quiet: bool) -> None:
    from atlas.build.measurement import measure as run
    from atlas.build.recipe import read_recipe
    from atlas.progress import Lines, Quiet

    start, part = time.monotonic(), parse_shard(shard)
    said = run(read_recipe(recipe), step, part, place=place, progress=Quiet() if quiet else Lines())
    click.echo(f"{said}  ({time.monotonic() - start:.1f} s)", err=True)


def _measure_missing(recipe: Path, steps: list[str] | None, missing: _Missing, *, place: Place, quiet: bool) -> None:
    from atlas.build.distributed.address import read_executor
    from atlas.build.missing_shards import measure_missing
    from atlas.build.recipe import read_recipe
    from atlas.progress import Lines, Quiet

    start, engine = time.monotonic(), read_executor(missing.executor or "local", wait=missing.wait)
    shown = Quiet() if quiet else Lines()
    done = measure_missing(read_recipe(recipe), steps, of=missing.of, place=place, executor=engine, progress=shown)
    said = done.sentence if done.tasks or done.queued else "every shard is there already; nothing to do"
    click.echo(f"{said}  ({time.monotonic() - start:.1f} s)", err=True)


@measure.command(
    "all", epilog="Example: atlas measure all data/recipes/demo.toml --shards 16 --executor dask=tcp://node01:8786"
)
@click.argument("recipe", type=click.Path(path_type=Path))
@_place_options
@_missing_options
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def measure_all(missing: _Missing, place: Place, *, recipe: Path, quiet: bool) -> None:
    """Measure the missing shards of every step that RECIPE asks for; "atlas build RECIPE" then merges them."""
    _measure_missing(recipe, None, missing, place=place, quiet=quiet)


for _name, (_step, _summary) in _COMMANDS.items():
    measure.add_command(_step_command(_name, _step, _summary))


@measure.command(epilog="Example: atlas measure status data/recipes/demo.toml")
@click.argument("source", type=click.Path(path_type=Path, exists=True), metavar="DIR|RECIPE")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the recipe's shards were written.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_context
def status(ctx: click.Context, *, source: Path, out: Path | None, form: str) -> None:
    """Show done, missing, running and failed shards of every step; exit code 1 unless all are complete."""
    from atlas.build.measurement import is_complete
    from atlas.build.measurement import status as find
    from atlas.cli.render import text_table

    folder, found = find(source, folder=out)
    rows = [row.as_dict() for row in found]
    if form == "json":
        click.echo(json.dumps({"folder": str(folder), "steps": rows}, indent=2))
    else:
        click.echo(text_table([_line(row) for row in rows]))
        for row in rows:
            for failure in row["failed"]:
                click.echo(f"{row['step']} {failure['index']}/{row['of']} failed: {failure['error']}", err=True)
    ctx.exit(0 if is_complete(found) else 1)


def parse_shard(text: str) -> tuple[int, int]:
    """Read "3/16" as (3, 16); InputError unless 0 <= I < N < 100,000."""
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise InputError(f"--shard is {text!r}, expected I/N with 0 <= I < N < 100000; for example 0/1 or 3/16")
    return int(found[1]), int(found[2])


def _line(row: dict[str, object]) -> dict[str, object]:
    """One line of the table: indexes as ranges."""
    failed = row["failed"]
    assert isinstance(failed, list)
    lists = {name: row[name] for name in ("done", "missing", "running")} | {"failed": [f["index"] for f in failed]}
    shown = {name: spans(values) for name, values in lists.items() if isinstance(values, list)}
    return {
        "step": row["step"],
        "key": row["key"],
        "of": row["of"],
        **shown,
        "rows": row["rows"],
        "tokens": row["tokens"],
    }
