"""An atlas and a model -> nothing, or the reason why they do not belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.neuron import ModelSpec
    from atlas.query.atlas import Atlas


def require_same_model(atlas: Atlas, spec: ModelSpec, *, then: str) -> None:
    """Raise InputError, which ends with `then`, unless the atlas is of this very model."""
    known = atlas.metadata.get("revision")
    if known and known != spec.revision:
        raise InputError(f"{atlas.name} is of model revision {known}, {spec.name} is {spec.revision}; {then}")
    if (atlas.layers, atlas.d_mlp) != (spec.layers, spec.d_mlp):
        raise InputError(
            f"{atlas.name} has {atlas.layers} layers of {atlas.d_mlp} neurons, {spec.name} {spec.layers} of "
            f"{spec.d_mlp}; {then}"
        )
