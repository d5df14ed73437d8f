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

from atlas.errors import ModelError
from atlas.measure.batches import Batch
from atlas.models.adapter import Adapter, Block
from atlas.models.norm import Norm, norm_of


class _Enough(Exception):
    """Leaves the model where the rest of the forward pass gives nothing more to see."""


@dataclass(frozen=True)
class Reached:
    """One block of one batch in the model's dtype; rows are the positions `Batch.order`, without padding."""

    block: Block
    norm: Norm | None  # the norm before the MLP; None where there is none (post-norm)
    activation: Tensor  # a: input of the down projection, [rows, d_mlp]
    residual: Tensor | None  # input of that norm, [contexts, longest, d_model]
    inner: Tensor  # g (gated) or z (ungated): input of the activation function
    outer: Tensor  # act(g) or act(z)
    up: Tensor | None  # u: output of the up projection; None without a gate


@dataclass(frozen=True)
class Written:
    """The output of one block's MLP where a norm follows it; rows as those of `Reached`."""

    block: Block
    norm: Norm  # the norm that follows
    output: Tensor  # its input, [rows, d_model]


Receiver = Callable[[Reached], None]
OutputReceiver = Callable[[Written], None]


class Tap:
    """The hooks on a model; made by `tapped`."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._local = threading.local()
        self._body: nn.Module = getattr(adapter.model, str(adapter.model.base_model_prefix))
        # read once: finding Gemma's shifted gain runs the norm
        self._before = [None if b.mlp_norm is None else norm_of(b.mlp_norm) for b in adapter.blocks]
        self._after = [None if b.mlp_out_norm is None else norm_of(b.mlp_out_norm) for b in adapter.blocks]

    def run(self, batch: Batch, receive: Receiver, written: OutputReceiver | None = None) -> None:
        """Run the model's body up to the last MLP; `receive` gets every block in order.

        `written` gets the outputs of those MLPs that a norm follows, each after its block; without it, or without such
        a norm, the pass ends at the last down projection. Padding stands on the right and attention is causal (within
        a sliding window too), so no real position sees it and no mask is needed. MLPs do not run on it: `pack` takes
        it out and `unpack` puts zeros in.
        """
        self._local.receive, self._local.written, self._local.seen = receive, written, {}
        try:
            with torch.inference_mode(), suppress(_Enough):
                self._local.order = torch.from_numpy(batch.order).to(self._adapter.device)
                ids = torch.from_numpy(batch.input_ids).to(self._adapter.device)
                self._body(input_ids=ids, use_cache=False)
        finally:
            self._local.receive = self._local.written = self._local.order = None
            self._local.seen = {}

    def pack(self, hidden: Tensor) -> Tensor | None:
        """Make the input of an MLP [rows, d_model] from that of its block [contexts, longest, d_model]."""
        if getattr(self._local, "receive", None) is None:
            return None
        self._local.shape = hidden.shape
        return hidden.flatten(0, 1).index_select(0, self._local.order)

    def unpack(self, block: Block, packed: Tensor) -> Tensor | None:
        """Undo `pack` on the output of the MLP, and hand it over where a norm follows."""
        if getattr(self._local, "receive", None) is None:
            return None
        norm = self._after[block.index]
        if norm is not None and self._local.written is not None:
            self._local.written(Written(block, norm, packed))
            self._leave_last(block)
        shape = self._local.shape
        return packed.new_zeros(shape).flatten(0, 1).index_copy_(0, self._local.order, packed).view(shape)

    def keep(self, name: str, value: Tensor) -> None:
        """Remember a tensor until its block's down projection is reached."""
        if getattr(self._local, "receive", None) is not None:
            self._local.seen[name] = value

    def reach(self, block: Block, activation: Tensor) -> None:
        """Hand over one block."""
        if getattr(self._local, "receive", None) is None:
            return
        seen, norm = self._local.seen, self._before[block.index]
        self._local.receive(
            Reached(block, norm, activation, seen.get("residual"), seen["inner"], seen["outer"], seen.get("up"))
        )
        seen.clear()
        if self._after[block.index] is None or self._local.written is None:
            self._leave_last(block)  # the last down projection is 4 % of the demo model's pass

    def _leave_last(self, block: Block) -> None:
        if block.index == len(self._adapter.blocks) - 1:
            raise _Enough


