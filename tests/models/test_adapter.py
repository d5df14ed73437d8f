"""Models by role: what loads, what is refused and why."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GemmaConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXJapaneseConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
)

from atlas.errors import AtlasError, InputError, ModelError
from atlas.models.adapter import Adapter, adapt, load_model, weight
from atlas.models.folder import revision
from atlas.models.norm import norm_of

SHARED = Path(os.environ.get("ATLAS_SHARED", Path(__file__).parents[2].parent / "shared"))
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 8,
            "short_factor": [1.0, 1.0], "long_factor": [2.0, 4.0], "factor": 4.0}  # fmt: skip
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)
TINY = {"vocab_size": 29, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip


def shared_model(name: str) -> Path:
    folder = SHARED / "data" / "models" / name
    if not folder.is_dir():
        pytest.skip(f"needs {name}; set ATLAS_SHARED to the folder of shared data")
    return folder


def in_memory(model: nn.Module) -> Adapter:
    return adapt(model, None, name="tiny", revision="0" * 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small complete Llama folder with a word-level tokenizer, made here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    where = tmp_path / "tiny"
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(where)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "hello": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>").save_pretrained(where)
    return where


def test_trained_llama_tells_its_story() -> None:
    adapter = load_model(shared_model("stories260K-hf"))
    ids = torch.tensor([[adapter.bos_token_id]])
    with torch.no_grad():
        for _ in range(200):
            ids = torch.cat([ids, adapter.model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert adapter.tokenizer.decode(ids[0], skip_special_tokens=True).strip().startswith(STORY)
    spec = adapter.spec
    assert (spec.layers, spec.d_mlp, spec.d_model, spec.vocab, spec.context, spec.gated) == (5, 172, 64, 512, 512, True)
    assert (spec.architecture, spec.norm_placement, adapter.bos_token_id) == ("LlamaForCausalLM", "pre", 1)


def test_trained_gpt2_roles() -> None:
    adapter = load_model(shared_model("slm4096-hf"))
    spec = adapter.spec
    assert (spec.layers, spec.d_mlp, spec.d_model, spec.vocab, spec.context, spec.gated) == (4, 256, 64, 54, 128, False)
    assert adapter.bos_token_id is None and adapter.position_embedding is not None
    assert weight(adapter.blocks[0].down).shape == (64, 256)
    assert weight(adapter.blocks[0].up).shape == (256, 64)
    stored = dict(adapter.model.named_parameters())["transformer.h.0.mlp.c_proj.weight"]
    assert weight(adapter.blocks[0].down).data_ptr() == stored.data_ptr()


def test_folder_loads_quietly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    adapter = load_model(str(folder), dtype="float64", device="cpu", attention="eager")
    assert (adapter.spec.name, adapter.dtype, adapter.bos_token_id) == ("tiny", torch.float64, 1)
    assert not adapter.model.training and not any(p.requires_grad for p in adapter.model.parameters())
    assert capfd.readouterr() == ("", "")


def test_revision_is_the_content(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert load_model(copy).spec.revision == load_model(folder).spec.revision == revision(folder)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert revision(copy) != revision(folder)
    assert len(revision(copy)) == 16


def broken(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "garbage":
        weights.write_bytes(b"not a safetensors file at all")
    elif how == "no weights":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "missing tensor":
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif how == "wrong shape":
        tensors["model.norm.weight"] = torch.ones(5)
        save_file(tensors, weights, metadata={"format": "pt"})
    elif how == "index":
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00002-of-00002.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "no tokenizer":
        for path in folder.glob("tokenizer*"):
            path.unlink()
    elif how == "bad tokenizer":
        (folder / "tokenizer.json").write_text("{")
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "bad config":
        (folder / "config.json").write_text("{")
    elif how == "unknown":
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "frobnicator", "architectures": ["FrobnicatorForCausalLM"]}
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("truncated", ModelError, "truncated or damaged"),
        ("garbage", ModelError, "truncated or damaged"),
        ("no weights", InputError, "no \\*.safetensors"),
        ("missing tensor", ModelError, "lacks weights for model.layers.1.mlp.up_proj.weight"),
        ("wrong shape", ModelError, "model.norm|do not fit"),
        ("index", ModelError, "names model-00002-of-00002.safetensors"),
        ("no tokenizer", InputError, "no tokenizer"),
        ("bad tokenizer", InputError, "no usable tokenizer"),
        ("no config", InputError, "no config.json"),
        ("bad config", ModelError, "not valid JSON"),
        ("unknown", ModelError, "FrobnicatorForCausalLM"),
    ],
)
def test_broken_folders_say_what_to_do(folder: Path, how: str, kind: type[AtlasError], says: str) -> None:
    broken(folder, how)
    with pytest.raises(kind, match=says) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_wrong_arguments(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="no model folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(InputError, match="no model folder"):
        load_model("/absent/model")
    with pytest.raises(InputError, match="is a file"):
        load_model(folder / "config.json")
    with pytest.raises(InputError, match="float32"):
        load_model(folder, dtype="int4")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (Phi3Config(**TINY), "no MLP up projection"),
        (CohereConfig(**TINY), "its norms are input_layernorm, which is neither"),
        (GPTJConfig(vocab_size=29, n_embd=16, n_layer=2, n_head=4, rotary_dim=2), "its norms are ln_1"),
        (OPTConfig(vocab_size=29, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=20), "list of"),
        (GraniteConfig(**TINY, embedding_multiplier=3.0), "the input of block 0 does not"),
        (GraniteConfig(**TINY, residual_multiplier=0.5), "the input of block 0 MLP norm"),
        (GraniteConfig(**TINY, logits_scaling=2.0), "the unembedding"),
        (LlamaConfig(**TINY, hidden_act="sigmoid"), "activation of block 0 is not 0 at 0"),
        (GPTBigCodeConfig(vocab_size=29, n_embd=16, n_layer=2, n_head=4), "attention"),
        (GPTNeoXJapaneseConfig(vocab_size=29, hidden_size=16, num_hidden_layers=2, num_attention_heads=4), "attention"),
        (LlamaConfig(**TINY, rope_parameters=LONGROPE), "longrope positions depend on what else is in a batch"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PreTrainedConfig) else "",
)
def test_other_architectures_are_refused_by_what_is_missing(config: PreTrainedConfig, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        in_memory(AutoModelForCausalLM.from_config(config))
    assert "; use a" in str(caught.value)


@pytest.mark.parametrize(
    "scaled",
    [{"embedding_multiplier": 1.09}, {"residual_multiplier": 0.9}, {"logits_scaling": 1.09}],
    ids=lambda value: next(iter(value)),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_scales_are_found_in_half_precision_too(scaled: dict[str, float], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(GraniteConfig(**TINY, embedding_multiplier=1.0))
    model = AutoModelForCausalLM.from_config(GraniteConfig(**TINY, **scaled))
    for one in (plain, model):
        for name, parameter in one.named_parameters():
            if "norm" not in name:
                parameter.data.normal_(0, 0.3)
    with pytest.raises(ModelError, match="does not compute what its role says"):
        in_memory(model.to(dtype))


def test_a_token_that_is_not_a_number_does_not_hide_a_fault() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GraniteConfig(**TINY, embedding_multiplier=12.0))
    first = torch.randint(29, (1, 24), generator=torch.Generator().manual_seed(0))[0]
    spared = set(torch.randint(29, (1, 24), generator=torch.Generator().manual_seed(1))[0].tolist())
    model.get_input_embeddings().weight.data[next(t for t in first.tolist() if t not in spared)] = float("nan")
    with pytest.raises(ModelError, match="the input of block 0 does not"):
        in_memory(model)


def test_gain_of_one_plus_weight_is_found_in_any_family() -> None:
    torch.manual_seed(0)
    adapter = in_memory(AutoModelForCausalLM.from_config(GemmaConfig(**TINY, head_dim=4)))
    stored = adapter.blocks[0].mlp_norm.weight
    assert torch.equal(norm_of(adapter.blocks[0].mlp_norm).weight, stored + 1)


def test_self_check_names_the_module() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    in_memory(model)
    mlp = model.model.layers[1].mlp
    mlp.register_forward_hook(lambda _m, _a, out: 1.01 * out)
    with pytest.raises(ModelError, match="block 1 MLP"):
        in_memory(model)


def test_self_check_finds_a_scaled_residual() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=29, n_embd=16, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0))
    in_memory(model)
    model.transformer.h[1].register_forward_hook(lambda _m, _a, out: 1.01 * out)
    with pytest.raises(ModelError, match="input of the final norm"):
        in_memory(model)


def test_not_a_number_weights_load() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    assert in_memory(model).spec.layers == 2
