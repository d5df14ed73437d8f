"""A model folder -> its MLP tensors by role, one at a time, without loading the model.

Roles come from the modules: the architecture is built without weights (meta device), its blocks are read as those of a
loaded model are, and a module is given its weights from the safetensors file only when it is asked for.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models.adapter import Adapter, Block, outline, read_blocks
from atlas.models.device import find_device
from atlas.models.folder import INDEX, check_weights, find_folder
from atlas.models.linear import weight
from atlas.models.norm import Norm, norm_of

Role = Literal["gate", "up", "down"]
NormRole = Literal["mlp_norm", "mlp_out_norm"]


@dataclass(frozen=True)
class MlpTensors:
    """The MLP weights of a model; `fill` gives a module its weights, `device` is where to compute. Nothing is kept."""

    name: str
    blocks: tuple[Block, ...]
    fill: Callable[[nn.Module], nn.Module]
    device: torch.device

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def shape(self) -> tuple[int, int]:
        """(d_mlp, d_model), the same in every layer."""
        d_model, d_mlp = weight(self.blocks[0].down).shape
        return d_mlp, d_model

    @property
    def gated(self) -> bool:
        """Whether the MLPs have a gate."""
        return self.blocks[0].gate is not None

    @property
    def has_out_norm(self) -> bool:
        """Whether a norm stands between the MLP and the residual stream (OLMo-2, OLMo-3, Gemma-2)."""
        return self.blocks[0].mlp_out_norm is not None

    def weight(self, layer: int, role: Role) -> Tensor:
        """Read one matrix [out, in] in the dtype it is stored in: gate and up [d_mlp, d_model], down [d_model, d_mlp].

        From files it is a view into the mapped file: its pages are read when used and given back when it is dropped.
        """
        return weight(self.fill(getattr(self.blocks[layer], role))).detach()

    def norm(self, layer: int, role: NormRole) -> Norm | None:
        """Read one norm; None where the block has none there."""
        module = getattr(self.blocks[layer], role)
        return None if module is None else norm_of(self.fill(module))


def in_memory(adapter: Adapter) -> MlpTensors:
    """MLP tensors of a loaded model: views of its parameters."""
    return MlpTensors(adapter.spec.name, adapter.blocks, lambda module: module, adapter.device)


def in_files(source: str | Path, *, device: str = "auto") -> MlpTensors:
    """MLP tensors of a model folder or hub name, read from safetensors when asked for.

    `device="auto"` takes CUDA when there is one. Raises InputError for missing files; ModelError for damaged ones, for
    unsupported architectures, and, when a tensor is asked for, if it is absent or not of the architecture's shape.
    """
    folder = find_folder(source)
    files = files_by_key(folder, check_weights(folder))
    model = outline(folder)
    names = {id(module): name for name, module in model.named_modules()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."

    def fill(module: nn.Module) -> nn.Module:
        keys = {n: f"{names[id(module)]}.{n}" for n, _ in module.named_parameters(recurse=False)}
        found = {n: read_tensor(folder, files, stored_key(key, files, prefix)) for n, key in keys.items()}
        return _filled(folder, module, found)

    return MlpTensors(folder.resolve().name, read_blocks(model), fill, find_device(device))


def files_by_key(folder: Path, files: list[Path]) -> dict[str, Path]:
    """Key of a tensor -> its file; the index decides when there is one (a folder may hold other copies)."""
    index = folder / INDEX
    if index.exists():
        return {key: folder / name for key, name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    found: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            found.update(dict.fromkeys(opened.keys(), path))
    return found


def stored_key(name: str, files: dict[str, Path], prefix: str) -> str:
    """The key of a parameter: checkpoints of the bare body (GPT-2's) lack its prefix."""
    return next((key for key in (name, name.removeprefix(prefix), prefix + name) if key in files), name)


def read_tensor(folder: Path, files: dict[str, Path], key: str) -> Tensor:
    """One stored tensor, a view into the mapped file; ModelError when it is absent or cannot be read."""
    if key not in files:
        raise ModelError(f"{folder} has no tensor {key} among its {len(files)}; download the model again")
    try:
        # opened for one tensor: a handle that stays open keeps every page it ever touched in memory
        with safe_open(files[key], framework="pt") as opened:
            found: Tensor = opened.get_tensor(key)
            return found
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{files[key]} gives no tensor {key} ({error}); download it again") from error


def _filled(folder: Path, module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    for name, parameter in module.named_parameters(recurse=False):
        if tensors[name].shape != parameter.shape:
            found, asked = list(tensors[name].shape), list(parameter.shape)
            raise ModelError(
                f"{folder}: {name} of a {type(module).__name__} has shape {found}, config.json asks for {asked}; "
                "download the model again"
            )
    whole = copy.deepcopy(module)  # free: nothing is behind a meta parameter
    whole.load_state_dict(tensors, strict=False, assign=True)
    return whole.requires_grad_(False)
