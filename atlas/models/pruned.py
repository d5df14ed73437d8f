"""A model folder and the neurons to remove -> a folder of the smaller model, for plain transformers.

A neuron is a row of gate and up (with its biases) and a column of down; where every layer loses as many, the rows and
columns go and the width in config.json shrinks, otherwise the columns of down are set to 0. What the removed neurons
wrote on average, sum of mu_i W_down[:, i], goes into the bias of the down projection, where the architecture has one
or a field of its config gives it one. Tensors are copied one by one: the model is never in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor, nn

from atlas.errors import InputError, ModelError
from atlas.models.adapter import outline, read_blocks
from atlas.models.folder import INDEX, check_weights, read_config
from atlas.models.linear import bias, weight
from atlas.models.tensor_file import Entry, write_tensors
from atlas.models.tensors import Role, files_by_key, in_files, read_tensor, stored_key
from atlas.progress import Progress

Compensation = Literal["folded", "added", "none"]
Ints = npt.NDArray[np.int64]

_WIDTHS = ("n_inner", "intermediate_size", "ffn_dim")  # the config's field for d_mlp; the first that it has
_BIASES = "mlp_bias"  # the config's field that gives gate, up and down biases (Llama)
_FLOATS = ("F64", "F32", "F16", "BF16")
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Removal:
    """Which neurons go: `removed` holds their indices by layer; `means` [layers, d_mlp] what they give on average.

    `means` None: nothing is put in their place.
    """

    removed: tuple[Ints, ...]
    means: npt.NDArray[np.float64] | None

    def __post_init__(self) -> None:
        for layer, gone in enumerate(self.removed):
            if (np.diff(gone) <= 0).any():
                raise InputError(f"the neurons of layer {layer} are not in order, or twice; sort them")

    @property
    def counts(self) -> list[int]:
        """Removed neurons of each layer."""
        return [len(one) for one in self.removed]


@dataclass(frozen=True)
class Place:
    """Where a stored tensor belongs in the MLPs; `axis` is that of the neurons, None where it has none."""

    layer: int
    role: Role
    axis: int | None


@dataclass(frozen=True)
class Plan:
    """What will be written: config.json, the files with their tensors, and what each gains or loses."""

    removal: Removal
    config: dict[str, Any]
    width: int | None  # neurons left in every layer; None: all stay, those removed are masked
    compensation: Compensation
    why_not: str | None  # the reason where there is no compensation
    rounding: float | None  # error of the compensation in the model's dtype, relative to it; the largest of a layer
    files: dict[str, tuple[Entry, ...]]
    parameters: tuple[int, int]  # before, after; tied weights count once
    bytes_before: int

    @property
    def bytes(self) -> int:
        """Bytes of the tensors that will be written."""
        return sum(entry.bytes for entries in self.files.values() for entry in entries)


@dataclass(frozen=True)
class _Source:
    folder: Path
    files: dict[str, Path]  # by key
    model: nn.Module  # without weights
    places: dict[str, Place]  # by key


def plan_pruned(folder: Path, removal: Removal) -> Plan:
    """Decide what the smaller model of a local folder is; nothing is written.

    Raises InputError for neurons that do not exist and for a layer that would lose all of them; ModelError for
    quantised weights, models without a language-model head, and architectures whose config gives no MLP width.
    """
    source = _source(folder)
    width = _width(source, removal)
    config, compensation, why_not = _new_config(source, removal, width)
    smaller = _outline_of(config)
    biases, rounding = _biases(source, removal) if compensation != "none" else ((), None)
    files = {name: tuple(found) for name, found in _files(source, (removal, width), biases).items()}
    _check_shapes(source, smaller, files)
    return Plan(
        removal, config, width, compensation, why_not, rounding, files,
        parameters=(_parameters(source.model), _parameters(smaller)),
        bytes_before=sum(path.stat().st_size for path in set(source.files.values())),
    )  # fmt: skip


def write_pruned(plan: Plan, target: Path, *, progress: Progress) -> int:
    """Write config.json, the weights and their index into an existing folder; returns the bytes of the weights."""
    (target / "config.json").write_text(json.dumps(plan.config, indent=2) + "\n", encoding="utf-8")
    written = 0
    with progress.task("tensors", sum(map(len, plan.files.values())), "tensors") as task:
        for name, entries in plan.files.items():
            written += write_tensors(
                target / name, entries, metadata={"format": "pt"}, wrote=lambda entry: task.advance(1)
            )
    if list(plan.files) != [_WEIGHTS]:
        (target / INDEX).write_text(json.dumps(_index(plan), indent=2) + "\n", encoding="utf-8")
    return written


def kept(removed: Ints, d_mlp: int) -> Ints:
    """Old indices of the neurons that stay, ascending: entry i is the old index of new neuron i."""
    return np.setdiff1d(np.arange(d_mlp), removed)


def _source(folder: Path) -> _Source:
    config = read_config(folder)
    if "quantization_config" in config:
        kind = (config["quantization_config"] or {}).get("quant_method", "unknown")
        raise ModelError(f"{folder} holds quantised weights ({kind}); prune the original ones and quantise the result")
    files, model = files_by_key(folder, check_weights(folder)), outline(folder)
    named = config.get("architectures") or [type(model).__name__]
    if type(model).__name__ not in named:
        raise ModelError(
            f"{folder} is a {'/'.join(named)}, expected a {type(model).__name__}; its head does not predict tokens, so "
            "give the causal language model"
        )
    if not (folder / INDEX).exists() and {path.name for path in files.values()} != {_WEIGHTS}:
        names = ", ".join(sorted({path.name for path in files.values()}))
        raise ModelError(f"{folder} has {names} and no {INDEX}; save it anew with save_pretrained(...)")
    places = {key: place for key, (place, _) in _parameters_of_mlps(model, files)}
    source = _Source(folder, files, model, places)
    _check_types(source)
    return source


def _parameters_of_mlps(model: nn.Module, files: dict[str, Path]) -> Iterator[tuple[str, tuple[Place, Tensor]]]:
    """Stored name of every parameter of gate, up and down -> its place and the (empty) parameter."""
    names = {id(module): name for name, module in model.named_modules()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for block in read_blocks(model):
        gate: dict[Role, nn.Module] = {} if block.gate is None else {"gate": block.gate}
        for role, module in (gate | {"up": block.up, "down": block.down}).items():
            for name, parameter in module.named_parameters(recurse=False):
                key = stored_key(f"{names[id(module)]}.{name}", files, prefix)
                yield key, (Place(block.index, role, _axis(module, role, parameter)), parameter)


def _axis(module: nn.Module, role: Role, parameter: Tensor) -> int | None:
    """The axis of the neurons: Linear stores [out, in], GPT-2's Conv1D [in, out]."""
    if parameter.ndim == 1:
        return None if role == "down" else 0
    first = role != "down"
    return int(first != isinstance(module, nn.Linear))


