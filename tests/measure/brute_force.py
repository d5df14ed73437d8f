"""Plain transformers, one context at a time without padding: the oracle of the activation and gradient passes."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tiny_models import tiny_gpt2, tiny_llama

from atlas.measure.corpus import Corpus
from atlas.models.adapter import Adapter
from atlas.tables import CONTEXTS_PER_DOCUMENT

BOS, LENGTH = 1, 12


class Words:
    """Tokens are decimal words; BOS is 1."""

    bos_token_id = BOS

    def __call__(self, texts: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


def model(kind: str, dtype: torch.dtype = torch.float64) -> Adapter:
    made = tiny_llama(dtype) if kind == "llama" else tiny_gpt2(dtype)
    return dataclasses.replace(made, tokenizer=Words(), bos_token_id=BOS)


def corpus(documents: int = 40, longest: int = 30, seed: int = 3) -> Corpus:
    """Documents of 0 to `longest` tokens out of 22; every fifth repeats the first, so that activations tie."""
    draw = random.Random(seed)
    texts = [
        " ".join(str(draw.choice([*range(2, 23), 1])) for _ in range(draw.randint(0, longest)))
        for _ in range(documents)
    ]
    return Corpus("random", [texts[1] if i % 5 == 4 else text for i, text in enumerate(texts)], "0")


@dataclass(frozen=True)
class Everything:
    """Every counted position of a corpus, in order; arrays over positions, and over (positions, layers, neurons)."""

    context_id: np.ndarray
    position: np.ndarray
    token: np.ndarray
    a: np.ndarray
    gate: np.ndarray  # r u act'(g); NaN without a gate
    up: np.ndarray  # r act(g), without a gate r act'(z)
    whole: dict[int, np.ndarray]  # all positions of every context: [positions, layers, neurons]
    tokens: dict[int, list[int]]
    excluded: int


torch.set_num_threads(1)  # these models are so small that a second thread only waits


def look(adapter: Adapter, texts: Corpus, length: int = LENGTH) -> Everything:
    rows: dict[str, list[Any]] = {name: [] for name in ("context_id", "position", "token", "a", "gate", "up")}
    whole, tokens, excluded = {}, {}, 0
    for document, text in enumerate(texts.documents):
        words = [int(word) for word in text.split()]
        for chunk in range(-(-len(words) // (length - 1))):
            ids = [BOS, *words[chunk * (length - 1) : (chunk + 1) * (length - 1)]]
            key = document * CONTEXTS_PER_DOCUMENT + chunk
            a, gate, up = run(adapter, ids)
            whole[key], tokens[key] = a, ids
            for position, token in enumerate(ids):
                if position == 0 or token == BOS:
                    excluded += 1
                    continue
                for name, value in zip(
                    rows, (key, position, token, a[position], gate[position], up[position]), strict=True
                ):
                    rows[name].append(value)
    arrays = {name: np.array(values) for name, values in rows.items()}
    return Everything(**arrays, whole=whole, tokens=tokens, excluded=excluded)


def run(adapter: Adapter, ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, r u act'(g), r act(g) of one context alone: [positions, layers, neurons] each."""
    seen: dict[tuple[str, int], torch.Tensor] = {}
    handles = []
    for index, block in enumerate(adapter.blocks):
        parts = {"x": block.mlp_norm, "down": block.down}
        outs = {"u": block.up} | ({"g": block.gate} if block.gate is not None else {})
        for name, module in parts.items():
            handles.append(module.register_forward_pre_hook(lambda _, i, k=(name, index): seen.__setitem__(k, i[0][0])))
        for name, module in outs.items():
            handles.append(module.register_forward_hook(lambda _, __, o, k=(name, index): seen.__setitem__(k, o[0])))
    with torch.no_grad():
        adapter.model(torch.tensor([ids], device=adapter.device))
    for handle in handles:
        handle.remove()
    layers = range(len(adapter.blocks))
    return tuple(np.stack(part, axis=1) for part in zip(*(_layer(adapter, seen, i) for i in layers), strict=True))  # type: ignore[return-value]


def _layer(adapter: Adapter, seen: dict[tuple[str, int], torch.Tensor], layer: int) -> tuple[np.ndarray, ...]:
    x = seen["x", layer]
    gated = ("g", layer) in seen
    eps = 1e-6 if gated else 1e-5  # the defaults of LlamaConfig and GPT2Config
    scale = (x.pow(2).mean(-1) if gated else x.var(-1, unbiased=False)).add(eps).rsqrt()[:, None]
    if gated:
        g, u = seen["g", layer], seen["u", layer]
        sigma = torch.sigmoid(g)
        gate, up = scale * u * sigma * (1 + g * (1 - sigma)), scale * g * sigma
    else:
        z = seen["u", layer]
        c = (2 / torch.pi) ** 0.5
        t = torch.tanh(c * (z + 0.044715 * z**3))
        up = scale * (0.5 * (1 + t) + 0.5 * z * (1 - t**2) * c * (1 + 3 * 0.044715 * z**2))
        gate = torch.full_like(up, torch.nan)
    return seen["down", layer].numpy(), gate.numpy(), up.numpy()


def read(root: Path) -> dict[str, pa.Table]:
    """The tables of all shards under a root, one after the other."""
    folders = sorted(root.glob("shard-*"))
    names = sorted({path.stem for folder in folders for path in folder.glob("*.parquet")})
    return {name: pa.concat_tables([pq.read_table(f / f"{name}.parquet") for f in folders]) for name in names}
