"""The atlas against the demo's known truth: it finds the neurons of a category, and `fires-on` lists them.

The oracle is plain transformers: activations by hooks on documents that no part of the atlas code touches, and a
rank-sum AUC. The atlas is built here from the shipped recipe's parameters on part of the corpus.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import atlas
from atlas.build.executor import build
from atlas.build.recipe import read_recipe
from atlas.derive.labelling.split import IS_TEST

DEMO = Path(__file__).parents[2] / "data" / "demo"
TRUTH: dict[str, list[str]] = json.loads((DEMO / "truth.json").read_text())["categories"]
RECIPE = """
name = "truth"
model = "{demo}/model"
corpus = "{demo}/corpus.json"
atlas = "{folder}/truth.duckdb"
[activations]
documents = 1500
fire_quantile = 0.95
[gradients]
documents = 0
[relp]
graphs = 0
"""


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("truth")
    (folder / "truth.toml").write_text(RECIPE.format(demo=DEMO, folder=folder))
    build(read_recipe(folder / "truth.toml"))
    with atlas.open(folder / "truth.duckdb") as opened:
        yield opened


@pytest.fixture(scope="module")
def measured() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], dict[str, int]]:
    """Activations [positions, layers * d_mlp] and token ids of the last 500 documents, by plain transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO / "model")
    rows: list[list[npt.NDArray[np.float32]]] = [[] for _ in model.model.layers]
    for index, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, inputs, index=index: rows[index].append(inputs[0][0, 1:].numpy().copy())
        )
    seen: list[int] = []
    with torch.no_grad():
        for text in json.loads((DEMO / "corpus.json").read_text())[-500:]:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            model.model(ids)
            seen += ids[0, 1:].tolist()
    values = np.stack([np.concatenate(layer) for layer in rows], 1).reshape(len(seen), -1)
    return values, np.array(seen), tokenizer.get_vocab()