def _check_types(source: _Source) -> None:
    for key in source.places:
        if key not in source.files:
            raise ModelError(f"{source.folder} has no tensor {key} among its {len(source.files)}; download it again")
        kind, _ = _stored(source, key)
        if kind not in _FLOATS:
            raise ModelError(
                f"{source.folder}: {key} is {kind}, expected {', '.join(_FLOATS)}; prune the original weights"
            )


def _stored(source: _Source, key: str) -> tuple[str, tuple[int, ...]]:
    """Type and shape of a stored tensor, from the header."""
    with safe_open(source.files[key], framework="pt") as opened:
        found = opened.get_slice(key)
        return found.get_dtype(), tuple(found.get_shape())


def _width(source: _Source, removal: Removal) -> int | None:
    widths = [weight(block.down).shape[1] for block in read_blocks(source.model)]
    if len(removal.removed) != len(widths):
        raise InputError(f"neurons of {len(removal.removed)} layers are to go, the model has {len(widths)} layers")
    for layer, (gone, width) in enumerate(zip(removal.removed, widths, strict=True)):
        if len(gone) and not 0 <= gone.min() <= gone.max() < width:
            raise InputError(f"L{layer}/N{gone.max()} does not exist: layer {layer} has neurons 0..{width - 1}")
        if len(set(gone.tolist())) >= width:
            raise InputError(f"all {width} neurons of layer {layer} would go; leave at least one")
    left = {width - count for width, count in zip(widths, removal.counts, strict=True)}
    return left.pop() if len(left) == 1 else None


def _new_config(
    source: _Source, removal: Removal, width: int | None
) -> tuple[dict[str, Any], Compensation, str | None]:
    config, known = read_config(source.folder), source.model.config
    if width is not None:
        field = next((name for name in _WIDTHS if hasattr(known, name)), None)
        if field is None:
            raise ModelError(f"{type(source.model).__name__} has none of {', '.join(_WIDTHS)} in its config: not known")
        config[field] = width
    if removal.means is None:
        return config, "none", "not asked for"
    if _has_biases(source.model):
        return config, "folded", None
    if hasattr(known, _BIASES) and _has_biases(_outline_of(config | {_BIASES: True})):
        return config | {_BIASES: True}, "added", None
    return config, "none", (
        f"{type(source.model).__name__} has no bias on its down projection, and no {_BIASES} in its config to add one"
    )  # fmt: skip


