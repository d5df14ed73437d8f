"""MLP neurons of one layer -> the weights of a transcoder that computes exactly what they write.

a -> sum_i a_i W_down[:, i] over the chosen neurons is a transcoder with ReLU: each neuron is one feature for its
positive and one for its negative part, since a = relu(a) - relu(-a). The encoder selects coordinates (+1 or -1), the
decoder holds the column of the down projection with that sign, and its bias is the down projection's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from atlas.errors import ResourceError
from atlas.models.linear import bias, weight
from atlas.models.tensors import MlpTensors


@dataclass(frozen=True)
class Transcoder:
    """Float32 weights as sae-lens names and shapes them, and what its features are."""

    weights: dict[str, Tensor]  # W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out], b_dec [d_out]
    neurons: list[int]  # of each feature
    polarity: list[int]  # of each feature: +1 or -1


def transcoder(
    tensors: MlpTensors, layer: int, neurons: Sequence[int], *, signs: Sequence[int] = (1, -1)
) -> Transcoder:
    """Features neuron by neuron, the signs of one beside each other; weights are copies in float32."""
    d_mlp, d_model = tensors.shape
    places = torch.tensor([n for n in neurons for _ in signs])
    sign = torch.tensor([s for _ in neurons for s in signs], dtype=torch.float32)
    down = tensors.fill(tensors.blocks[layer].down)
    columns = weight(down).detach()[:, places].float().T
    encoder = torch.zeros(d_mlp, len(places))
    encoder[places, torch.arange(len(places))] = sign
    own = bias(down)
    weights = {
        "W_enc": encoder, "b_enc": torch.zeros(len(places)), "W_dec": (columns * sign[:, None]).contiguous(),
        "b_dec": torch.zeros(d_model) if own is None else own.detach().float().clone(),
    }  # fmt: skip
    return Transcoder(weights, places.tolist(), sign.int().tolist())


def size_of(tensors: MlpTensors, features: int) -> int:
    """Bytes of a transcoder's weights."""
    d_mlp, d_model = tensors.shape
    return 4 * (features * (d_mlp + d_model + 1) + d_model)


def save_weights(made: Transcoder, file: Path) -> None:
    """Write sae_weights.safetensors; ResourceError when the disk is full."""
    try:
        save_file(made.weights, file)
    except SafetensorError as error:  # not an OSError, though it tells one
        raise ResourceError(f"cannot write {file.name} ({error}); free space and run it again") from error