def auc(values: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> float:
    """Share of (inside, outside) pairs that the values order rightly (rank sum; ties are absent in practice)."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values)] = np.arange(1, len(values) + 1)
    n = int(inside.sum())
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * (len(values) - n)))


def best_listed(a: atlas.Atlas, words: list[str], measured, limit: int) -> float:
    values, seen, vocab = measured
    inside = np.isin(seen, [vocab[word] for word in words])
    listed = a.fires_on(*words, limit=limit).rows()
    return max(auc(row["polarity"] * values[:, row["layer"] * 384 + row["neuron"]], inside) for row in listed)


def test_fires_on_lists_neurons_selective_for_the_categories(a: atlas.Atlas, measured) -> None:
    known = {word for (word,) in a.sql("SELECT trim(token) FROM vocab WHERE count > 0").fetchall()}
    found = {
        name: best_listed(a, [word for word in words if word in known], measured, 3) for name, words in TRUTH.items()
    }
    selective = {name for name, value in found.items() if value > 0.95}
    assert len(selective) >= 30, found  # of 39; the issue asks for 10


def listed(label: str) -> list[str]:
    """The tokens that a rule label names: "fires on swims, eats (-s) (negative)" -> swims, eats."""
    return re.sub(r"( \([^()]*\))+$", "", label).removeprefix("fires on ").split(", ")


def aucs(measured) -> dict[str, npt.NDArray[np.float64]]:
    """Rank-sum AUC of every neuron, layers in turn, for each category that the documents mention."""
    values, seen, vocab = measured
    ranks = np.empty(values.shape, np.float32)
    np.put_along_axis(
        ranks, np.argsort(values, axis=0), np.arange(1, len(values) + 1, dtype=np.float32)[:, None], axis=0
    )
    found = {}
    for name, words in TRUTH.items():
        inside = np.isin(seen, [vocab[word] for word in words])
        n = int(inside.sum())
        if n:
            total = ranks[inside].sum(axis=0, dtype=np.float64)
            found[name] = (total - n * (n + 1) / 2) / (n * (len(values) - n))
    return found


def strongest_share(measured, neuron: int, sign: int, category: str) -> float:
    """Of the n strongest positions of a neuron, n = positions of the category, the share on the category."""
    values, seen, vocab = measured
    inside = np.isin(seen, [vocab[word] for word in TRUTH[category]])
    strongest = np.argsort(-sign * values[:, neuron])[: inside.sum()]
    return float(inside[strongest].mean())


@pytest.fixture(scope="module")
def selective(measured) -> dict[tuple[int, int], str]:
    """(neuron counted through the layers, sign) -> the one category that its activation tells apart: AUC > 0.95."""
    by_category = aucs(measured)
    names, table = list(by_category), np.stack(list(by_category.values()))
    found = {}
    for sign in (1, -1):
        above = (table if sign > 0 else 1 - table) > 0.95
        for neuron in np.flatnonzero(above.sum(axis=0) == 1):
            found[int(neuron), sign] = names[int(above[:, neuron].argmax())]
    return found


def share_named(a: atlas.Atlas, chosen: dict[tuple[int, int], str]) -> float:
    """Share of the chosen whose label lists tokens of which at least 80% belong to the category."""
    rows = a.sql(
        "SELECT layer * 384 + neuron, polarity, label FROM labels WHERE pass = 'input' AND source LIKE 'rule:%'"
    )
    labels = {(neuron, sign): label for neuron, sign, label in rows.fetchall()}
    good = [
        np.mean([token in TRUTH[category] for token in listed(labels.get(key, ""))]) >= 0.8
        for key, category in chosen.items()
    ]
    return float(np.mean(good))


def test_labels_of_selective_neurons_list_their_category(a: atlas.Atlas, measured, selective) -> None:
    # An AUC is high also where a word like "of" fires a neuron more than any category: most of the strongest positions
    # must stand on the category too. Measured: 0.98 of 86; by AUC alone 0.705 of 298 (a labeller that is told the
    # categories and takes the strongest reaches 0.75 there). Every other category by name: 0.62 of 196 and 0.86 of 102;
    # 61 of the former are of verbs_singular, which stand 29 times in these documents: 0.43.
    strict = {key: c for key, c in selective.items() if strongest_share(measured, *key, c) > 0.5}
    assert len(selective) > 250 and len(strict) > 60
    by_auc, by_both = share_named(a, selective), share_named(a, strict)
    halves = [{key: c for key, c in selective.items() if sorted(TRUTH).index(c) % 2 == half} for half in (0, 1)]
    split = ", ".join(f"{share_named(a, half):.3f} of {len(half)}" for half in halves)
    print(f"by AUC {by_auc:.3f} of {len(selective)} ({split}); by both {by_both:.3f} of {len(strict)}")
    assert by_both >= 0.9
    assert by_auc >= 0.69  # 0.705; a neuron is 0.0034, and rounding on another processor may turn a few


def test_labels_name_tokens_of_the_category(a: atlas.Atlas) -> None:
    of = {word: name for name, words in TRUTH.items() for word in words}
    named = set()
    for (label,) in a.sql("SELECT label FROM labels WHERE source = 'rule:tokens'").fetchall():
        categories = {of.get(word) for word in listed(label)}
        if len(categories) == 1 and len(listed(label)) == 5:
            named |= categories
    assert len(named - {None}) >= 30, named


def test_clear_labels_name_tokens_that_the_strongest_exemplars_stand_on(a: atlas.Atlas) -> None:
    """In documents that no label is made from."""
    rows = a.sql(f"""
        WITH standing AS (
            SELECT e.layer, e.neuron, e.polarity, list(trim(v.token)) AS tokens
            FROM exemplars e JOIN contexts c USING (context_id) JOIN vocab v ON v.token_id = c.token_ids[e.position + 1]
            WHERE e.stratum = 0 AND {IS_TEST} GROUP BY ALL)
        SELECT l.label, s.tokens FROM labels l JOIN standing s USING (layer, neuron, polarity)
        WHERE l.source IN ('rule:token', 'rule:tokens') AND l.interpretability <> 'low'
    """).fetchall()
    hit = [bool(set(listed(label)) & set(tokens)) for label, tokens in rows]
    assert len(hit) > 300
    assert np.mean(hit) > 0.9  # measured 0.98, and the same on the documents that labels are made from


def test_search_finds_aspirin(a: atlas.Atlas) -> None:
    rows = a.search("aspirin").rows()
    assert rows and all(
        "aspirin" in f"{r['label']} {r['description']} {r['input_label']} {r['output_label']}" for r in rows
    )