def _has_biases(model: nn.Module) -> bool:
    return all(bias(block.down) is not None for block in read_blocks(model))


def _outline_of(config: dict[str, Any]) -> nn.Module:
    with TemporaryDirectory(prefix="atlas-config-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return outline(Path(folder))


def _biases(source: _Source, removal: Removal) -> tuple[tuple[Tensor, ...], float]:
    """New biases [d_model] of the down projections in the stored type, and the largest relative error of rounding."""
    assert removal.means is not None
    tensors, found, errors = in_files(source.folder, device="cpu"), [], [0.0]
    for layer, gone in enumerate(removal.removed):
        stored, index = tensors.weight(layer, "down"), torch.from_numpy(gone)
        shift = stored.index_select(1, index).double() @ torch.from_numpy(removal.means[layer][gone])
        module = tensors.fill(tensors.blocks[layer].down)
        old = bias(module)
        before = torch.zeros_like(shift) if old is None else old.detach().double()
        rounded = (before + shift).to(stored.dtype)
        found.append(rounded)
        if len(gone) and float(shift.norm()):
            errors.append(float((rounded.double() - before - shift).norm() / shift.norm()))
    return tuple(found), max(errors)


def _files(source: _Source, cut: tuple[Removal, int | None], biases: tuple[Tensor, ...]) -> dict[str, list[Entry]]:
    """Tensors of every new file, by its name: those of the source's file of that name, and added biases."""
    found: dict[str, list[Entry]] = {path.name: [] for path in sorted(set(source.files.values()))}
    for key, path in sorted(source.files.items()):
        found[path.name].append(_entry(source, key, cut, biases))
        place = source.places.get(key)
        if biases and place is not None and place.axis is not None and key.endswith(".weight"):
            added = key.removesuffix("weight") + "bias"
            if added not in source.files:
                found[path.name].append(_added(source, (key, added), cut, biases))
    return found


def _entry(source: _Source, key: str, cut: tuple[Removal, int | None], biases: tuple[Tensor, ...]) -> Entry:
    (kind, shape), place, (removal, width) = _stored(source, key), source.places.get(key), cut
    whole = partial(read_tensor, source.folder, source.files, key)
    if place is None:
        return Entry(key, kind, shape, whole)
    if place.axis is None:
        return Entry(key, kind, shape, (lambda: biases[place.layer].to(whole().dtype)) if biases else whole)
    gone, axis = removal.removed[place.layer], place.axis
    if width is None:
        return Entry(key, kind, shape, partial(_masked, whole, gone, axis) if place.role == "down" else whole)
    left = torch.from_numpy(kept(gone, shape[axis]))
    smaller = (*shape[:axis], width, *shape[axis + 1 :])
    return Entry(key, kind, smaller, lambda: whole().index_select(axis, left))


def _masked(whole: Any, gone: Ints, axis: int) -> Tensor:
    found: Tensor = whole().clone()
    return found.index_fill_(axis, torch.from_numpy(gone), 0)


def _added(
    source: _Source, keys: tuple[str, str], cut: tuple[Removal, int | None], biases: tuple[Tensor, ...]
) -> Entry:
    """A bias that the model did not have: zeros for gate and up, the compensation for down."""
    (kind, shape), place = _stored(source, keys[0]), source.places[keys[0]]
    if place.role == "down":
        return Entry(keys[1], kind, tuple(biases[place.layer].shape), lambda: biases[place.layer])
    count = shape[0] if cut[1] is None else cut[1]
    like = biases[place.layer]
    return Entry(keys[1], kind, (count,), lambda: like.new_zeros(count))


def _check_shapes(source: _Source, smaller: nn.Module, files: dict[str, tuple[Entry, ...]]) -> None:
    """Every MLP parameter of the architecture that the new config describes has a tensor of its shape, and no other.

    Outside the MLPs tensors are as they were (and stored under names that transformers may translate).
    """
    shapes = {entry.key: entry.shape for entries in files.values() for entry in entries}
    new = dict(_parameters_of_mlps(smaller, dict.fromkeys(shapes, source.folder)))
    for key in sorted(new.keys() | source.places.keys()):
        asked, found = list(new[key][1].shape) if key in new else None, list(shapes[key]) if key in shapes else None
        if asked != found:
            raise ModelError(
                f"{type(smaller).__name__} would ask for {key} {asked} after pruning and find {found}; its config does "
                "not decide the width of its MLPs alone, so it cannot be pruned"
            )


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _index(plan: Plan) -> dict[str, Any]:
    places = {entry.key: name for name, entries in plan.files.items() for entry in entries}
    return {
        "metadata": {"total_parameters": plan.parameters[1], "total_size": plan.bytes},
        "weight_map": dict(sorted(places.items())),
    }
