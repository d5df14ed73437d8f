"""Tensors, one at a time -> a safetensors file; no more than one of them is in memory.

The format is a header (its length in 8 bytes, JSON) with type, shape and place of every tensor, then their bytes. So
the header can be written before any tensor is read, when types and shapes are known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from atlas.errors import ModelError

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
          "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its name, the format's name of its type ("BF16"), its shape, and where it comes from."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Its size in the file; ModelError for a type that the format has but atlas does not know."""
        if self.dtype not in _BYTES:
            raise ModelError(f"{self.key} is of type {self.dtype}, expected one of {', '.join(_BYTES)}; convert it")
        return prod(self.shape) * _BYTES[self.dtype]


def write_tensors(
    path: Path, entries: Sequence[Entry], *, metadata: Mapping[str, str], wrote: Callable[[Entry], None]
) -> int:
    """Write a file and return its bytes; `wrote` is told of every tensor.

    Wider types come first, so that every tensor starts at a multiple of its own width. Raises ModelError for a tensor
    that is not of the size that its entry says, OSError for a full disk.
    """
    ordered = sorted(entries, key=lambda entry: (-_BYTES.get(entry.dtype, 0), entry.key))
    with path.open("wb") as file:
        head = _header(ordered, metadata)
        file.write(len(head).to_bytes(8, "little") + head)
        for entry in ordered:
            raw = entry.read().contiguous().reshape(-1).view(torch.uint8)
            if raw.numel() != entry.bytes:
                raise ModelError(f"{entry.key} has {raw.numel()} bytes, its header says {entry.bytes}; report it")
            file.write(raw.numpy().data)
            wrote(entry)
        file.flush()
        os.fsync(file.fileno())  # the folder is renamed next: names must not come to the disk before bytes
        return file.tell()


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    found: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for entry in entries:
        end = start + entry.bytes
        found[entry.key] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(found, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)
