"""A .safetensors file -> header and bytes that fit a configuration; selections that select what their map says.

File: 8 bytes of the header's length (little endian), the header as JSON {name: {dtype, shape, data_offsets}}, bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job
from atlas.export.package_check.json_text import parse_object
from atlas.export.package_check.package import DAMAGE, broken

_HEADER = 100 << 20  # bytes: the format's own limit
_BLOCK = 4 << 20
_FLOAT = "F32"


@dataclass(frozen=True)
class Expected:
    """What cfg.json says of the weights; selection: (neuron, sign) of each feature, where it has a map."""

    d_in: int
    d_sae: int
    d_out: int
    selection: tuple[list[int], list[int]] | None = None

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shape by tensor."""
        return {
            "W_enc": [self.d_in, self.d_sae], "b_enc": [self.d_sae],
            "W_dec": [self.d_sae, self.d_out], "b_dec": [self.d_out],
        }  # fmt: skip


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: list[int]
    size: int  # bytes
    sound: bool  # of the type and shape that is expected


def check_weights(job: Job, name: str, expected: Expected | None) -> None:
    """Header, names, types, shapes and values; without `expected` only what holds of every file."""
    at = job.at(name)
    size = job.package.members[name]
    try:
        with job.package.open(name) as file:
            for tensor in _tensors(file, size, expected, at):
                job.counts["bytes"] += tensor.size
                _check_values(file, tensor, expected, at)
    except DAMAGE as error:
        broken(at, error)


def _tensors(file: IO[bytes], size: int, expected: Expected | None, at: At) -> list[_Tensor]:
    """Tensors in the order of their bytes; none where the header does not describe the file."""
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(_HEADER, size - 8):
        at.say("sae-header", "the header's length in 8 bytes, then the header", f"{size:,} bytes, length {length:,}")
        return []
    header = parse_object(file.read(length), at)
    if header is None or not _described(header, size - 8 - length, at):
        return []
    found = {name: about for name, about in header.items() if name != "__metadata__"}
    less, more = Expected(0, 0, 0).shapes.keys() - found.keys(), found.keys() - Expected(0, 0, 0).shapes.keys()
    if less or more:
        told = "; ".join(
            f"{what} {', '.join(sorted(names))}" for what, names in (("no", less), ("also", more)) if names
        )
        at.say("sae-tensors", "W_enc, b_enc, W_dec and b_dec", told)
    order = sorted(found, key=lambda name: found[name]["data_offsets"])
    return [_tensor(name, found[name], expected, at) for name in order]


def _described(header: dict[str, Any], size: int, at: At) -> bool:
    """Whether the tensors lie one after the other in exactly `size` bytes."""
    places: list[tuple[int, int, str]] = []
    end = 0
    for name, about in header.items():
        if name == "__metadata__":
            continue
        offsets = about.get("data_offsets") if isinstance(about, dict) else None
        if not _whole(offsets, 2) or not _whole(about.get("shape")) or not isinstance(about.get("dtype"), str):
            at.say("sae-header", "dtype, shape and data_offsets", about, f"/{name}")
            return False
        start, stop = offsets or (0, 0)
        places.append((start, stop, name))
    for start, stop, name in sorted(places):
        if start != end or stop < start:
            at.say("sae-header", f"bytes from {end:,}", f"{start:,} to {stop:,}", f"/{name}/data_offsets")
            return False
        end = stop
    if end != size:
        at.say("sae-header", f"{end:,} bytes of tensors", f"{size:,} bytes in the file")
    return end == size


def _whole(values: object, many: int | None = None) -> bool:
    """Whether a value is a list of whole numbers from 0, of `many` where it is said."""
    if not isinstance(values, list) or (many is not None and len(values) != many):
        return False
    return all(type(one) is int and one >= 0 for one in values)


def _tensor(name: str, about: dict[str, Any], expected: Expected | None, at: At) -> _Tensor:
    """One tensor; its type and shape are reported where they are not what is expected."""
    size = about["data_offsets"][1] - about["data_offsets"][0]
    sound = about["dtype"] == _FLOAT
    if not sound:
        at.say("sae-dtype", _FLOAT, about["dtype"], f"/{name}/dtype")
    elif prod(about["shape"]) * 4 != size:
        at.say("sae-header", f"{prod(about['shape']) * 4:,} bytes of shape {about['shape']}", f"{size:,}", f"/{name}")
        return _Tensor(name, about["shape"], size, sound=False)
    asked = expected.shapes.get(name) if expected else None
    if asked is not None and about["shape"] != asked:
        at.say("sae-shape", str(asked), str(about["shape"]), f"/{name}/shape")
        sound = False
    return _Tensor(name, about["shape"], size, sound)


def _check_values(file: IO[bytes], tensor: _Tensor, expected: Expected | None, at: At) -> None:
    """Read a tensor's bytes to their end, block by block of whole rows."""
    columns = max(tensor.shape[-1] if tensor.shape else 1, 1)
    rows = max(1, _BLOCK // (4 * columns))
    selection = expected.selection if expected and tensor.sound else None
    encoder = _Selected(columns) if selection and tensor.name == "W_enc" else None
    left, row, finite = tensor.size, 0, True
    while left:
        block = file.read(min(left, rows * columns * 4))
        if not block or len(block) % 4:
            raise EOFError("the file ends within its tensors")
        left -= len(block)
        if not tensor.sound or len(block) % (4 * columns):
            continue
        values = np.frombuffer(block, dtype="<f4").reshape(-1, columns)
        if finite and not np.isfinite(values).all():
            finite = False
            at.say("sae-finite", "finite numbers", _first(values, row), f"/{tensor.name}")
        if encoder:
            encoder.add(values, row)
        if selection and tensor.name == "b_enc" and values.any():
            at.say("sae-selection", "a bias of 0", f"{np.count_nonzero(values):,} other values", "/b_enc")
        row += len(values)
    if encoder and selection and finite:
        encoder.check(*selection, at)


def _first(values: npt.NDArray[np.float32], row: int) -> str:
    i, j = np.argwhere(~np.isfinite(values))[0]
    return f"{values[i, j]} at [{row + i}, {j}]"


class _Selected:
    """What stands in each column of an encoder, from its blocks of rows: how many values, their rows and their sum."""

    def __init__(self, columns: int) -> None:
        self._many, self._rows = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
        self._sum = np.zeros(columns, np.float64)

    def add(self, values: npt.NDArray[np.float32], row: int) -> None:
        """One more block; `row` is its first."""
        there = values != 0
        self._many += there.sum(axis=0)
        self._rows += (there * np.arange(row, row + len(values))[:, None]).sum(axis=0)
        self._sum += np.where(np.isfinite(values), values, 0).sum(axis=0, dtype=np.float64)

    def check(self, neurons: list[int], signs: list[int], at: At) -> None:
        """Report every column that is not its sign at its neuron's row and 0 elsewhere."""
        wrong = (self._many != 1) | (self._rows != neurons) | (self._sum != signs)
        for j in np.flatnonzero(wrong).tolist():
            one = self._many[j] == 1
            told = f"{self._sum[j]:g} at row {self._rows[j]}" if one else f"{self._many[j]:,} values other than 0"
            at.say("sae-selection", f"{signs[j]:+d} at row {neurons[j]} of column {j}", told, "/W_enc")
