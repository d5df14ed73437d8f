"""What questions have in common -> the fields of their models, with bounds that DuckDB's types can hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST = 2**31 - 1

Selector = Annotated[str, Field(min_length=1, max_length=300)] | Annotated[int, Field(ge=0, le=2**62)]
Neurons = Annotated[
    list[Selector],
    Field(
        min_length=1, max_length=100_000, examples=[["L0/N12"]],
        description='Neurons in any id form, "cluster:1.2", "layer:0-2" or "label:TEXT"; repeat for several.',
    ),
]  # fmt: skip
Polarity = Annotated[
    Literal["+", "-"],
    BeforeValidator(lambda sign: "+" if sign == " " else sign),  # a bare + in an address arrives as a space
]
Count = Annotated[int, Field(ge=1, le=MOST)]
Limit = Annotated[int, Field(ge=0, le=MOST, description="Rows; 0 for all (in JSON as many as the server allows).")]
Layer = Annotated[int, Field(ge=0, le=9999)]
Level = Annotated[int, Field(ge=1, le=1000)]
Text = Annotated[str, Field(min_length=1, max_length=300)]
Layers = Annotated[str, Field(pattern=r"^\d{1,4}([-:]\d{1,4})?$", examples=["0:2"], description="12, or 10:20.")]
Module = Annotated[str, Field(pattern=r"^\d{1,9}(\.\d{1,9})*$", max_length=300, examples=["1"])]


class Asked(BaseModel):
    """A question; a field that it has not is refused, since a misspelt one would change the answer unnoticed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)


class OfNeurons(Asked):
    """A question about a selection."""

    neurons: Neurons


def chosen(neurons: list[str | int] | None) -> list[object] | None:
    """A selection as the query layer takes it; None for no restriction."""
    return list(neurons) if neurons else None


Rows = list[dict[str, Any]]
