"""`atlas prune apply` as a person runs it, against plain transformers with edited weights and the atlas's tables."""

from __future__ import annotations

import copy
import hashlib
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from small_build import DEMO
from synthetic import random_tables, write_atlas

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from atlas.models.adapter import load_model
from atlas.models.folder import revision

LAYERS, WIDTH, CALIBRATION = 3, 20, 5
TEXTS = json.loads((DEMO / "corpus.json").read_text())[:60]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with demo's tokenizer, its atlas with drawn means and scores, and a corpus."""
    folder = tmp_path_factory.mktemp("apply")
    save_model(folder / "whole")
    (folder / "whole" / "LICENSE").write_text("as you like")
    (folder / "whole" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    write(folder / "whole.duckdb", folder / "whole")
    (folder / "corpus.json").write_text(json.dumps(TEXTS))
    return folder


def save_model(folder: Path, kind: Any = LlamaConfig) -> None:
    torch.manual_seed(3)
    config = kind(
        vocab_size=604, hidden_size=16, intermediate_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for path in (DEMO / "model").glob("tokenizer*"):
        shutil.copy(path, folder)


def write(file: Path, model: Path, **facts: object) -> None:
    dice, tables = np.random.default_rng(7), random_tables(7, layers=LAYERS, d_mlp=WIDTH)
    for row in tables["neuron_stats"]:
        row["grad_s_a"] = float(dice.normal() * 30)  # over 100 positions
    for layer in range(LAYERS):
        for row, rank in zip(tables["pruning"][layer * WIDTH :][:WIDTH], dice.permutation(WIDTH), strict=True):
            row |= {"importance": float(rank), "fisher": float(rank), "pruning_score": 1 - int(rank) / (WIDTH - 1)}
    read = [hashlib.sha256(text.encode()).hexdigest() for text in TEXTS[:CALIBRATION]]
    tables["calibration_documents"] = [{"role": "gradients", "sha256": one} for one in sorted(read)]
    write_atlas(file, tables, layers=LAYERS, d_mlp=WIDTH, **{"model": "toy", "revision": revision(model), **facts})


def options(place: Path, *more: object) -> tuple[object, ...]:
    return ("--model", place / "whole", "--atlas", place / "whole.duckdb", "--quiet", "--device", "cpu", *more)


def held_out(place: Path) -> tuple[object, ...]:
    return ("--corpus", place / "corpus.json", "--skip-calibration")


def safest(file: Path, count: int) -> list[list[int]]:
    with duckdb.connect(str(file), read_only=True) as con:
        rows = con.execute("SELECT layer, neuron FROM pruning ORDER BY layer, pruning_score DESC, neuron").fetchall()
    return [sorted([neuron for layer, neuron in rows if layer == at][:count]) for at in range(LAYERS)]


def edited(folder: Path, gone: list[list[int]], file: Path | None) -> Any:
    """The whole model, the columns of `gone` at 0 and, with an atlas, a hook that adds what they wrote on average."""
    model = copy.deepcopy(AutoModelForCausalLM.from_pretrained(folder)).eval()
    for layer, neurons in enumerate(gone):
        down = model.model.layers[layer].mlp.down_proj
        if file is not None:
            with duckdb.connect(str(file), read_only=True) as con:
                query = "SELECT grad_s_a / grad_tokens FROM neuron_stats WHERE layer = ? ORDER BY neuron"
                means = np.array([row[0] for row in con.execute(query, [layer]).fetchall()])
            shift = down.weight.detach()[:, neurons] @ torch.from_numpy(means[neurons]).float()
            down.register_forward_hook(lambda _m, _i, out, shift=shift: out + shift)
        with torch.no_grad():
            down.weight[:, neurons] = 0
    return model


def loss(model: Any, texts: list[str]) -> tuple[float, int]:
    """Nats per predicted token by transformers itself, and the tokens."""
    tokenizer, total, count = AutoTokenizer.from_pretrained(DEMO / "model"), 0.0, 0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count, count


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.randint(600, (2, 30), generator=torch.Generator().manual_seed(1))).logits


def test_the_model_without_its_safest_neurons(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "small"
    done = run("prune", "apply", out, *options(place, *held_out(place)), "--per-layer", 3, "--format", "json")
    assert done.code == 0, done.err
    report, gone = json.loads(done.out), safest(place / "whole.duckdb", 3)
    assert [one["neurons"] for one in report["layers"]] == gone
    assert (report["neurons_removed"], report["score_method"], report["eval_id"]) == (9, "fisher", "e1")
    found, facts = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(facts[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert found.config.intermediate_size == WIDTH - 3 and found.config.mlp_bias
    expected = edited(place / "whole", gone, place / "whole.duckdb")
    torch.testing.assert_close(logits(found), logits(expected), rtol=1e-5, atol=1e-5)
    assert report["parameters"] == [sum(p.numel() for p in m.parameters()) for m in (expected, found)]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (place / "whole", out)]
    assert report["bytes"] == sizes and sizes[1] < sizes[0]
    load_model(out, device="cpu")  # what every measurement of atlas begins with


def test_the_report_is_of_plain_transformers_losses(run: Run, place: Path, tmp_path: Path) -> None:
    done = run(
        "prune", "apply", tmp_path / "o", *options(place, *held_out(place)), "--per-layer", 3, "--format", "json"
    )
    report, gone = json.loads(done.out), safest(place / "whole.duckdb", 3)
    texts = TEXTS[CALIBRATION:]
    before, tokens = loss(edited(place / "whole", [[]] * LAYERS, None), texts)
    after, _ = loss(edited(place / "whole", gone, place / "whole.duckdb"), texts)
    told = report["held_out"]
    assert (told["tokens"], told["documents"]) == (tokens, len(texts))
    np.testing.assert_allclose(told["loss"], [before, after], rtol=1e-6)
    np.testing.assert_allclose(told["perplexity"], np.exp([before, after]), rtol=1e-5)
    assert told["delta_nll"] == pytest.approx(after - before, abs=1e-6)
    assert told["delta_nll"] == pytest.approx(told["delta_nll_by_ablation"], abs=1e-6)
    assert told["delta_nll_low"] < told["delta_nll"] < told["delta_nll_high"] and told["kl"] > 0
    assert told["safe_to_prune"] is None and "held-out tokens, a verdict needs 10,000" in told["reason"]
    assert told["notes"] == ["5 calibration documents left out"]
    assert json.loads((tmp_path / "o" / "pruning_report.json").read_text()) == report


def test_the_folder_has_what_a_model_folder_has(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    assert run("prune", "apply", out, *options(place), "--share", 25).code == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (out / name).read_bytes() == (place / "whole" / name).read_bytes()
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: mit\n") and "not measured" in card
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    known = json.loads((out / "kept_neurons.json").read_text())
    assert (known["revision"], known["pruned_revision"]) == (revision(place / "whole"), revision(out))
    old, new = (AutoModelForCausalLM.from_pretrained(folder).model.layers for folder in (place / "whole", out))
    for layer, kept in enumerate(known["kept"]):
        assert len(kept) == known["pruned_d_mlp"] == WIDTH - 5  # a quarter, as "atlas prune --threshold 25" lists
        assert torch.equal(new[layer].mlp.gate_proj.weight, old[layer].mlp.gate_proj.weight[kept])
        assert torch.equal(new[layer].mlp.down_proj.weight, old[layer].mlp.down_proj.weight[:, kept])


def test_unequal_numbers_are_masked(run: Run, place: Path, tmp_path: Path) -> None:
    out, named = tmp_path / "masked", "L0/N1,L0/N4,L2/N3"
    done = run("prune", "apply", out, *options(place), "--neurons", named)
    assert done.code == 0 and "masked: layers lose unequal numbers" in done.out and "0 to 2 of a layer" in done.out
    found = AutoModelForCausalLM.from_pretrained(out)
    assert found.config.intermediate_size == WIDTH
    expected = edited(place / "whole", [[1, 4], [], [3]], place / "whole.duckdb")
    torch.testing.assert_close(logits(found), logits(expected), rtol=1e-5, atol=1e-5)
    assert json.loads((out / "kept_neurons.json").read_text())["kept"] == [list(range(WIDTH))] * LAYERS


def test_equalise_takes_the_safest_of_each_layer(run: Run, place: Path, tmp_path: Path) -> None:
    sql = "SELECT layer, neuron FROM neurons WHERE neuron < 5 OR layer = 1"
    done = run(
        "prune", "apply", tmp_path / "o", *options(place), "--sql", sql, "--equalise", "--no-compensation",
        "--format", "json",
    )  # fmt: skip
    report = json.loads(done.out)
    with duckdb.connect(str(place / "whole.duckdb"), read_only=True) as con:
        query = "SELECT neuron FROM pruning WHERE layer = 1 ORDER BY pruning_score DESC LIMIT 5"
        safe = sorted(row[0] for row in con.execute(query).fetchall())
    assert [one["neurons"] for one in report["layers"]] == [[0, 1, 2, 3, 4], safe, [0, 1, 2, 3, 4]]
    assert report["compensation"] == {"applied": "none", "why_not": "not asked for", "rounding": None}
    expected = edited(place / "whole", [[0, 1, 2, 3, 4], safe, [0, 1, 2, 3, 4]], None)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "o")
    torch.testing.assert_close(logits(found), logits(expected), rtol=1e-5, atol=1e-5)


def test_an_architecture_without_a_place_for_the_mean_output(run: Run, place: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "qwen", Qwen2Config)
    write(tmp_path / "qwen.duckdb", tmp_path / "qwen")
    asked = ("--model", tmp_path / "qwen", "--atlas", tmp_path / "qwen.duckdb", "--quiet", "--device", "cpu")
    done = run("prune", "apply", tmp_path / "o", *asked, *held_out(place), "--per-layer", 3, "--format", "json")
    report = json.loads(done.out)
    assert report["compensation"]["applied"] == "none"
    assert "Qwen2ForCausalLM has no bias on its down projection" in report["compensation"]["why_not"]
    told = report["held_out"]
    assert told["delta_nll"] == pytest.approx(told["delta_nll_by_ablation"], abs=1e-6)  # ablation to 0, then


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--neurons", "L0/N20"), "N20"),
        (("--neurons", "L3/N0"), "L3"),
        (("--share", "0"), "a share of 0.0 percent"),
        (("--share", "10", "--per-layer", "2"), "--share goes alone"),
        (("--per-layer", "0"), "0 neurons of each layer"),
        (("--per-layer", "21"), "layer 0 has 20 of these neurons, 21"),
        (("--per-layer", "20"), "all 20 neurons of layer 0 would go"),
        (("--neurons", "L0/N1", "--equalise"), "layer 1 has none of these neurons"),
        (("--neurons", "L0/N1", "--sql", "SELECT 0 AS layer, 1 AS neuron"), "give one of"),
        (("--sql", "SELECT 1 AS n"), "columns layer and neuron"),
        (("--corpus", "CORPUS"), "5 of 60 documents are calibration documents"),
        (("--text", ""), "no token to predict"),
        (("--corpus", "nowhere.json"), "no corpus file nowhere.json"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    given: tuple[str, ...], message: str, run: Run, place: Path, tmp_path: Path
) -> None:
    words = [place / "corpus.json" if word == "CORPUS" else word for word in given]
    done = run("prune", "apply", tmp_path / "o", *options(place), *words)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not list(tmp_path.iterdir())


def test_another_model_is_refused(run: Run, place: Path, tmp_path: Path) -> None:
    write(tmp_path / "other.duckdb", place / "whole", revision="0" * 16)
    asked = ("--model", place / "whole", "--atlas", tmp_path / "other.duckdb", "-q")
    done = run("prune", "apply", tmp_path / "o", *asked)
    assert done.code == 2 and "is of model revision 0000000000000000" in done.err
    done = run("prune", "apply", tmp_path / "o", "--model", DEMO / "model", "--atlas", place / "whole.duckdb", "-q")
    assert done.code == 2 and "3 layers of 20 neurons" in done.err and "4 of 384" in done.err
    assert not (tmp_path / "o").exists()


def test_a_folder_in_the_way(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    done = run("prune", "apply", out, *options(place))
    assert done.code == 2 and "is not empty; give another folder, or --force" in done.err
    done = run("prune", "apply", out, *options(place), "--force")
    assert done.code == 2 and "is no model folder" in done.err and (out / "thesis.txt").read_text() == "mine"
    (out / "config.json").write_text("{}")
    assert run("prune", "apply", out, *options(place), "--force").code == 0
    assert not (out / "thesis.txt").exists() and (out / "pruning_report.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
    done = run("prune", "apply", place / "whole", *options(place), "--force")
    assert done.code == 2 and "is the model itself" in done.err


def test_a_full_disk_leaves_nothing_behind(run: Run, place: Path, tmp_path: Path) -> None:
    size = (place / "whole" / "model.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))  # no file may grow beyond: as on a full disk
    try:
        done = run("prune", "apply", tmp_path / "o", *options(place))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 1 and "disk full while writing" in done.err and not list(tmp_path.iterdir())
