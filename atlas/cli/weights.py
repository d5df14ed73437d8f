"""`atlas weights MODEL`: how large and how sparse every weight matrix of a model is, read from its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.models.stored import Checkpoint
    from atlas.progress import Progress

_TENSORS = (
    "name", "layer", "total_parameters", "sparsity", "mean_magnitude", "std_magnitude", "min_magnitude",
    "max_magnitude", "l1_norm", "l2_norm",
)  # fmt: skip
Row = dict[str, Any]


@click.command(epilog="Example: atlas weights data/demo/model --sort max_magnitude --limit 10")
@click.argument("model")
@click.option("--layer", type=int, metavar="N", help="Only its tensors; totals are then its own. -1: outside layers.")
@click.option("--sort", metavar="COLUMN", help="Largest first, names from a to z; by layer and name without it.")
@click.option("--neurons", is_flag=True, help="Neurons in place of tensors: mean |w|, rank in the layer, norms.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there, not to stdout.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, metavar="ROWS", help="0 for all.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def weights(model: str, *, layer: int | None, sort: str | None, neurons: bool, quiet: bool, **place: Any) -> None:
    """Weight analysis of MODEL (a Hugging Face folder): parameters, sparsity, magnitudes and norms of every tensor.

    The files are read once, whatever their dtype; the model is not loaded. --format json gives NeuronScope's weight
    analysis, of all tensors. |w| is meant by magnitude; sparsity is the share of entries that are exactly 0.
    """
    from atlas.cli.options import View
    from atlas.models.folder import find_folder
    from atlas.models.stored import stored_tensors
    from atlas.progress import Lines, Quiet

    progress = Quiet() if quiet else Lines()
    checkpoint = stored_tensors(find_folder(model))
    for note in checkpoint.notes:
        click.echo(f"note: {note}", err=True)
    shown = _neurons if neurons else _tensors
    shown(checkpoint, layer, sort, View(None, *(place[name] for name in ("form", "output", "limit"))), progress)


def _tensors(checkpoint: Checkpoint, layer: int | None, sort: str | None, view: Any, progress: Progress) -> None:
    from atlas.errors import InputError
    from atlas.export.seed_forms import sparsity_analysis
    from atlas.measure.weight_files import weight_statistics

    chosen = [tensor for tensor in checkpoint.tensors if layer in (None, tensor.layer)]
    if not chosen:
        layers = max(tensor.layer for tensor in checkpoint.tensors)
        raise InputError(f"no layer {layer} in {checkpoint.folder}: it has layers 0..{layers}, and -1 for the rest")
    rows = _sorted(weight_statistics(chosen, progress=progress), sort)
    analysis = sparsity_analysis(rows)
    dtypes = ", ".join(sorted({tensor.dtype for tensor in chosen}))
    total = (
        f"{analysis['total_parameters']:,} parameters in {len(rows)} tensors of {dtypes}; "
        f"overall_sparsity {analysis['overall_sparsity']:.4g} ({analysis['non_zero_parameters']:,} are not 0)"
    )
    _show(analysis, rows, total, view, _TENSORS)


def _neurons(checkpoint: Checkpoint, layer: int | None, sort: str | None, view: Any, progress: Progress) -> None:
    from atlas.measure.neuron_weights import neuron_rows

    rows = _sorted(neuron_rows(checkpoint, layer=layer, progress=progress), sort)
    _show(rows, rows, f"{len(rows):,} neurons", view, tuple(rows[0]))


def _sorted(rows: list[Row], column: str | None) -> list[Row]:
    """Largest first, NULL last, names from a to z; rows that are equal there stay in their order."""
    from atlas.errors import InputError

    if column is None:
        return rows
    if column not in rows[0]:
        raise InputError(f"no column {column!r} to sort by; choose one of {', '.join(rows[0])}")
    if column == "name":
        return sorted(rows, key=lambda row: str(row["name"]))
    return sorted(rows, key=lambda row: -row[column] if row[column] is not None else float("inf"))


def _show(data: Any, rows: list[Row], total: str, view: Any, columns: tuple[str, ...]) -> None:
    from atlas.cli.render import text_table

    shown = rows[: view.rows or None]
    view.show_data(data, f"{total}\n\n{text_table(shown, list(columns))}")
    if len(shown) < len(rows) and view.format == "table":
        click.echo(f"note: {len(shown)} of {len(rows)} rows; --limit 0 shows all", err=True)
