"""A model folder -> where each of its tensors lies in its safetensors files; nothing is loaded, torch is not needed.

What a checkpoint holds twice (an output head with the numbers of the embedding) or holds without being a parameter
(the causal masks of old GPT-2 files, integers of quantised weights) is left out, and said.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from atlas.errors import InputError, ModelError
from atlas.models.folder import INDEX, read_config

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}  # bytes of a number
_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
_TABLE = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output|shared|wte|\w*embed\w*)\.weight$")
_MASK = re.compile(r"(?:^|\.)(?:attn|attention)\.bias$")
_BUFFER = re.compile(r"(?:^|\.)(?:(?:attn|attention)\.masked_bias|rotary_emb\.inv_freq)$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.weight$")
_SCALE = re.compile(r"scale(?:_inv)?$|(?:^|\.)scale_weight$")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file: `size` numbers of `dtype` (the format's name of it) from byte `start`."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes; only for the dtypes of FLOATS."""
        return self.size * FLOATS[self.dtype]

    @property
    def layer(self) -> int:
        """The layer in its name, -1 outside the layers."""
        return layer_of(self.name)


@dataclass(frozen=True)
class Checkpoint:
    """The floating parameters of a folder, sorted by name, and what its files hold besides."""

    folder: Path
    tensors: tuple[Stored, ...]
    notes: tuple[str, ...] = ()
    scaled: bool = False  # fp8 whose scales are tensors of their own: the stored numbers stand for others


def layer_of(name: str) -> int:
    """The first number among the parts of a tensor's name, -1 without one.

    >>> layer_of("transformer.h.11.mlp.c_fc.weight"), layer_of("lm_head.weight")
    (11, -1)
    """
    found = _LAYER.search(name)
    return int(found[1]) if found else -1


def stored_tensors(folder: Path) -> Checkpoint:
    """Find the parameters of a model folder; the index decides which file counts, without one model.safetensors.

    Raises InputError when there are no safetensors files, or no floating numbers in them; ModelError for a file that is
    missing, cut or damaged, and for a tensor that the index names and its file lacks.
    """
    found = {tensor.name: tensor for tensor in _listed(folder)}
    notes: list[str] = []
    kept = [found[name] for name in sorted(found) if found[name].size]
    kept = _without_others(kept, notes)
    if not kept:
        raise InputError(
            f"no tensor of {', '.join(FLOATS)} in the safetensors files of {folder}"
            f"{' (' + '; '.join(notes) + ')' if notes else ''}; give the folder of the weights before quantisation"
        )
    kept = _without_copies(folder, kept, notes)
    scaled = any(t.dtype.startswith("F8") for t in kept) and any(_SCALE.search(t.name) for t in kept)
    if scaled:
        notes.append("fp8 tensors count as they are stored: their scales are not multiplied in")
    return Checkpoint(folder, tuple(kept), tuple(notes), scaled)


def _listed(folder: Path) -> list[Stored]:
    index = folder / INDEX
    if not index.exists():
        return [tensor for path in _unlisted(folder) for tensor in _header(path)]
    places = _read_index(index)
    missing = sorted({name for name in places.values() if not (folder / name).exists()})
    if missing:
        raise ModelError(f"{INDEX} names {', '.join(missing)}, not in {folder}; download the missing files")
    held = {name: {tensor.name: tensor for tensor in _header(folder / name)} for name in sorted(set(places.values()))}
    absent = sorted(name for name, file in places.items() if name not in held[file])
    if absent:
        raise ModelError(
            f"{INDEX} names {len(absent)} tensors that its files lack (first: {absent[0]}, expected in "
            f"{places[absent[0]]}); download the model again"
        )
    return [held[file][name] for name, file in places.items()]


def _unlisted(folder: Path) -> list[Path]:
    """The files of a folder without an index."""
    whole, paths = folder / "model.safetensors", sorted(folder.glob("*.safetensors"))
    if whole in paths:
        return [whole]
    if len(paths) > 1:
        raise InputError(
            f"{len(paths)} safetensors files in {folder} ({paths[0].name}, {paths[1].name} ...) and no {INDEX} that "
            "says which of them are the model; download the index, or keep only the model's file"
        )
    if not paths:
        pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
        only = f", only {pickles[0]} (a pickle: reading it can run code)" if pickles else ""
        raise InputError(
            f"no *.safetensors in {folder}{only}; convert it once, where you trust it: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    return paths


def _read_index(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not a valid weight index ({error!r}); download it again") from error


def _header(path: Path) -> list[Stored]:
    """The tensors of one file, after safetensors has compared its header with its length."""
    try:
        with safe_open(path, framework="numpy"), path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            content: dict[str, Any] = json.loads(handle.read(length))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or damaged ({error}); download it again") from error
    content.pop("__metadata__", None)
    return [
        Stored(name, path, about["dtype"], tuple(about["shape"]), 8 + length + about["data_offsets"][0])
        for name, about in content.items()
    ]


def _without_others(tensors: list[Stored], notes: list[str]) -> list[Stored]:
    """Leave out what is no parameter, or no floating number that can be read here."""
    masks = [tensor for tensor in tensors if _is_buffer(tensor)]
    if masks:
        notes.append(f"{len(masks)} buffers left out (masks and frequencies are no parameters: {masks[0].name} ...)")
    rest = [tensor for tensor in tensors if not _is_buffer(tensor)]
    other = Counter(tensor.dtype for tensor in rest if tensor.dtype not in FLOATS)
    if other:
        named = ", ".join(f"{count} of {dtype}" for dtype, count in sorted(other.items()))
        notes.append(f"tensors of other dtypes left out: {named}")
    return [tensor for tensor in rest if tensor.dtype in FLOATS]


def _is_buffer(tensor: Stored) -> bool:
    mask = _MASK.search(tensor.name) and len(tensor.shape) == 4  # a bias of that name has one dimension
    return bool(mask or _BUFFER.search(tensor.name))


def _without_copies(folder: Path, tensors: list[Stored], notes: list[str]) -> list[Stored]:
    """Leave out heads and embeddings whose bytes are those of another one, unless the config keeps them apart."""
    config = read_config(folder) if (folder / "config.json").exists() else {}
    if (config | (config.get("text_config") or {})).get("tie_word_embeddings") is False:
        return tensors
    tables = [tensor for tensor in tensors if len(tensor.shape) == 2 and _TABLE.search(tensor.name)]
    tables.sort(key=lambda tensor: (bool(_HEAD.search(tensor.name)), tensor.name))
    firsts: list[Stored] = []
    for table in tables:
        same = next((first for first in firsts if _equal(first, table)), None)
        if same is None:
            firsts.append(table)
        else:
            notes.append(f"{table.name} holds the numbers of {same.name}: tied, counted once")
    copies = {table.name for table in tables} - {first.name for first in firsts}
    return [tensor for tensor in tensors if tensor.name not in copies]


def _equal(one: Stored, other: Stored) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.path.open("rb") as left, other.path.open("rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        sizes = (min(_CHUNK, one.nbytes - done) for done in range(0, one.nbytes, _CHUNK))
        return all(left.read(size) == right.read(size) for size in sizes)
