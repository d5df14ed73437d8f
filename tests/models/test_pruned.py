"""Smaller models on disk against the whole model in memory, its out columns set to 0 and the mean output added."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# the tiny models are beside the tests of measuring
sys.path.append(str(Path(__file__).parents[1] / "measure"))

from tiny_models import FAMILIES, shared_model, tiny_gpt2, tiny_llama, tiny_neox
from transformers import AutoModelForCausalLM

from atlas.errors import InputError, ModelError
from atlas.models.adapter import adapt
from atlas.models.pruned import Plan, Removal, kept, plan_pruned, write_pruned
from atlas.progress import Quiet

DEMO = Path(__file__).parents[2] / "data" / "demo" / "model"
WEIGHTS = "model.safetensors"
COMPENSATED = {"llama": "added", "gpt2": "folded", "neox": "folded"}  # the others have no bias and no field for one
EQUAL, UNEQUAL = [[0, 3, 13], [1, 2, 12], [4, 5, 6]], [[0], [], [3, 7]]


def removal(sets: list[list[int]], *, width: int = 14, means: bool = True) -> Removal:
    found = np.random.default_rng(5).normal(size=(len(sets), width))
    return Removal(tuple(np.array(one, dtype=np.int64) for one in sets), found if means else None)


def prune(source: Path, target: Path, asked: Removal) -> Plan:
    plan = plan_pruned(source, asked)
    target.mkdir()
    written = write_pruned(plan, target, progress=Quiet())
    assert written == sum(path.stat().st_size for path in target.glob("*.safetensors"))
    return plan


def load(folder: Path) -> nn.Module:
    """Plain transformers, which must not miss, ignore or resize anything."""
    model, facts = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(facts[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()  # type: ignore[no-any-return]


def downs(model: nn.Module) -> list[nn.Module]:
    names = ("down_proj", "mlp.c_proj", "dense_4h_to_h")
    return [module for name, module in model.named_modules() if name.endswith(names)]


def oracle(model: nn.Module, asked: Removal, compensate: bool) -> nn.Module:
    """The same model with the removed neurons' columns at 0; a hook adds what they wrote on average."""
    edited = copy.deepcopy(model)
    for module, gone, layer in zip(downs(edited), asked.removed, range(99), strict=False):
        columns = module.weight if isinstance(module, nn.Linear) else module.weight.T
        if compensate:
            assert asked.means is not None
            means = torch.from_numpy(asked.means[layer][gone]).to(columns.dtype)
            shift = columns[:, gone].detach().clone() @ means
            module.register_forward_hook(lambda _m, _i, out, shift=shift: out + shift)
        with torch.no_grad():
            columns[:, gone] = 0
    return edited.eval()


