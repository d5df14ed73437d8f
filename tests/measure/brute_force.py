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
from tiny_models import FAMILIES

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
    return dataclasses.replace(FAMILIES[kind](dtype), tokenizer=Words(), bos_token_id=BOS)


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
    out: np.ndarray  # r_s, the same for all neurons; NaN without a norm on the MLP's output
    whole: dict[int, np.ndarray]  # all positions of every context: [positions, layers, neurons]
    tokens: dict[int, list[int]]
    excluded: int


torch.set_num_threads(1)  # these models are so small that a second thread only waits


def look(adapter: Adapter, texts: Corpus, length: int = LENGTH) -> Everything:
    rows: dict[str, list[Any]] = {name: [] for name in ("context_id", "position", "token", *NAMES)}
    whole, tokens, excluded = {}, {}, 0
    for document, text in enumerate(texts.documents):
        words = [int(word) for word in text.split()]
        for chunk in range(-(-len(words) // (length - 1))):
            ids = [BOS, *words[chunk * (length - 1) : (chunk + 1) * (length - 1)]]
            key = document * CONTEXTS_PER_DOCUMENT + chunk
            found = run(adapter, ids)
            whole[key], tokens[key] = found["a"], ids
            for position, token in enumerate(ids):
                if position == 0 or token == BOS:
                    excluded += 1
                    continue
                entry = {name: values[position] for name, values in found.items()}
                for name, value in {"context_id": key, "position": position, "token": token, **entry}.items():
                    rows[name].append(value)
    arrays = {name: np.array(values) for name, values in rows.items()}
    return Everything(**arrays, whole=whole, tokens=tokens, excluded=excluded)


def run(adapter: Adapter, ids: list[int]) -> dict[str, np.ndarray]:
    """NAMES of one context alone: [positions, layers, neurons] each."""
    model, seen = adapter.model, {}
    kind = KINDS[model.config.model_type]
    handles = []
    for index, block in enumerate(model.get_submodule(kind.blocks)):
        names = {"x": kind.norm, "y": kind.out_norm, "down": kind.down}
        for name, path in names.items():
            if path:
                hook = lambda _, i, k=(name, index): seen.__setitem__(k, i[0][0])  # noqa: E731
                handles.append(block.get_submodule(path).register_forward_pre_hook(hook))
        for name, path in {"u": kind.up, "g": kind.gate}.items():
            if path:
                hook = lambda _, __, o, k=(name, index): seen.__setitem__(k, o[0])  # noqa: E731
                handles.append(block.get_submodule(path).register_forward_hook(hook))
    with torch.no_grad():
        model(torch.tensor([ids], device=adapter.device), use_cache=False)
    for handle in handles:
        handle.remove()
    layers = [_layer(kind, model.config, seen, index) for index in range(adapter.spec.layers)]
    return {name: np.stack([layer[name].numpy() for layer in layers], axis=1) for name in NAMES}


NAMES = ("a", "gate", "up", "out")


@dataclass(frozen=True)
class Kind:
    """Where a family of transformers keeps its parts, by name, and its formulas."""

    blocks: str
    norm: str
    out_norm: str
    gate: str
    up: str
    down: str
    act: str
    eps: str
    centred: bool = False


_PRE = Kind("model.layers", "post_attention_layernorm", "", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "silu",
            "rms_norm_eps")  # fmt: skip
_POST = dataclasses.replace(_PRE, norm="", out_norm="post_feedforward_layernorm")
KINDS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _PRE),
    **dict.fromkeys(("olmo2", "olmo3"), _POST),
    "gemma2": dataclasses.replace(_POST, norm="pre_feedforward_layernorm", act="tanh"),
    "gpt2": Kind("transformer.h", "ln_2", "", "", "mlp.c_fc", "mlp.c_proj", "tanh", "layer_norm_epsilon", True),
    "gpt_neox": Kind("gpt_neox.layers", "post_attention_layernorm", "", "", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
                     "erf", "layer_norm_eps", True),
}  # fmt: skip


def _layer(kind: Kind, config: Any, seen: dict[tuple[str, int], torch.Tensor], layer: int) -> dict[str, torch.Tensor]:
    a = seen["down", layer]
    scale, out = torch.ones_like(a[:, :1]), torch.full_like(a, torch.nan)
    if kind.norm:
        x = seen["x", layer]
        spread = x.var(-1, unbiased=False) if kind.centred else x.pow(2).mean(-1)
        scale = (spread + getattr(config, kind.eps)).rsqrt()[:, None]
    if kind.out_norm:
        out = (seen["y", layer].pow(2).mean(-1) + getattr(config, kind.eps)).rsqrt()[:, None].expand_as(a)
    if kind.gate:
        g, u = seen["g", layer], seen["u", layer]
        value, slope = _act(kind.act, g)
        return {"a": a, "gate": scale * u * slope, "up": scale * value, "out": out}
    _, slope = _act(kind.act, seen["u", layer])
    return {"a": a, "gate": torch.full_like(a, torch.nan), "up": scale * slope, "out": out}


def _act(name: str, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """act(z) and act'(z), written out."""
    if name == "silu":
        sigma = torch.sigmoid(z)
        return z * sigma, sigma * (1 + z * (1 - sigma))
    if name == "erf":
        share = (1 + torch.erf(z / 2**0.5)) / 2
        return z * share, share + z * torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5
    c = (2 / torch.pi) ** 0.5
    t = torch.tanh(c * (z + 0.044715 * z**3))
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * c * (1 + 3 * 0.044715 * z**2)


def read(root: Path) -> dict[str, pa.Table]:
    """The tables of all shards under a root, one after the other."""
    folders = sorted(root.glob("shard-*"))
    names = sorted({path.stem for folder in folders for path in folder.glob("*.parquet")})
    return {name: pa.concat_tables([pq.read_table(f / f"{name}.parquet") for f in folders]) for name in names}
