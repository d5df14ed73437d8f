"""Transcoders of MLP neurons: exact against plain transformers, in the form of sae-lens, loaded by the real one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from synthetic import write_atlas
from transformers import AutoModelForCausalLM, AutoTokenizer

import atlas
from atlas import InputError, ModelError
from atlas.build.saelens import SaelensPlan, export_saelens
from atlas.cli import main as cli
from atlas.models.folder import revision

DEMO = Path(__file__).parents[2] / "data" / "demo" / "model"
READER = Path(__file__).with_name("saelens_reader.py")
TEXT = "in Lima people speak Spanish . the cat chased two mice ."


def atlas_of(folder: Path, model: Path) -> Path:
    """An atlas that only says which model it is of."""
    config = json.loads((model / "config.json").read_text())
    layers = config.get("num_hidden_layers") or config["n_layer"]
    d_mlp = config.get("intermediate_size") or config.get("n_inner") or 4 * config["n_embd"]
    keys = [(layer, n) for layer in range(layers) for n in range(d_mlp)]
    rows = [{"layer": layer, "neuron": n, "feature_id": layer * d_mlp + n} for layer, n in keys]
    facts = {"model": "demo", "revision": revision(model), "context_length": 128, "bos_policy": "every context ..."}
    return write_atlas(folder / "m.duckdb", {"neurons": rows}, layers=layers, d_mlp=d_mlp, **facts)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return atlas_of(tmp_path_factory.mktemp("a"), DEMO)


def mlp_inputs_and_outputs(model: Path, layer: int) -> tuple[Any, Any, Any]:
    """a [T, d_mlp], MLP output [T, d] and the down projection's weight [d, d_mlp], by plain transformers."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(model)(TEXT, return_tensors="pt")["input_ids"]
    body = getattr(loaded, loaded.base_model_prefix)
    block = body.layers[layer] if hasattr(body, "layers") else body.h[layer]
    down = getattr(block.mlp, "down_proj", None) or block.mlp.c_proj
    seen: dict[str, Any] = {}
    down.register_forward_hook(lambda _, inputs, output: seen.update(a=inputs[0][0], out=output[0]))
    with torch.no_grad():
        loaded(tokens)
    weight = down.weight if hasattr(block.mlp, "down_proj") else down.weight.T
    return seen["a"], seen["out"], weight.detach()


def computed(folder: Path, a: Any) -> Any:
    """What a transcoder with ReLU computes, from its definition."""
    w = load_file(folder / "sae_weights.safetensors")
    return torch.relu(a @ w["W_enc"] + w["b_enc"]) @ w["W_dec"] + w["b_dec"]


def models(shared_models: Path | None) -> list[Path]:
    return [DEMO, *([] if shared_models is None else sorted(shared_models.iterdir()))]


def test_a_whole_layer_computes_the_mlp(tmp_path: Path, shared: Path) -> None:
    for model in models(shared / "models"):
        (tmp_path / model.name).mkdir()
        with atlas.open(atlas_of(tmp_path / model.name, model)) as opened:
            layer = opened.layers - 1
            export_saelens(opened, model, tmp_path / model.name / "out", SaelensPlan(opened.select(f"layer:{layer}")))
        a, out, _ = mlp_inputs_and_outputs(model, layer)
        found = computed(tmp_path / model.name / "out" / f"blocks.{layer}.mlp", a)
        assert torch.allclose(found, out, atol=1e-5, rtol=1e-4), model.name


def test_chosen_neurons_give_their_part(demo: Path, tmp_path: Path) -> None:
    with atlas.open(demo) as opened:
        chosen = [opened.id_of(one) for one in ("L1/N3", "L1/N9", "L2/N0")]
        made = export_saelens(opened, DEMO, tmp_path / "out", SaelensPlan(chosen))
    assert [(folder.name, features) for folder, features, _ in made.folders] == [
        ("blocks.1.mlp", 4),
        ("blocks.2.mlp", 2),
    ]
    a, _, weight = mlp_inputs_and_outputs(DEMO, 1)
    part = a[:, [3, 9]] @ weight[:, [3, 9]].T
    assert torch.allclose(computed(tmp_path / "out" / "blocks.1.mlp", a), part, atol=1e-6)
    cfg = json.loads((tmp_path / "out" / "blocks.1.mlp" / "cfg.json").read_text())
    assert cfg["metadata"]["neuron_indices"] == [3, 3, 9, 9] and cfg["metadata"]["polarity"] == [1, -1, 1, -1]
    assert (cfg["d_in"], cfg["d_sae"], cfg["d_out"]) == (a.shape[1], 4, weight.shape[0])
    assert cfg["metadata"]["hook_name"] == "blocks.1.mlp.hook_post" and cfg["metadata"]["prepend_bos"] is True