@contextmanager
def tapped(adapter: Adapter) -> Iterator[Tap]:
    """Put hooks on every block; they are removed at the end, also after an error.

    Raises ModelError for an activation function that is no module, and for an unknown norm.
    """
    tap = Tap(adapter)
    with ExitStack() as stack:
        for block in adapter.blocks:
            for handle in _hook(tap, block):
                stack.callback(handle.remove)
        yield tap


def _hook(tap: Tap, block: Block) -> list[Any]:
    act = block.act
    if not isinstance(act, nn.Module):
        raise ModelError(f"the activation function of block {block.index} is no module; use another model")

    def on_act(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        tap.keep("inner", inputs[0])
        tap.keep("outer", output)

    handles = [
        block.mlp.register_forward_pre_hook(lambda _, inputs: tap.pack(inputs[0])),
        block.mlp.register_forward_hook(lambda _, __, output: tap.unpack(block, output)),
        act.register_forward_hook(on_act),
        block.down.register_forward_pre_hook(lambda _, inputs: tap.reach(block, inputs[0])),
    ]
    if block.mlp_norm is not None:
        handles.append(block.mlp_norm.register_forward_pre_hook(lambda _, inputs: tap.keep("residual", inputs[0])))
    if block.gate is not None:
        handles.append(block.up.register_forward_hook(lambda _, __, output: tap.keep("up", output)))
    return handles


def calibration_sums(reached: Reached, rows: Tensor) -> Tensor:
    """Sum r u act'(g) and r act(g) over the counted positions `rows`: [2, d_mlp] float64 (wiring.md).

    Without a gate the first is NaN (NULL in the shard) and the second the sum of r act'(z). r is the scale factor of
    the norm before the MLP, without its gain, and 1 where there is none. `reached.inner` may be overwritten.
    """
    inner, block = reached.inner[: len(rows)], reached.block
    weights = _factors(reached, rows)
    if reached.up is None:
        up = weights @ _slope(block, inner, torch.ones((), dtype=inner.dtype, device=inner.device)).to(weights.dtype)
        gate = torch.full_like(up, torch.nan)
    else:
        gate = weights @ _slope(block, inner, reached.up[: len(rows)]).to(weights.dtype)
        up = weights @ reached.outer[: len(rows)].to(weights.dtype)
    return torch.stack([gate.double(), up.double()])


def output_factor_sum(written: Written, rows: Tensor) -> Tensor:
    """Sum r_s over the counted positions `rows`, float64: r_s is the scale factor of the norm on the MLP's output."""
    return written.norm.factor(written.output[: len(rows)]).double().sum()


def _factors(reached: Reached, rows: Tensor) -> Tensor:
    """Compute r at the counted positions, [rows], in at least float32."""
    if reached.norm is None or reached.residual is None:
        wide = torch.promote_types(reached.inner.dtype, torch.float32)
        return torch.ones(len(rows), dtype=wide, device=rows.device)
    return reached.norm.factor(reached.residual).flatten()[rows]


# modules whose act is this one formula; transformers' FastGELU rounds sqrt(2 / pi) and is left to autograd
_SILU = ("SiLU", "SiLUActivation")
_GELU = {"GELUActivation": "none", "GELUTanh": "tanh", "PytorchGELUTanh": "tanh", "NewGELUActivation": "tanh"}


def _slope(block: Block, inner: Tensor, factor: Tensor) -> Tensor:
    """Compute factor * act'(inner): SiLU and GELU in one kernel, in place; any other function by autograd."""
    name = type(block.act).__name__
    factor = factor.expand_as(inner)
    if name in _SILU:
        return torch.ops.aten.silu_backward.grad_input(factor, inner, grad_input=inner)  # type: ignore[no-any-return]
    approximate = block.act.approximate if isinstance(block.act, nn.GELU) else _GELU.get(name)
    if approximate is not None:
        return torch.ops.aten.gelu_backward.grad_input(  # type: ignore[no-any-return]
            factor, inner, approximate=approximate, grad_input=inner
        )
    with torch.inference_mode(False), torch.enable_grad():
        leaf = inner.clone().requires_grad_()
        (slope,) = torch.autograd.grad(block.act(leaf), leaf, factor.clone())
    return slope
