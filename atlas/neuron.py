"""Every id form in use -> NeuronId, and the few sizes of a model that ids need.

A neuron is one coordinate of the input of an MLP's down projection, addressed by (layer, neuron), both from 0.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex

from atlas.errors import InputError

NormPlacement = Literal["pre", "post", "both"]

_FORMS = re.compile(r"^\s*L?(\d+)\s*[/_:,]\s*N?(\d+)(?:_(\d+))?\s*$", re.IGNORECASE)
_NEXT = 'use a form such as "L24/N5326", "24_5326", "24:5326", (24, 5326) or a feature id'


@dataclass(frozen=True)
class ModelSpec:
    """The sizes of one model: what every id, shard and table is checked against."""

    name: str
    revision: str  # sha256 over config and weights (first 16 hex digits): two folders of equal content are equal
    architecture: str
    layers: int
    d_mlp: int
    d_model: int
    vocab: int
    context: int
    gated: bool
    norm_placement: NormPlacement

    @property
    def neurons(self) -> int:
        """Number of MLP neurons of the whole model."""
        return self.layers * self.d_mlp


@dataclass(frozen=True, order=True)
class NeuronId:
    """One MLP neuron; `str()` gives the canonical form L24/N5326."""

    layer: int
    neuron: int

    def __str__(self) -> str:
        return f"L{self.layer}/N{self.neuron}"

    def feature_id(self, d_mlp: int) -> int:
        """Packed id, layer * d_mlp + neuron: the `src`, `tgt` and `feature_id` of the tables."""
        return self.layer * d_mlp + self.neuron

    @classmethod
    def of_feature(cls, feature_id: int, d_mlp: int) -> NeuronId:
        """Unpack a feature id."""
        return cls(*divmod(feature_id, d_mlp))


def parse_neuron(value: object, *, layers: int, d_mlp: int) -> NeuronId:
    """Any id form in use -> NeuronId within the model's bounds.

    Accepts "L24/N5326", "L24/5326", "24_5326", "24_5326_7" (the position is dropped), "24:5326", (24, 5326),
    ("L24", 5326), a feature id as int (of Python or numpy) or digits, and a NeuronId.
    Raises InputError that names the bounds.

    >>> str(parse_neuron("24_5326_7", layers=32, d_mlp=11008))
    'L24/N5326'
    """
    found = _read(value, d_mlp)
    if not (0 <= found.layer < layers and 0 <= found.neuron < d_mlp):
        raise InputError(
            f"neuron {value!r} is out of range: this model has layers 0..{layers - 1} "
            f"and neurons 0..{d_mlp - 1} in each; choose an id within these bounds"
        )
    return found


def _read(value: object, d_mlp: int) -> NeuronId:
    if isinstance(value, NeuronId):
        return value
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):  # int and the integers of numpy
        return NeuronId.of_feature(_integer(value), d_mlp)
    if isinstance(value, str):
        return _read_text(value, d_mlp)
    if isinstance(value, Sequence) and len(value) == 2:
        return _read_text(f"{value[0]}/{value[1]}", d_mlp)
    raise InputError(f"cannot read a neuron from {value!r}; {_NEXT}")


def _integer(value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError as error:  # an array of several numbers
        raise InputError(f"cannot read a neuron from {value!r}; {_NEXT}") from error


def _read_text(text: str, d_mlp: int) -> NeuronId:
    if text.strip().isdigit():
        return NeuronId.of_feature(int(text), d_mlp)
    match = _FORMS.match(text)
    if match is None:
        raise InputError(f"cannot read a neuron from {text!r}; {_NEXT}")
    return NeuronId(int(match[1]), int(match[2]))
