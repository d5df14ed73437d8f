"""Turn the shipped demo folder into checks that it is what its script says: small, repeatable, learned, selective."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
np = pytest.importorskip("numpy")

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "data" / "demo"
LAYERS, NEURONS = 4, 384
MOST_BYTES, MOST_CORPUS_BYTES = 5_000_000, 900_000
FEWEST_CATEGORIES, FEWEST_SELECTIVE, AUC = 14, 10, 0.95


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Load the generator, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("make_demo_model", ROOT / "scripts" / "make_demo_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name while the class body runs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "make_demo_model", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    """Read the categories, the seed and the losses."""
    loaded: dict[str, Any] = json.loads((DEMO / "truth.json").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Read the shipped documents."""
    loaded: list[str] = json.loads((DEMO / "corpus.json").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Load the tokenizer as any user would."""
    return transformers.AutoTokenizer.from_pretrained(DEMO / "model", local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    """Load the model as any user would."""
    torch.set_num_threads(2)
    return transformers.AutoModelForCausalLM.from_pretrained(DEMO / "model", local_files_only=True).eval()


def test_folder_is_small_and_whole() -> None:
    """The folder stays under 5 MB and holds what the docstring promises."""
    files = [path for path in DEMO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert (DEMO / "corpus.json").stat().st_size < MOST_CORPUS_BYTES
    names = {path.relative_to(DEMO).as_posix() for path in files}
    assert {"truth.json", "model/config.json", "model/model.safetensors", "model/tokenizer.json"} <= names


def test_model_is_the_promised_llama(model: Any) -> None:
    """The architecture is the one that the atlas demo names."""
    config = model.config
    assert type(model).__name__ == "LlamaForCausalLM"
    assert (config.num_hidden_layers, config.intermediate_size) == (LAYERS, NEURONS)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert config.tie_word_embeddings
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_truth_tokens_are_in_the_vocabulary_once(truth: dict[str, Any], tokenizer: Any) -> None:
    """Each category's tokens are spelled as the vocabulary spells them and belong to no second category."""
    vocabulary, categories = tokenizer.get_vocab(), truth["categories"]
    assert len(categories) >= FEWEST_CATEGORIES
    assert "aspirin" in categories["drugs"]
    tokens = [token for words in categories.values() for token in words]
    assert [token for token in tokens if token not in vocabulary] == []
    assert [token for token, count in Counter(tokens).items() if count > 1] == []


def test_tokenizer_puts_bos_first_and_reads_back(corpus: list[str], tokenizer: Any) -> None:
    """Every document round-trips without an unknown token, <s> first, within the context."""
    for text, ids in zip(corpus, tokenizer(corpus)["input_ids"], strict=True):
        assert ids[0] == tokenizer.bos_token_id == 1
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= tokenizer.model_max_length
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_corpus_comes_from_the_seed_byte_for_byte(script: ModuleType, truth: dict[str, Any], tmp_path: Path) -> None:
    """The script's generator writes the shipped corpus again."""
    script.write_json(tmp_path / "corpus.json", script.shipped_corpus(truth["seed"]))
    assert (tmp_path / "corpus.json").read_bytes() == (DEMO / "corpus.json").read_bytes()
    assert script.categories() == truth["categories"]


def test_corpus_is_held_out(script: ModuleType, truth: dict[str, Any], corpus: list[str]) -> None:
    """The first 5000 training documents hold no shipped one."""
    rng = script.random.Random(f"{truth['seed']}:train")
    assert not set(corpus) & {script.document(rng) for _ in range(5000)}


def test_another_seed_gives_another_corpus(script: ModuleType, corpus: list[str]) -> None:
    """The seed matters."""
    assert script.shipped_corpus(8) != corpus


def test_training_repeats_on_this_machine(script: ModuleType) -> None:
    """Two steps of training from one seed give the same weights twice."""
    weights = []
    for _ in range(2):
        small = script.make_model(3, len(script.vocabulary()))
        script.train(small, 3, 2)
        weights.append(small.model.layers[1].mlp.down_proj.weight.detach().numpy())
    assert np.array_equal(*weights)


def test_full_folder_is_refused(script: ModuleType, tmp_path: Path) -> None:
    """Without --force nothing that exists is replaced."""
    (tmp_path / "kept.txt").write_text("kept", "utf-8")
    with pytest.raises(SystemExit):
        script.main(["--out", str(tmp_path)])
    assert (tmp_path / "kept.txt").read_text("utf-8") == "kept"


def test_model_beats_the_counts(truth: dict[str, Any], corpus: list[str], model: Any, tokenizer: Any) -> None:
    """On 200 documents the model's loss lies under both baselines and near the one written down."""
    words = Counter(word for text in corpus for word in text.split())
    unigram = -sum(count * math.log(count / words.total()) for count in words.values()) / words.total()
    losses = truth["losses"]
    assert unigram == pytest.approx(losses["unigram"], abs=1e-9)
    total = tokens = 0.0
    for text in corpus[:200]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert total / tokens < losses["bigram"] - 0.5 < losses["unigram"]
    assert total / tokens == pytest.approx(losses["model"], abs=0.1)


def neurons_by_token(model: Any, tokenizer: Any, texts: list[str]) -> tuple[Any, Any]:
    """Give the token ids and the down_proj inputs of every position but <s>, all layers side by side."""
    seen: list[Any] = []
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0, 1:]))
        for layer in model.model.layers
    ]
    ids, rows = [], []
    for text in texts:
        seen.clear()
        one = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            model(input_ids=one)
        ids.append(one[0, 1:])
        rows.append(torch.cat(seen, dim=1))
    for hook in hooks:
        hook.remove()
    return torch.cat(ids).numpy(), torch.cat(rows).numpy()


def test_categories_have_neurons(truth: dict[str, Any], corpus: list[str], model: Any, tokenizer: Any) -> None:
    """At least 10 categories have a neuron, of either sign, with an AUC over 0.95 on 400 documents."""
    ids, acts = neurons_by_token(model, tokenizer, corpus[:400])
    assert acts.shape[1] == LAYERS * NEURONS
    ranks = np.empty(acts.shape, dtype=np.float64)
    np.put_along_axis(ranks, np.argsort(acts, axis=0), np.arange(1.0, len(ids) + 1)[:, None], axis=0)
    found = {}
    for name, words in truth["categories"].items():
        inside = np.isin(ids, tokenizer.convert_tokens_to_ids(words))
        count = inside.sum()
        auc = (ranks[inside].sum(axis=0) - count * (count + 1) / 2) / (count * (len(ids) - count))
        found[name] = max(auc.max(), 1 - auc.min())
    assert sum(auc > AUC for auc in found.values()) >= FEWEST_SELECTIVE, found