def test_one_sign_gives_one_part_of_the_activation(demo: Path, tmp_path: Path) -> None:
    a, _, weight = mlp_inputs_and_outputs(DEMO, 0)
    with atlas.open(demo) as opened:
        for sign in (1, -1):
            export_saelens(opened, DEMO, tmp_path / str(sign), SaelensPlan([5], (sign,)))
            part = sign * torch.relu(sign * a[:, [5]]) @ weight[:, [5]].T
            assert torch.allclose(computed(tmp_path / str(sign) / "blocks.0.mlp", a), part, atol=1e-6)


def test_the_real_sae_lens_loads_it(demo: Path, tmp_path: Path) -> None:
    python = os.environ.get("ATLAS_SAELENS_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("sae_lens") is None:
        pytest.skip(
            "no sae-lens here (its pins need an environment of its own); set ATLAS_SAELENS_PYTHON to its python"
        )
    with atlas.open(demo) as opened:
        export_saelens(opened, DEMO, tmp_path / "out", SaelensPlan(opened.select("layer:2")))
    a, out, _ = mlp_inputs_and_outputs(DEMO, 2)
    np.save(tmp_path / "a.npy", a.numpy())
    words = [
        python,
        str(READER),
        str(tmp_path / "out" / "blocks.2.mlp"),
        str(tmp_path / "a.npy"),
        str(tmp_path / "o.npy"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Transcoder" in done.stdout
    assert np.abs(np.load(tmp_path / "o.npy") - out.numpy()).max() < 1e-5


def test_the_same_atlas_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    with atlas.open(demo) as opened:
        for name in "ab":
            export_saelens(opened, DEMO, tmp_path / name, SaelensPlan([5, 400]))
    for path in (tmp_path / "a").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_what_is_refused(demo: Path, tmp_path: Path, shared: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with atlas.open(demo) as opened:
        with pytest.raises(InputError, match=r"is not empty"):
            export_saelens(opened, DEMO, tmp_path / "full", SaelensPlan([1]))
        with pytest.raises(InputError, match=r"would take .* GB; choose fewer"):
            export_saelens(opened, DEMO, tmp_path / "out", SaelensPlan([1], most_bytes=10))
        with pytest.raises(InputError, match=r"give the folder of the atlas's model"):
            export_saelens(opened, shared / "models" / "stories260K-hf", tmp_path / "out", SaelensPlan([1]))
    other = write_atlas(tmp_path / "o.duckdb", {"neurons": []}, layers=4, d_mlp=384, revision="other")
    with atlas.open(other) as opened, pytest.raises(InputError, match=r"is of model revision other"):
        export_saelens(opened, DEMO, tmp_path / "out", SaelensPlan([1]))
    assert not (tmp_path / "out").exists()


def test_a_norm_behind_the_mlp_is_refused(tmp_path: Path) -> None:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    torch.manual_seed(0)
    Olmo2ForCausalLM(config).save_pretrained(tmp_path / "olmo2")
    with (
        atlas.open(atlas_of(tmp_path, tmp_path / "olmo2")) as opened,
        pytest.raises(ModelError, match="no transcoder computes what its neurons write"),
    ):
        export_saelens(opened, tmp_path / "olmo2", tmp_path / "out", SaelensPlan([1]))


def test_the_command(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATLAS_FILE", str(demo))
    words = [
        "export",
        "saelens",
        "L3/N1",
        "L3/N2",
        "--model",
        str(DEMO),
        "-o",
        str(tmp_path / "out"),
        "--sign",
        "+",
        "-q",
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0 and "blocks.3.mlp  2 features" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out" / "blocks.3.mlp").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
