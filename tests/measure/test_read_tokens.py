"""Read tokens: values against the model's own modules, lists against brute force, real models against plain numpy."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import FAMILIES, shared_model, tiny_gpt2, tiny_llama, tiny_olmo2

from atlas.errors import ModelError
from atlas.measure.read_tokens import measure
from atlas.models.adapter import Adapter, load_model
from atlas.shards import Shard, shard_files
from atlas.tables import SHARDS

DEMO = Path(__file__).parents[2] / "data" / "demo" / "model"
Floats = npt.NDArray[np.float64]
Rows = list[dict[str, Any]]


def read(root: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(p) for p in shard_files(root, "read_tokens"))


def alone(adapter: Adapter, layer: int) -> dict[str, Floats]:
    """What the modules of a layer's MLP give for the embedding of every token alone [V, N], less what all tokens share.

    The shared part is what the same modules give where the norm's input is 0: its bias and that of the map.
    """
    block, stream = adapter.blocks[layer], adapter.embedding(torch.arange(adapter.spec.vocab))
    norm = block.mlp_norm or torch.nn.Identity()
    parts = {"up": block.up} if block.gate is None else {"gate": block.gate, "up": block.up}
    with torch.no_grad():
        both = {part: (module(norm(stream)), module(norm(torch.zeros_like(stream)))) for part, module in parts.items()}
    return {part: (own - shared).numpy() for part, (own, shared) in both.items()}


def check(found: Rows, expected: dict[str, Floats], top: int, rtol: float = 1e-5) -> None:
    """Exact order of every list of one layer, and its values; found in the shard's order."""
    neurons = next(iter(expected.values())).shape[1]
    wanted = []
    for neuron, (part, values) in itertools.product(range(neurons), expected.items()):
        for sign in (1,) if part == "gate" else (1, -1):
            strength = sign * values[:, neuron]
            order = [token for token in np.argsort(-strength, kind="stable")[:top] if strength[token] > 0]
            wanted += [(neuron, part, sign, rank, token) for rank, token in enumerate(order)]
    assert [(r["neuron"], r["part"], r["polarity"], r["rank"], r["token_id"]) for r in found] == wanted
    values = [expected[part][token, neuron] for neuron, part, _, _, token in wanted]
    assert np.allclose([r["value"] for r in found], values, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_lists_are_the_largest_pre_activations(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    adapter = make()
    monkeypatch.setattr("atlas.measure.read_tokens._CELLS", 23 * 4)  # several batches of neurons
    measure(adapter, tmp_path, shard=Shard("f"), top=4)
    found = read(tmp_path).to_pylist()
    assert {row["part"] for row in found} == ({"gate", "up"} if adapter.spec.gated else {"up"})
    for layer in range(3):
        check([r for r in found if r["layer"] == layer], alone(adapter, layer), 4)


def test_the_first_layer_reads_just_that_where_attention_writes_nothing(tmp_path: Path) -> None:
    """The whole model on one token, its attention silenced: what its first MLP computes is what is listed."""
    adapter = tiny_llama()
    adapter.blocks[0].attention.o_proj.weight.zero_()
    seen: dict[str, list[torch.Tensor]] = {"gate": [], "up": []}
    for part, module in (("gate", adapter.blocks[0].gate), ("up", adapter.blocks[0].up)):
        module.register_forward_hook(lambda _, __, output, part=part: seen[part].append(output[0, 0]))  # type: ignore[union-attr,misc]
    for token in range(23):
        adapter.model(torch.tensor([[token]]))
    measure(adapter, tmp_path, shard=Shard("f"), top=23)
    found = [r for r in read(tmp_path).to_pylist() if r["layer"] == 0]
    check(found, {part: torch.stack(rows).numpy() for part, rows in seen.items()}, 23)


def numpy_reads(weights: dict[str, Floats], prefix: str, names: tuple[str, ...], norm: tuple[str, float]) -> Any:
    """rows [N, d], gain [d] and embeddings [V, d] as stored in the file; RMSNorm as numpy."""
    embedding, gain, eps = weights["model.embed_tokens.weight"], weights[f"{prefix}.{norm[0]}.weight"], norm[1]
    normed = gain * embedding / np.sqrt((embedding**2).mean(1, keepdims=True) + eps)
    return {
        part: normed @ weights[f"{prefix}.mlp.{name}.weight"].T
        for part, name in zip(("gate", "up"), names, strict=True)
    }


def stored(folder: Path) -> tuple[dict[str, Floats], dict[str, Any]]:
    from safetensors.numpy import load_file

    found: dict[str, Floats] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {name: value.astype(np.float64) for name, value in load_file(file).items()}
    return found, json.loads((folder / "config.json").read_text())


def check_file(folder: Path, root: Path, of_layer) -> None:  # type: ignore[no-untyped-def]
    """A model in double precision, so that the order is exact, against its stored weights."""
    measure(load_model(folder, dtype="float64"), root, shard=Shard("f"), top=10)
    weights, config = stored(folder)
    found = read(root).to_pylist()
    layers = config.get("num_hidden_layers") or config["n_layer"]
    for layer in range(layers):
        check([r for r in found if r["layer"] == layer], of_layer(weights, config, layer), 10)


def llama_reads(weights: dict[str, Floats], config: dict[str, Any], layer: int) -> dict[str, Floats]:
    names, norm = ("gate_proj", "up_proj"), ("post_attention_layernorm", config["rms_norm_eps"])
    return numpy_reads(weights, f"model.layers.{layer}", names, norm)  # type: ignore[no-any-return]


def gpt2_reads(weights: dict[str, Floats], config: dict[str, Any], layer: int) -> dict[str, Floats]:
    """LayerNorm without its bias; Conv1D stores [d, N]."""
    embedding, block = weights["transformer.wte.weight"], f"transformer.h.{layer}"
    centred = embedding - embedding.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + config["layer_norm_epsilon"])
    return {"up": (normed * weights[f"{block}.ln_2.weight"]) @ weights[f"{block}.mlp.c_fc.weight"]}


def test_demo_against_its_stored_weights(tmp_path: Path) -> None:
    check_file(DEMO, tmp_path, llama_reads)


@pytest.mark.parametrize(("name", "of_layer"), [("stories260K-hf", llama_reads), ("slm4096-hf", gpt2_reads)])
def test_shared_models_against_their_stored_weights(name: str, of_layer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    check_file(shared_model(name), tmp_path, of_layer)


@pytest.mark.parametrize(("make", "role"), [(tiny_llama, "unembedding"), (tiny_gpt2, "position_embedding")])
def test_neither_what_is_written_with_nor_positions_count(make, role: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    adapter = make()
    measure(adapter, tmp_path / "a", shard=Shard("f"))
    getattr(adapter, role).weight.mul_(torch.linspace(-1, 2, 16))
    measure(adapter, tmp_path / "b", shard=Shard("f"))
    assert read(tmp_path / "a").equals(read(tmp_path / "b"))


@pytest.mark.parametrize(("make", "factor"), [(tiny_llama, 1), (tiny_olmo2, 2)])
def test_the_length_of_an_embedding_counts_only_without_a_norm(make, factor: int, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    adapter, found = make(), []
    for name, times in (("a", 1), ("b", 2)):
        adapter.embedding.weight[7] *= times
        measure(adapter, tmp_path / name, shard=Shard("f"), top=23)
        rows = [r for r in read(tmp_path / name).to_pylist() if r["token_id"] == 7]
        found.append({(r["layer"], r["neuron"], r["part"]): r["value"] for r in rows})
    before, after = found
    assert before and before.keys() == after.keys()
    assert all(after[key] == pytest.approx(factor * value, rel=1e-4) for key, value in before.items())


def test_shards_share_the_layers_and_half_precision_is_widened(tmp_path: Path) -> None:
    adapter = tiny_llama(torch.bfloat16)
    measure(adapter, tmp_path / "one", shard=Shard("f"))
    for index in range(2):
        measure(adapter, tmp_path / "many", shard=Shard("f", index, 2))
    assert read(tmp_path / "one").equals(read(tmp_path / "many"))
    assert read(tmp_path / "one").schema.equals(SHARDS["read_tokens"])
    widened = tiny_llama(torch.bfloat16)
    widened.model.to(torch.float32)
    check([r for r in read(tmp_path / "one").to_pylist() if r["layer"] == 1], alone(widened, 1), 10)


def test_a_row_that_reads_nothing_has_no_list(tmp_path: Path) -> None:
    adapter = tiny_llama()
    adapter.blocks[1].gate.weight[3] = 0  # type: ignore[union-attr,operator,index]
    measure(adapter, tmp_path, shard=Shard("f"), top=4)
    mine = [r for r in read(tmp_path).to_pylist() if (r["layer"], r["neuron"]) == (1, 3)]
    assert {r["part"] for r in mine} == {"up"}


def test_bad_weights_are_named(tmp_path: Path) -> None:
    adapter = tiny_llama()
    adapter.blocks[1].up.weight[3, 0] = float("nan")  # type: ignore[operator,index]
    with pytest.raises(ModelError, match="layer 1"):
        measure(adapter, tmp_path, shard=Shard("f"))
