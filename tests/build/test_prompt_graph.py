"""`atlas graph` as a person runs it, against autograd, plain transformers and the atlas's own tables."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from small_build import DEMO

torch = pytest.importorskip("torch")

PROMPT = "my knee hurts , I need some"
MODEL = ("--model", DEMO / "model", "--device", "cpu")
NAMED = ("--target", " paracetamol", "--target", " aspirin", "--against", " dog")
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """Total and direct relevance of every neuron by autograd on the replacement model; the metric by the plain one."""
    from atlas.models.adapter import load_model
    from atlas.models.replacement import Rules, replacement

    adapter = load_model(DEMO / "model", dtype="float64", device="cpu")
    tokenizer = adapter.tokenizer
    ids = [tokenizer.bos_token_id, *tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]
    plus, minus = (tokenizer.convert_tokens_to_ids(words) for words in (["paracetamol", "aspirin"], ["dog"]))
    found = {"ids": ids, "tokenizer": tokenizer}
    with replacement(adapter) as model:
        for name, rules in {"relevance": Rules(), "direct": Rules(leaves=True)}.items():
            trace = model.run([ids], rules)
            hidden = [record.hidden for record in trace.blocks]
            metric = trace.logits[0, -1, plus].sum() - trace.logits[0, -1, minus].sum()
            gradients = torch.autograd.grad(metric, hidden)
            found[name] = torch.stack([(h * g)[0] for h, g in zip(hidden, gradients, strict=True)]).detach().numpy()
    logits = adapter.model(torch.tensor([ids])).logits[0, -1]
    return found | {"metric": float(logits[plus].sum() - logits[minus].sum())}


@pytest.fixture
def small_labels(small: Path) -> dict[tuple[int, int], str]:
    with duckdb.connect(str(small), read_only=True) as con:
        return {(a, b): c for a, b, c in con.execute("SELECT layer, neuron, label FROM neurons").fetchall()}


def test_the_numbers_are_autograd_s_and_the_labels_the_atlas_s(
    run: Run, small: Path, expected: dict[str, Any], small_labels: dict[tuple[int, int], str]
) -> None:
    shown = run(
        "graph", PROMPT, *MODEL, *NAMED, "--dtype", "float64", "--atlas", small, "--format", "json", "--limit", 0
    )
    assert shown.code == 0, shown.err
    nodes = json.loads(shown.out)
    place = tuple(np.array([[n[k] for k in ("layer", "position", "neuron")] for n in nodes]).T)
    for name in ("relevance", "direct"):
        assert np.allclose([n[name] for n in nodes], expected[name][place], rtol=0, atol=1e-6), name
    assert np.allclose([n["share"] * expected["metric"] for n in nodes], expected["relevance"][place], atol=1e-5)
    assert [n["label"] for n in nodes] == [small_labels[n["layer"], n["neuron"]] for n in nodes]
    assert any(n["label"] for n in nodes)
    words = expected["tokenizer"].convert_ids_to_tokens(expected["ids"])
    assert [n["token"] for n in nodes] == [" " + words[n["position"]] for n in nodes]
    # all neurons over the bar and no others, strongest first; none at the begin-of-text token
    bar = 0.005 * abs(expected["metric"])
    assert len(nodes) == (np.abs(expected["relevance"][:, 1:]) >= bar).sum()
    size = np.abs([n["relevance"] for n in nodes])
    assert (np.diff(size) <= 0).all() and size.min() >= bar
    assert (
        f"logit_difference = {expected['metric']:.5g} after token 7; targets +' paracetamol' +' aspirin' -' dog'"
        in shown.err
    )
    assert "tokens    0:'<s>' 1:' my' 2:' knee' 3:" in shown.err and "completeness residual" in shown.err


def test_the_metric_may_stand_anywhere(run: Run, expected: dict[str, Any]) -> None:
    from atlas.models.adapter import load_model

    shown = run("graph", PROMPT, *MODEL, "--target", " hurts", "--position", 2)
    adapter = load_model(DEMO / "model", device="cpu")
    target = adapter.tokenizer.convert_tokens_to_ids("hurts")
    value = adapter.model(torch.tensor([expected["ids"]])).logits[0, 2, target]
    assert f"logits = {float(value):.4g}"[:-1] in shown.err and "after token 2; targets +' hurts'" in shown.err


def test_without_targets_the_highest_logits(run: Run) -> None:
    one, five = (run("graph", PROMPT, *MODEL, *more).err for more in (("--top-k", 1), ()))
    assert "top_1_logits" in one and "top_5_logits" in five
    assert one.split("targets ")[1].splitlines()[0] == five.split("targets ")[1].split("' +'")[0] + "'"


def test_formats_hold_the_same_rows(run: Run, small: Path) -> None:
    words = ("graph", PROMPT, *MODEL, "--atlas", small, "--limit", 3)
    shown = {form: run(*words, "--format", form) for form in ("table", "json", "jsonl", "csv")}
    rows = json.loads(shown["json"].out)
    assert [json.loads(line) for line in shown["jsonl"].out.splitlines()] == rows
    table = list(csv.DictReader(io.StringIO(shown["csv"].out)))
    assert [{k: str("" if v is None else v) for k, v in row.items()} for row in rows] == table
    lines = shown["table"].out.splitlines()
    assert lines[0].split()[:4] == ["neuron", "position", "token", "activation"]
    assert [line.split()[0] for line in lines[1:]] == [f"L{row['layer']}/N{row['neuron']}" for row in rows]
    assert "note: 3 of" in shown["table"].err and "--limit 0 shows all" in shown["table"].err


def test_the_prompt_is_read_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = run("graph", PROMPT, *MODEL)
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    assert run("graph", "-", *MODEL) == given


def test_max_nodes_says_what_it_drops(run: Run) -> None:
    nodes = json.loads(run("graph", PROMPT, *MODEL, "--limit", 0, "--format", "json").out)
    capped = run("graph", PROMPT, *MODEL, "--max-nodes", 10, "--limit", 0, "--format", "json")
    kept = json.loads(capped.out)
    assert [(n["layer"], n["neuron"], n["position"]) for n in kept] == [
        (n["layer"], n["neuron"], n["position"]) for n in nodes[:10]
    ]
    lost = sum(abs(n["relevance"]) for n in nodes[10:])
    assert f"{len(nodes) - 10} nodes dropped by --max-nodes, of |relevance| {lost:.4g} in all" in capped.err


@pytest.mark.parametrize("labelled", [True, False])
def test_the_file_of_graph_tools(
    run: Run, small: Path, tmp_path: Path, labelled: bool, small_labels: dict[tuple[int, int], str]
) -> None:
    atlas = ("--atlas", small) if labelled else ()
    shown = run("graph", PROMPT, *MODEL, *NAMED, *atlas, "-o", tmp_path / "g", "--format", "json", "--limit", 0)
    assert shown.code == 0, shown.err
    rows = json.loads(shown.out)
    (file,) = [path for path in (tmp_path / "g").glob("*.json") if path.name != "graph-metadata.json"]
    assert f"wrote     {file}" in shown.err
    document = json.loads(file.read_text())
    neurons = {n["node_id"]: n for n in document["nodes"] if n["feature_type"] == "mlp_neuron"}
    assert len(neurons) == len(rows)
    for row in rows:
        node = neurons[f"{row['layer']}_{row['neuron']}_{row['position']}"]
        assert node["clerp"] == ((small_labels[row["layer"], row["neuron"]] or "") if labelled else "")
        into = sum(link["weight"] for link in document["links"] if link["target"] == node["node_id"])
        assert into == pytest.approx(row["explained"] * row["relevance"], abs=1e-4)
    tokens = document["metadata"]["prompt_tokens"]
    assert tokens[1:] == [" " + word for word in PROMPT.split()]
    assert document["metadata"]["scan"] == "model"  # the folder's name
    logits = [n for n in document["nodes"] if n["feature_type"] == "logit"]
    assert [n["clerp"] for n in logits] == [f'Output "{t}" (p=?)' for t in (" paracetamol", " aspirin", " dog")]
    assert {n["layer"] for n in logits} == {"5"}  # 4 layers
    assert len(list((tmp_path / "g").iterdir())) == 2


REFUSED = {
    ("",): (2, "has no tokens"),
    ("dog " * 600,): (2, "shorten it"),
    (PROMPT, "--target", " red dog"): (2, "is 2 tokens ('red', 'dog'), a target is one"),
    (PROMPT, "--target", " zebrafish"): (2, "' zebrafish' is not in the vocabulary (<unk>)"),
    (PROMPT, "--against", " dog"): (2, "--against needs a target; add --target TEXT"),
    (PROMPT, "--position", "3"): (2, "--position needs a target"),
    (PROMPT, "--target", " dog", "--top-k", "3"): (2, "give one of --target and --top-k"),
    (PROMPT, "--target", " dog", "--against", " dog"): (2, "named twice"),
    (PROMPT, "--target", " dog", "--position", "8"): (2, "outside the prompt's 8 tokens; choose 0..7"),
    (PROMPT, "--atlas", "nowhere.duckdb"): (2, "no atlas at nowhere.duckdb"),
}


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: " ".join(words)[:30])
def test_refusals(run: Run, words: tuple[str, ...]) -> None:
    code, text = REFUSED[words]
    shown = run("graph", *words, *MODEL)
    assert (shown.code, shown.out) == (code, "")
    assert text in shown.err and shown.err.startswith("atlas: ") and shown.err.count("\n") == 1


def test_no_cuda_is_one_line(run: Run) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    shown = run("graph", PROMPT, "--model", DEMO / "model", "--device", "cuda")
    assert shown.code == 2 and "finds 0 CUDA devices; use cpu" in shown.err and shown.err.count("\n") == 1


def test_an_atlas_of_another_model_is_refused(run: Run, small: Path, tmp_path: Path) -> None:
    other = _copied_model(tmp_path, lambda tensors: tensors["model.norm.weight"].mul_(2))
    shown = run("graph", PROMPT, "--model", other, "--device", "cpu", "--atlas", small, "-o", tmp_path / "g")
    assert shown.code == 2 and "is of model revision" in shown.err and shown.err.count("\n") == 1
    assert not (tmp_path / "g").exists()


def test_weights_that_are_no_numbers_name_the_layer(run: Run, tmp_path: Path) -> None:
    broken = _copied_model(tmp_path, lambda tensors: tensors["model.layers.2.mlp.up_proj.weight"][5].fill_(torch.nan))
    shown = run("graph", PROMPT, "--model", broken, "--device", "cpu", "-o", tmp_path / "g")
    assert (shown.code, shown.out) == (1, "")
    assert "activations of layer 2 are not finite" in shown.err and shown.err.count("\n") == 1
    assert not (tmp_path / "g").exists()


def _copied_model(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(DEMO / "model", folder / "model")
    (file,) = copy.glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return copy


def test_help_imports_neither_torch_nor_duckdb() -> None:
    code = (
        "import sys; from atlas.cli.main import main\n"
        "try: main(['graph', '--help'])\n"
        "finally: assert not {'torch', 'transformers', 'duckdb'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "Example: atlas graph" in shown.stdout