def logits(model: nn.Module) -> Tensor:
    ids = torch.randint(23, (3, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(ids).logits  # type: ignore[no-any-return]


def assert_same(found: nn.Module, expected: nn.Module, tolerance: float = 1e-5) -> None:
    one, other = logits(found), logits(expected)
    assert float((one - other).abs().max() / other.abs().max()) < tolerance


@pytest.mark.parametrize("sets", [EQUAL, UNEQUAL], ids=["smaller", "masked"])
@pytest.mark.parametrize("means", [True, False], ids=["means", "no means"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_model_is_the_whole_one_without_its_neurons(
    family: str, means: bool, sets: list[list[int]], tmp_path: Path
) -> None:
    adapter, asked = FAMILIES[family](torch.float32), removal(sets, means=means)
    adapter.model.save_pretrained(tmp_path / "whole")
    plan = prune(tmp_path / "whole", tmp_path / "small", asked)
    expected = COMPENSATED.get(family, "none") if means else "none"
    assert plan.compensation == expected and (plan.why_not is None) == (expected != "none")
    found = load(tmp_path / "small")
    assert plan.width == (11 if sets is EQUAL else None)
    width = downs(found)[0].weight.shape[0 if family == "gpt2" else 1]
    assert width == (11 if sets is EQUAL else 14)
    if sets is UNEQUAL:
        columns = downs(found)[2].weight if family != "gpt2" else downs(found)[2].weight.T
        assert (columns == 0).all(0).nonzero().flatten().tolist() == sets[2]
    assert plan.parameters == (sum(p.numel() for p in adapter.model.parameters()),
                               sum(p.numel() for p in found.parameters()))  # fmt: skip
    assert_same(found, oracle(adapter.model, asked, expected != "none"))
    assert float((logits(found) - logits(adapter.model)).abs().max()) > 1e-2
    adapt(found, None, name="small", revision="0" * 16)  # what every measurement starts from


@pytest.mark.parametrize("name", ["demo", "stories260K-hf", "slm4096-hf"])
def test_real_models(name: str, tmp_path: Path) -> None:
    folder = DEMO if name == "demo" else shared_model(name)
    whole = load(folder)
    layers, width = len(downs(whole)), json.loads((folder / "config.json").read_text())
    width = width.get("n_inner") or width["intermediate_size"]
    chosen = [sorted(np.random.default_rng(i).choice(width, size=width // 5, replace=False)) for i in range(layers)]
    asked = removal(chosen, width=width)
    asked = Removal(asked.removed, None if asked.means is None else asked.means * 0.05)
    plan = prune(folder, tmp_path / "small", asked)
    assert plan.compensation == ("folded" if name == "slm4096-hf" else "added")
    found = load(tmp_path / "small")
    assert_same(found, oracle(whole, asked, True))
    assert found.config.tie_word_embeddings
    assert found.get_input_embeddings().weight is found.get_output_embeddings().weight
    less = sum(path.stat().st_size for path in (tmp_path / "small").glob("*.safetensors"))
    assert plan.bytes == less - header(tmp_path / "small" / WEIGHTS)
    matrices = 2 if name == "slm4096-hf" else 3
    gone = layers * (width // 5) * matrices * found.config.hidden_size * 4
    assert gone * 0.8 < plan.bytes_before - less <= gone * 1.05  # biases are added to Llamas, or go with their neurons


def header(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_sharded_files_stay_sharded(family: str, tmp_path: Path) -> None:
    adapter, asked = FAMILIES[family](torch.float32), removal(EQUAL)
    adapter.model.save_pretrained(tmp_path / "whole", max_shard_size="3KB")
    prune(tmp_path / "whole", tmp_path / "small", asked)
    names = [{path.name for path in (tmp_path / one).glob("*.safetensors")} for one in ("whole", "small")]
    assert len(names[0]) > 2 and names[0] == names[1]
    index = json.loads((tmp_path / "small" / f"{WEIGHTS}.index.json").read_text())
    found = {path.name: load_file(path) for path in (tmp_path / "small").glob("*.safetensors")}
    assert index["weight_map"] == {key: name for name, keys in found.items() for key in keys}
    size = sum(tensor.nbytes for keys in found.values() for tensor in keys.values())
    assert index["metadata"]["total_size"] == size
    assert_same(load(tmp_path / "small"), oracle(adapter.model, asked, True))


def test_a_checkpoint_of_the_bare_body(tmp_path: Path) -> None:
    adapter, asked = tiny_gpt2(torch.float32), removal(EQUAL)
    adapter.model.save_pretrained(tmp_path / "whole")
    bare = {key.removeprefix("transformer."): value for key, value in load_file(tmp_path / "whole" / WEIGHTS).items()}
    save_file(bare, tmp_path / "whole" / WEIGHTS, metadata={"format": "pt"})
    prune(tmp_path / "whole", tmp_path / "small", asked)
    assert set(load_file(tmp_path / "small" / WEIGHTS)) == set(bare)
    assert_same(load(tmp_path / "small"), oracle(adapter.model, asked, True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["llama", "neox"])
def test_the_type_stays_and_the_rounding_is_told(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    adapter, asked = FAMILIES[family](torch.float32), removal(EQUAL)
    adapter.model.to(dtype).save_pretrained(tmp_path / "whole")
    plan = prune(tmp_path / "whole", tmp_path / "small", asked)
    stored = load_file(tmp_path / "small" / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    largest = 0.0
    for layer, (old, new) in enumerate(zip(downs(adapter.model), downs(load(tmp_path / "small")), strict=True)):
        gone = asked.removed[layer]
        assert asked.means is not None
        shift = old.weight[:, gone].detach().double().numpy() @ asked.means[layer][gone]
        before = 0.0 if old.bias is None else old.bias.detach().double().numpy()
        error = np.linalg.norm(new.bias.detach().double().numpy() - before - shift) / np.linalg.norm(shift)
        largest = max(largest, error)
    assert plan.rounding == pytest.approx(largest, rel=1e-9, abs=1e-15)
    bounds = {torch.bfloat16: (1e-4, 0.02), torch.float16: (1e-5, 0.002), torch.float64: (0, 1e-15)}
    assert bounds[dtype][0] <= largest <= bounds[dtype][1]


def test_tensors_outside_the_mlps_are_the_same_bytes(tmp_path: Path) -> None:
    tiny_neox(torch.bfloat16).model.save_pretrained(tmp_path / "whole")
    plan = prune(tmp_path / "whole", tmp_path / "small", removal(EQUAL))
    old, new = (load_file(tmp_path / one / WEIGHTS) for one in ("whole", "small"))
    outside = [key for key in old if ".mlp." not in key]
    assert len(outside) > 10 and all(torch.equal(old[key], new[key]) for key in outside)
    assert plan.config["intermediate_size"] == 11 and "mlp_bias" not in plan.config


def test_kept_neurons() -> None:
    assert kept(np.array([0, 3]), 6).tolist() == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([[0], [1]], "neurons of 2 layers are to go, the model has 3"),
        ([[0], [1], [14]], r"L2/N14 does not exist: layer 2 has neurons 0..13"),
        ([[-1], [1], [1]], "L0/N-1 does not exist"),
        ([[0], [1], list(range(14))], "all 14 neurons of layer 2 would go"),
    ],
)
def test_neurons_that_cannot_go(sets: list[list[int]], message: str, tmp_path: Path) -> None:
    tiny_llama(torch.float32).model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        plan_pruned(tmp_path, removal(sets))


def test_neurons_out_of_order() -> None:
    with pytest.raises(InputError, match="layer 1 are not in order, or twice"):
        removal([[0], [2, 2], [1]])


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_models_that_cannot_be_pruned(tmp_path: Path) -> None:
    tiny_llama(torch.float32).model.save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(ModelError, match="its head does not predict tokens"):
        plan_pruned(tmp_path, removal(EQUAL))
    edit_config(tmp_path, architectures=["LlamaForCausalLM"], quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match=r"quantised weights \(gptq\)"):
        plan_pruned(tmp_path, removal(EQUAL))


def test_stored_weights_that_cannot_be_pruned(tmp_path: Path) -> None:
    tiny_llama(torch.float32).model.save_pretrained(tmp_path)
    whole, key = load_file(tmp_path / WEIGHTS), "model.layers.1.mlp.up_proj.weight"
    save_file(whole | {key: whole[key].to(torch.int8)}, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=f"{key} is I8, expected F64, F32, F16, BF16"):
        plan_pruned(tmp_path, removal(EQUAL))
    save_file({name: value for name, value in whole.items() if name != key}, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=f"no tensor {key}"):
        plan_pruned(tmp_path, removal(EQUAL))
    (tmp_path / WEIGHTS).rename(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors and no model\.safetensors\.index\.json"):
        plan_pruned(tmp_path, removal(EQUAL))
