"""Held-out text -> an estimate of what ablating each neuron of a layer does, by one forward, a few backward passes.

To second order, KL(p || p without i) = 1/2 d' F d: d is the change of the logits, F = diag(p) - p p' the Fisher matrix
of the next token. Instead of the token that follows (one draw from p, heavy tails), a probe weighs every token v with
random signs r: g = d(sum_v r_v sqrt(p_v) log p_v)/da has the same mean square, E (d.g)^2 = d' F d, and far less noise:
on 300 tokens of a trained model, four probes reach Spearman 0.96 with the measured KL, the following token 0.83.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atlas.errors import InputError, ModelError
from atlas.measure.ablation import HeldOut
from atlas.measure.batches import Batch, Reading, batches_of
from atlas.models.adapter import Adapter
from atlas.models.linear import weight
from atlas.progress import Progress, Quiet

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PROBE_TOKENS = 2048  # tokens times probes: below, an estimate rests on too few random signs
MOST_PROBES = 32
_BATCH_TOKENS = 512  # padded tokens of a graph: 0.5 GB for GPT-2 small
_LOGITS = 1 << 23  # logits held at once: 32 MB in float32


@dataclass(frozen=True)
class Sensitivity:
    """What one layer of a text gives; sums and means are over predicted positions.

    kl [documents, d_mlp]: sums of 1/2 ((a - mu) g)^2 in nats, averaged over the probes. magnitude, variance [d_mlp]:
    E|a| and Var(a). tokens [documents].
    """

    kl: FloatArray
    magnitude: FloatArray
    variance: FloatArray
    tokens: IntArray
    probes: int


def sensitivity(
    adapter: Adapter,
    held: HeldOut,
    *,
    layer: int,
    means: FloatArray,
    probes: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Estimate the KL of replacing each neuron of a layer by `means` [d_mlp], by document.

    What neurons do together at several positions is left out: the squares of single positions are added. `probes`: by
    default as many as make PROBE_TOKENS positions. Signs are seeded: the same text gives the same numbers. Only the
    blocks above the layer are differentiated. Raises InputError for a layer out of range, ModelError for numbers that
    are not finite.
    """
    if not 0 <= layer < adapter.spec.layers:
        raise InputError(f"layer {layer} is out of range: this model has layers 0..{adapter.spec.layers - 1}")
    count = probes or min(max(-(-PROBE_TOKENS // held.tokens), 1), MOST_PROBES)
    mu = torch.tensor(means, dtype=adapter.dtype, device=adapter.device)
    sums = _Sums(len(held.sha256), adapter.spec.d_mlp)
    reading = Reading(held.context_length, _BATCH_TOKENS, 1, skip_bos=False)
    signs = torch.Generator().manual_seed(layer)
    with _recorded(adapter, layer) as seen, (progress or Quiet()).task("estimate", held.tokens, "tokens") as task:
        for batch in batches_of(list(held.contexts), adapter.bos_token_id, reading):
            read = _Read(adapter, batch, seen)
            sums.add(batch, read.activation, read.squares(mu, count, signs))
            task.advance(read.real_tokens)
    return sums.result(count)


class _Seen:
    """What the hooks saw of a forward pass."""

    activation: Tensor | None = None  # [contexts, longest, d_mlp], the leaf of the graph
    normed: Tensor | None = None  # output of the final norm [contexts, longest, d_model]


@contextmanager
def _recorded(adapter: Adapter, layer: int) -> Iterator[_Seen]:
    seen = _Seen()

    def leaf(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.activation = inputs[0].requires_grad_()  # weights need no gradient: the graph begins here

    def end(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        seen.normed = output

    handles = [
        adapter.blocks[layer].down.register_forward_pre_hook(leaf),
        adapter.final_norm.register_forward_hook(end),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class _Read:
    """One batch after its forward pass."""

    def __init__(self, adapter: Adapter, batch: Batch, seen: _Seen) -> None:
        self._adapter = adapter
        body: Any = getattr(adapter.model, str(adapter.model.base_model_prefix))
        with torch.enable_grad():
            body(input_ids=torch.from_numpy(batch.input_ids).to(adapter.device), use_cache=False)
        assert seen.activation is not None
        assert seen.normed is not None
        self._leaf, self._normed = seen.activation, seen.normed
        self._rows = torch.from_numpy(np.flatnonzero(predicting(batch))).to(adapter.device)
        seen.activation = seen.normed = None  # the graph goes with this object

    @property
    def activation(self) -> Tensor:
        """[contexts, longest, d_mlp]."""
        return self._leaf.detach()

    @property
    def real_tokens(self) -> int:
        """Predicted positions."""
        return len(self._rows)

    def squares(self, means: Tensor, probes: int, signs: torch.Generator) -> Tensor:
        """Mean over probes of 1/2 ((a - mu) g)^2, summed over the positions of a context: [contexts, d_mlp] float64."""
        away, total = self.activation - means, torch.zeros(())
        for number, start in enumerate(self._starts(probes, signs)):
            (g,) = torch.autograd.grad(self._normed, self._leaf, start, retain_graph=number + 1 < probes)
            total = total + (away * g).square_().sum(1, dtype=torch.float64).cpu()
        if not bool(torch.isfinite(total).all()):
            raise ModelError(
                "activations or gradients are not finite (NaN or infinite) on this text; check the model's weights, or "
                "measure in float32 if they are half precision"
            )
        return total / (2 * probes)

    def _starts(self, probes: int, signs: torch.Generator) -> list[Tensor]:
        """Gradient of each probe at the final norm's output, 0 where no token is predicted."""
        matrix = weight(self._adapter.unembedding)
        wide = torch.promote_types(self._adapter.dtype, torch.float32)
        found = [torch.zeros_like(self._normed) for _ in range(probes)]
        with torch.inference_mode(False), torch.no_grad():
            normed = self._normed.flatten(0, 1)
            for rows in torch.split(self._rows, max(_LOGITS // len(matrix), 1)):
                p, slope = self._probabilities(normed[rows].to(wide))
                for start in found:
                    push = _push(p, signs) if slope is None else _push(p, signs) * slope
                    start.flatten(0, 1)[rows] = (push.to(matrix.dtype) @ matrix).to(start.dtype)
        return found

    def _probabilities(self, normed: Tensor) -> tuple[Tensor, Tensor | None]:
        """P [rows, V], and the slope of the cap on logits where there is one."""
        bias = getattr(self._adapter.unembedding, "bias", None)
        matrix = weight(self._adapter.unembedding).to(normed.dtype)
        logits = nn.functional.linear(normed, matrix, None if bias is None else bias.to(normed.dtype))
        cap = self._adapter.logit_cap
        if cap is None:
            return logits.softmax(-1), None
        bent = torch.tanh(logits / cap)
        return (cap * bent).softmax(-1), 1 - bent.square()


def predicting(batch: Batch) -> npt.NDArray[np.bool_]:
    """Which of the flattened positions [contexts * longest] predict a token: all of a context but its last."""
    width = batch.input_ids.shape[1]
    lengths = np.array([len(context.token_ids) for context in batch.contexts])
    return (np.arange(width)[None, :] < lengths[:, None] - 1).ravel()


def _push(p: Tensor, signs: torch.Generator) -> Tensor:
    """Gradient at the logits of sum_v r_v sqrt(p_v) log p_v with random signs r: mean 0, covariance F."""
    r = torch.randint(0, 2, p.shape, generator=signs, dtype=torch.int8).to(p.device)
    w = p.sqrt().mul_(r.mul_(2).sub_(1))
    return w.sub_(p * w.sum(-1, keepdim=True))


class _Sums:
    def __init__(self, documents: int, d_mlp: int) -> None:
        self._kl = np.zeros((documents, d_mlp))
        self._tokens = np.zeros(documents, np.int64)
        self._moments = np.zeros((3, d_mlp))  # sums of a, a^2, |a|

    def add(self, batch: Batch, activation: Tensor, squares: Tensor) -> None:
        """Add one batch; squares [contexts, d_mlp]."""
        documents = [context.document for context in batch.contexts]
        np.add.at(self._kl, documents, squares.numpy())
        np.add.at(self._tokens, documents, [len(context.token_ids) - 1 for context in batch.contexts])
        rows = torch.from_numpy(np.flatnonzero(predicting(batch))).to(activation.device)
        a = activation.flatten(0, 1)[rows].double()
        self._moments += torch.stack([a.sum(0), a.square().sum(0), a.abs().sum(0)]).cpu().numpy()

    def result(self, probes: int) -> Sensitivity:
        """Everything as means."""
        mean, square, magnitude = self._moments / self._tokens.sum()
        return Sensitivity(self._kl, magnitude, np.maximum(square - mean**2, 0.0), self._tokens, probes)
