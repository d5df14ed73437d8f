"""Weight statistics of an atlas -> rows by tensor, and totals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.errors import InputError
from atlas.query.answer import Answer

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

_HEADLINE = ("layer_name", "layer_index", "total_parameters", "sparsity", "mean_magnitude", "std_magnitude",
             "min_magnitude", "max_magnitude", "l1_norm", "l2_norm")  # fmt: skip


def weights(atlas: Atlas, *, layer: int | None = None, limit: int | None = None) -> Answer:
    """Columns of weight_layers, by layer and name; layer -1 is what is outside the layers."""
    warnings = _checked(atlas, layer)
    return atlas.ask("weight_layers", {"of_layer": layer, "max_rows": limit}, headline=_HEADLINE, warnings=warnings)


def weight_summary(atlas: Atlas, *, layer: int | None = None) -> Answer:
    """Columns of weight_summary, one row: overall_sparsity, total_parameters ...; no row without weights."""
    warnings = _checked(atlas, layer)
    return atlas.ask("weight_summary", {"of_layer": layer}, warnings=warnings)


def _checked(atlas: Atlas, layer: int | None) -> tuple[str, ...]:
    if layer is not None and not -1 <= layer < atlas.layers:
        raise InputError(
            f"layer {layer} is out of range: this model has layers 0..{atlas.layers - 1}, and -1 for the rest"
        )
    return atlas.require("weight_stats")
