"""Statistics of labels against counts in plain Python over the tables of the drawn atlas."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.errors import InputError

LAYERS, D_MLP = 3, 8


def drawn(seed: int) -> list[dict]:
    dice, made = random.Random(seed), []
    for _ in range(150):
        ok = dice.random() < 0.9
        made.append({
            "layer": dice.randrange(LAYERS), "neuron": dice.randrange(D_MLP), "pass": dice.choice(["output", "input"]),
            "polarity": 0, "label": dice.choice(["Red", "red ", "blue", f"one {dice.random()}"]) if ok else None,
            "type": dice.choice([None, "lexical", "routing"]),
            "interpretability": dice.choice(["high", "medium", "low", None]),
            "status": "ok" if ok else dice.choice(["refused", "api_error"]),
            "source": dice.choice(["llm", "rule:a", "rule:b", "import:x"]),
        })  # fmt: skip
    return made


@pytest.fixture(params=[1, 2])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[dict], Path]:
    rows = drawn(request.param)
    return rows, write_atlas(tmp_path / "a.duckdb", {**small_tables(), "labels": rows})


@pytest.mark.parametrize("source", [None, "rule", "import:x"])
def test_every_table_is_what_a_count_gives(case: tuple[list[dict], Path], source: str | None) -> None:
    rows, path = case
    fits = [r for r in rows if source is None or r["source"] == source or r["source"].startswith(f"{source}:")]
    ok = [r for r in fits if r["status"] == "ok"]
    with atlas.open(path) as a:
        told = a.label_stats(source=source, generic=5, limit=2).to_dict()
    by_pass = Counter(r["pass"] for r in ok)
    for name, key in (("types", "type"), ("clarity", "interpretability")):
        counts = Counter((r["pass"], r[key]) for r in ok)
        assert {(r["pass"], r[key]): (r["labels"], pytest.approx(r["share"])) for r in told[name]} == {
            both: (n, n / by_pass[both[0]]) for both, n in counts.items()
        }
    texts: dict[str, Counter] = defaultdict(Counter)
    for r in ok:
        texts[r["pass"]][r["label"].strip().lower()] += 1
    assert [r["pass"] for r in told["uniqueness"]] == sorted(texts)
    for r in told["uniqueness"]:
        mine = texts[r["pass"]]
        assert (r["labels"], r["distinct_labels"], r["alone"]) == (
            sum(mine.values()),
            len(mine),
            list(mine.values()).count(1),
        )
        assert r["generic"] == sum(n for n in mine.values() if n >= 5)
        assert r["uniqueness"] == pytest.approx(len(mine) / sum(mine.values()))
    most = max(
        len({(r["layer"], r["neuron"]) for r in ok if r["pass"] == which and r["label"].strip().lower() == text})
        for which in texts
        for text in texts[which]
    )
    assert len(told["repeats"]) == 2 and told["repeats"][0]["neurons"] == most
    layers = Counter(layer for layer, _ in {(r["layer"], r["neuron"]) for r in ok})
    if source is not None:
        assert [r["labelled"] for r in told["layers"]] == [layers[layer] for layer in range(LAYERS)]
        assert told["labelled"] == sum(layers.values())


def test_sources_and_clarity_pairs(case: tuple[list[dict], Path]) -> None:
    rows, path = case
    with atlas.open(path) as a:
        told = a.label_stats().to_dict()
    for r in told["sources"]:
        mine = [x for x in rows if (x["source"], x["pass"]) == (r["source"], r["pass"])]
        good = [x for x in mine if x["status"] == "ok"]
        neurons = {(x["layer"], x["neuron"]) for x in good}
        assert (r["labels"], r["neurons"], r["failures"]) == (len(good), len(neurons), len(mine) - len(good))
        assert r["share"] == pytest.approx(len(neurons) / (LAYERS * D_MLP))
    rank = ["high", "medium", "low"]
    best: dict = defaultdict(dict)
    for x in rows:
        if x["status"] == "ok" and x["interpretability"]:
            now = best[x["layer"], x["neuron"]].get(x["pass"], 2)
            best[x["layer"], x["neuron"]][x["pass"]] = min(now, rank.index(x["interpretability"]))
    pairs = Counter((rank[b["output"]], rank[b["input"]]) for b in best.values() if len(b) == 2)
    found = {(r["output_interpretability"], r["input_interpretability"]): r["neurons"] for r in told["clarity_pairs"]}
    assert found == pairs


def test_an_unknown_source_and_an_atlas_without_labels(tmp_path: Path) -> None:
    with (
        atlas.open(write_atlas(tmp_path / "a.duckdb", small_tables())) as a,
        pytest.raises(InputError, match=r"no labels of source 'nobody' .* llm, rule:tokens"),
    ):
        a.label_stats(source="nobody")
    with atlas.open(write_atlas(tmp_path / "b.duckdb", {**small_tables(), "labels": []})) as a:
        told = a.label_stats()
        assert told.warnings and told.to_dict()["types"] == [] and told.to_dict()["uniqueness"] == []
