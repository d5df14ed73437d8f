"""A forward pass -> what every MLP computed, handed over block by block while it is still in the cache.

Hooks stand on the model once; each thread has its own receiver, so that several threads may run batches of one model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atlas.measure.batches import Batch
from atlas.models.adapter import Adapter, Block
from atlas.models.norm import norm_of


class _Enough(Exception):
    """Leaves the model where the rest of the forward pass gives nothing more to see."""


@dataclass(frozen=True)
class Reached:
    """One block of one batch in the model's dtype; rows are the positions `Batch.order`, without padding."""

    block: Block
    activation: Tensor  # a: input of the down projection, [rows, d_mlp]
    residual: Tensor  # input of the norm before the MLP, [contexts, longest, d_model]
    inner: Tensor  # g (gated) or z (ungated): input of the activation function
    outer: Tensor  # act(g) or act(z)
    up: Tensor | None  # u: output of the up projection; None without a gate


Receiver = Callable[[Reached], None]


class Tap:
    """The hooks on a model; made by `tapped`."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._local = threading.local()
        self._body: nn.Module = getattr(adapter.model, str(adapter.model.base_model_prefix))

    def run(self, batch: Batch, receive: Receiver) -> None:
        """Run the model's body up to the last down projection; `receive` gets every block in order.

        Padding stands on the right and attention is causal, so no real position sees it and no mask is needed. MLPs
        do not run on it: `pack` takes it out and `unpack` puts zeros in.
        """
        self._local.receive, self._local.seen = receive, {}
        with torch.inference_mode(), suppress(_Enough):
            self._local.order = torch.from_numpy(batch.order).to(self._adapter.device)
            ids = torch.from_numpy(batch.input_ids).to(self._adapter.device)
            self._body(input_ids=ids, use_cache=False)
        self._local.receive, self._local.seen, self._local.order = None, {}, None

    def pack(self, hidden: Tensor) -> Tensor | None:
        """Make the input of an MLP [rows, d_model] from that of its block [contexts, longest, d_model]."""
        if getattr(self._local, "receive", None) is None:
            return None
        self._local.shape = hidden.shape
        return hidden.flatten(0, 1).index_select(0, self._local.order)

    def unpack(self, packed: Tensor) -> Tensor | None:
        """Undo `pack` on the output of the MLP."""
        if getattr(self._local, "receive", None) is None:
            return None
        shape = self._local.shape
        return packed.new_zeros(shape).flatten(0, 1).index_copy_(0, self._local.order, packed).view(shape)

    def keep(self, name: str, value: Tensor) -> None:
        """Remember a tensor until its block's down projection is reached."""
        if getattr(self._local, "receive", None) is not None:
            self._local.seen[name] = value

    def reach(self, block: Block, activation: Tensor) -> None:
        """Hand over one block."""
        if getattr(self._local, "receive", None) is not None:
            seen = self._local.seen
            self._local.receive(
                Reached(block, activation, seen["residual"], seen["inner"], seen["outer"], seen.get("up"))
            )
            seen.clear()
            if block.index == len(self._adapter.blocks) - 1:
                raise _Enough  # its down projection is 4 % of the demo model's pass


@contextmanager
def tapped(adapter: Adapter) -> Iterator[Tap]:
    """Put hooks on every block; they are removed at the end, also after an error."""
    tap = Tap(adapter)
    with ExitStack() as stack:
        for block in adapter.blocks:
            for handle in _hook(tap, block):
                stack.callback(handle.remove)
        yield tap


def _hook(tap: Tap, block: Block) -> list[Any]:
    act = block.act
    if not isinstance(act, nn.Module):
        raise TypeError(f"activation function of block {block.index} is no module")

    def on_act(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        tap.keep("inner", inputs[0])
        tap.keep("outer", output)

    handles = [
        block.mlp.register_forward_pre_hook(lambda _, inputs: tap.pack(inputs[0])),
        block.mlp.register_forward_hook(lambda _, __, output: tap.unpack(output)),
        block.mlp_norm.register_forward_pre_hook(lambda _, inputs: tap.keep("residual", inputs[0])),
        act.register_forward_hook(on_act),
        block.down.register_forward_pre_hook(lambda _, inputs: tap.reach(block, inputs[0])),
    ]
    if block.gate is not None:
        handles.append(block.up.register_forward_hook(lambda _, __, output: tap.keep("up", output)))
    return handles


def calibration_sums(reached: Reached, rows: Tensor) -> Tensor:
    """Sum r u act'(g) and r act(g) over the counted positions `rows`: [2, d_mlp] float64 (wiring.md).

    Without a gate the first is NaN (NULL in the shard) and the second the sum of r act'(z). r is the scale factor of
    the norm before the MLP, without its gain. For SiLU `reached.inner` is overwritten.
    """
    weights, count = norm_of(reached.block.mlp_norm).factor(reached.residual).flatten()[rows], len(rows)
    inner = reached.inner[:count]
    if reached.up is None:
        up = weights @ _slope(reached.block, inner, torch.ones_like(inner)).to(weights.dtype)
        gate = torch.full_like(up, torch.nan)
    else:
        gate = weights @ _slope(reached.block, inner, reached.up[:count]).to(weights.dtype)
        up = weights @ reached.outer[:count].to(weights.dtype)
    return torch.stack([gate.double(), up.double()])


def _slope(block: Block, inner: Tensor, factor: Tensor) -> Tensor:
    """Compute factor * act'(inner) by autograd, for any activation function; SiLU in one kernel and in place."""
    if type(block.act) is nn.SiLU or type(block.act).__name__ == "SiLUActivation":
        return torch.ops.aten.silu_backward.grad_input(factor, inner, grad_input=inner)  # type: ignore[no-any-return]
    with torch.inference_mode(False), torch.enable_grad():
        leaf = inner.clone().requires_grad_()
        (slope,) = torch.autograd.grad(block.act(leaf), leaf, factor.clone())
    return slope
