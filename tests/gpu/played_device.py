"""A second device that the CPU plays: mixing it with CPU tensors fails as it would on a GPU.

A tensor of the device (Held) says that it is on "meta" and holds a CPU tensor that the work is done on. An operation
that gets tensors of both devices raises, where CUDA would; reading numbers out of one without .cpu() raises too. So
one forgotten .to(device), or a torch.arange without a device, is found on a machine without a GPU. What only a real
GPU shows (kernels that are missing or that add in another order) is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
# CUDA takes indices from the CPU, and copies between devices
_MIXING = ("aten.index.", "aten.index_put", "aten._index_put_impl", "aten.copy_.", "aten._to_copy.")


class MixedDevicesError(RuntimeError):
    """An operation got tensors of both devices."""


class Held(Tensor):
    """A tensor of the played device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Held:
        laid = (
            {} if held.layout != torch.strided else {"strides": held.stride(), "storage_offset": held.storage_offset()}
        )
        made: Held = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=DEVICE, **laid)
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist:  # torch refuses it for any subclass; CUDA tensors have it
            return args[0].held.tolist()
        if func is Tensor.new_tensor:
            return Held(args[0].held.new_tensor(*args[1:], **(kwargs or {})))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Tensor(TorchFunctionMode):
    """torch.tensor(...) fills the memory of a meta tensor with nothing: it is made on the CPU and moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return Held(torch.tensor(*args, **(kwargs | {"device": "cpu"})))
        return func(*args, **kwargs)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def played() -> Iterator[torch.device]:
    """Inside the block tensors may be made on, and moved to, the yielded device (of this thread only)."""
    with _Mode(), _Tensor():
        yield DEVICE


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    ours = {id(one.held): one for one in flat if isinstance(one, Held)}
    asked = kwargs.get("device")
    if ours and any(not isinstance(one, Held) and one.ndim for one in flat) and not str(func).startswith(_MIXING):
        raise MixedDevicesError(f"{func} got tensors of two devices")
    inside = kwargs if asked is None else kwargs | {"device": torch.device("cpu")}
    real_args, real_kwargs = tree_map(lambda one: one.held if isinstance(one, Held) else one, (args, inside))
    found = func(*real_args, **real_kwargs)
    if str(func).startswith("aten.copy_."):
        return args[0]
    to_device = torch.device(asked) == DEVICE if asked is not None else bool(ours)
    if asked is not None and flat and any(found is one for one in (*real_args, *flat)):
        found = found.clone()  # a move between devices copies
    if not to_device:
        return found
    return tree_map(lambda one: _wrapped(one, ours) if isinstance(one, Tensor) else one, found)


def _wrapped(found: Tensor, known: dict[int, Held]) -> Held:
    """The tensor itself where an operation worked in place."""
    return known[id(found)] if id(found) in known else Held(found)
