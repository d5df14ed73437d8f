"""`atlas measure STEP RECIPE --shard I/N`: one shard of one step; `atlas measure status`: what there is."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import click

from atlas.errors import InputError
from atlas.shards import spans

# command: (step of atlas/build/steps.py, first line of its help)
_COMMANDS = {
    "model": ("model", "Measure the sizes of the model; the other commands do it when it is missing."),
    "activations": ("activations", "Measure one shard of the activations: blocks of documents of the corpus."),
    "gradients": ("gradients", "Measure one shard of the gradient sums: blocks of calibration documents."),
    "logit-lens": ("logit_lens", "Measure one shard of the logit lens: layers."),
    "weights": ("weights", "Measure one shard of the weight analysis: tensors and layers."),
    "wiring": ("wiring", "Measure one shard of the wiring: layers; reads the complete activations."),
    "relp": ("relp", "Measure one shard of the attribution graphs: prompts."),
}


@click.group(epilog="Example: atlas measure activations data/recipes/demo.toml --shard 0/4")
def measure() -> None:
    """Measure a model in shards: any number of processes, on any machines that see one folder.

    `atlas build RECIPE` merges the shards, whatever their number.
    """


def _step_command(name: str, step: str, summary: str) -> click.Command:
    @click.command(
        name,
        help=f"{summary}\n\nA shard that is complete is left as it is.\n\n\b\nExample:\n"
        f"  atlas measure {name} data/recipes/demo.toml --shard 0/4",
    )
    @click.argument("recipe", type=click.Path(path_type=Path))
    @click.option("--shard", default="0/1", show_default=True, metavar="I/N", help="Shard I of N, counted from 0.")
    @click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Not the recipe's build folder.")
    @click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=0,
        help="Threads; all usable cores by default, at most 2 on a GPU.",
    )
    @click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
    @click.option("--quiet", "-q", is_flag=True, help="No progress.")
    def command(*, recipe: Path, shard: str, out: Path | None, workers: int, device: str, quiet: bool) -> None:
        from atlas.build.measurement import Place
        from atlas.build.measurement import measure as run
        from atlas.build.recipe import read_recipe
        from atlas.progress import Lines, Quiet

        start, part = time.monotonic(), parse_shard(shard)
        place = Place(out, workers, device)
        said = run(read_recipe(recipe), step, part, place=place, progress=Quiet() if quiet else Lines())
        click.echo(f"{said}  ({time.monotonic() - start:.1f} s)", err=True)

    return command


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
