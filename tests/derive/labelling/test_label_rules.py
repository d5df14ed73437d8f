"""Rule labels against a hand-made atlas: each neuron of layer 0 is built for one rule, and its label is written out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from synthetic import Row, edge_sums, write_atlas

from atlas.derive.labelling.rules import is_measured, label_by_rules
from atlas.derive.labelling.split import is_test
from atlas.store.connection import open_writer

LAYERS, D_MLP = 2, 8
WORDS = [
    "<s>",
    " dogs",
    " cats",
    " cows",
    " pigs",
    " red",
    " blue",
    " green",
    " pink",
    " ran",
    " the",
    " of",
    "\n",
    "Dogs",
]
COUNT = [0, 10, 10, 10, 10, 10, 10, 10, 10, 10, 400, 400, 10, 10]
ID = {word.strip(" "): i for i, word in enumerate(WORDS)}
TEXTS = 40  # of 30 tokens: <s>, then words in turn
PEAK = 4.0
LABELLING = [d for d in range(200) if not is_test("made", d)]  # documents that labels are made from
KEPT = [d for d in range(200) if is_test("made", d)]


def text(number: int) -> list[int]:
    """A context: the first token is <s>, every other one is drawn by its number so that neighbours differ."""
    return [0] + [1 + (number * 5 + 3 * place) % 11 for place in range(1, 30)]


def fired(neuron: tuple[int, int], strengths: dict[str, float], sign: int = 1) -> list[Row]:
    """Every occurrence of these words fires the neuron, at a share of its peak."""
    return [
        {"layer": neuron[0], "neuron": neuron[1], "polarity": sign, "token_id": ID[word], "n": COUNT[ID[word]],
         "sum": sign * COUNT[ID[word]] * strength * PEAK, "max": sign * strength * PEAK, "min": sign * strength * PEAK}
        for word, strength in strengths.items()
    ]  # fmt: skip


def stats(neuron: tuple[int, int], **more: Any) -> Row:
    base = {
        "layer": neuron[0], "neuron": neuron[1], "n_tokens": 1000, "s1": 0.0, "s2": 10.0, "s3": 0.0, "s4": 10.0,
        "abs_sum": 50.0, "n_active": 500, "n_fired_pos": 50, "n_fired_neg": 0, "fire_pos": 1.0, "fire_neg": None,
        "min": -0.5, "max": PEAK, "hist_lo": 0.0, "hist_hi": 1.0, "hist": [0] * 66, "quantiles": [0.0] * 7,
    }  # fmt: skip
    return base | more


def exemplars(neuron: tuple[int, int], places: list[tuple[int, int]], sign: int = 1, **more: Any) -> list[Row]:
    """The strongest activations, at these (context, position)."""
    return [
        {"layer": neuron[0], "neuron": neuron[1], "polarity": sign, "stratum": 0, "rank": rank,
         "activation": sign * (PEAK - rank / 10), "context_id": context, "position": position,
         "window_start": position - 1, "window": [0.0, sign * PEAK], **more}
        for rank, (context, position) in enumerate(places)
    ]  # fmt: skip


def on(words: list[str], n: int = 10, least: int = 5) -> list[tuple[int, int]]:
    """The first n places where one of these words stands."""
    wanted = {ID[word] for word in words}
    found = [(c, p) for c in range(TEXTS) for p, token in enumerate(text(c)) if p >= least and token in wanted]
    return found[:: max(1, len(found) // n)][:n]


ANIMALS = {"dogs": 0.8, "cats": 0.7, "cows": 0.6, "pigs": 0.5}
COLOURS = {"red": 0.9, "blue": 0.5, "green": 0.4, "pink": 0.3}


def tables() -> dict[str, list[Row]]:
    firing = [
        *fired((0, 0), {**ANIMALS, "ran": 0.9}), *fired((0, 1), ANIMALS), *fired((0, 2), ANIMALS),
        *fired((0, 3), {"ran": 1.0, "red": 0.2}),
        *fired((1, 0), COLOURS, -1), *fired((1, 1), COLOURS), *fired((1, 2), COLOURS),
        *fired((1, 5), {"\n": 0.9, "Dogs": 0.8, "dogs": 0.7}),
    ]  # fmt: skip
    shown = [
        *exemplars((0, 0), on(["dogs", "cats", "cows", "pigs", "ran"])), *exemplars((0, 1), on(["dogs", "cats"])),
        *exemplars((0, 2), on(["dogs", "pigs"])), *exemplars((0, 3), on(["ran"])),
        *exemplars((0, 5), [place for place in on(["the"], 400) if text(place[0])[place[1] - 1] == ID["green"]][:9]),
        *exemplars((0, 6), [(c, 2) for c in range(6)], window_start=0, window=[13.0, 0.1, PEAK]),
        *exemplars((0, 7), [(c, 1 + c % 3) for c in range(10)]),
        *exemplars((1, 0), on(["red", "blue"]), -1), *exemplars((1, 1), on(["red", "green"])),
        *exemplars((1, 2), on(["red"])), *exemplars((1, 3), [(c, 6 + c) for c in range(10)]),
        *exemplars((1, 4), [(c, 6 + c) for c in range(10)]), *exemplars((1, 5), on(["dogs"])),
    ]  # fmt: skip
    special = {
        (0, 4): {"max": 0.03, "min": -0.02}, (1, 0): {"min": -PEAK, "max": 0.5, "n_fired_pos": 0, "n_fired_neg": 50},
        (1, 3): {"s4": 0.29},
    }  # fmt: skip
    everyone = [(layer, neuron) for layer in range(LAYERS) for neuron in range(D_MLP)]
    lens = [
        {"layer": 1, "neuron": neuron, "polarity": sign, "rank": rank, "token_id": ID[word], "value": sign * value}
        for neuron, sign, words in [
            (0, 1, ["red", "blue", "pink"]), (0, -1, ["dogs", "cats", "pigs", "of"]), (1, 1, ["dogs", "cats", "pigs"]),
            (1, -1, ["red", "blue", "pink"]), (2, -1, ["red", "of"]),
        ]
        for rank, (word, value) in enumerate(zip(words, [4.0, 3.0, 2.0, 0.5], strict=False))
    ]  # fmt: skip
    flows = {(0, 8): [3.0], (0, 9): [-1.0, -1.0], (0, 10): [0.5], (0, 11): [0.25], (1, 8): [1.0]}
    return {
        "vocab": [{"token_id": i, "token": w, "count": n} for i, (w, n) in enumerate(zip(WORDS, COUNT, strict=True))],
        "contexts": [
            {"context_id": c, "corpus": "made", "document": LABELLING[c], "offset": 0, "token_ids": text(c)}
            for c in range(TEXTS)
        ],
        "exemplars": shown,
        "token_stats": firing,
        "neuron_stats": [stats(key, **special.get(key, {})) for key in everyone],
        "logit_lens": lens,
        "edges": [
            {"src": s, "tgt": t, "src_layer": s // D_MLP, "src_neuron": s % D_MLP, **edge_sums(flow)}
            for (s, t), flow in sorted(flows.items())
        ],
    }


@pytest.fixture
def con(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    con = open_writer(write_atlas(tmp_path / "made.duckdb", tables(), layers=LAYERS, d_mlp=D_MLP))
    yield con
    con.close()


def labelled(con: duckdb.DuckDBPyConnection) -> dict[tuple[int, int, str, int], Row]:
    label_by_rules(con, layers=LAYERS, d_mlp=D_MLP)
    found = con.execute("SELECT * FROM labels")
    names = [one[0] for one in found.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return {(r["layer"], r["neuron"], r["source"], r["polarity"]): r for r in rows}


def inputs(rows: dict[Any, Row]) -> dict[tuple[int, int, int], tuple[str, str]]:
    return {
        (r["layer"], r["neuron"], r["polarity"]): (r["source"], r["label"])
        for r in rows.values()
        if r["pass"] == "input"
    }


def test_each_rule_speaks_where_it_applies(con: duckdb.DuckDBPyConnection) -> None:
    found = inputs(labelled(con))
    # "ran" fires it most, but only "ran": four animals that other neurons list together are the family
    assert found[0, 0, 1] == ("rule:tokens", "fires on dogs, cats, cows, pigs")
    assert found[0, 3, 1] == ("rule:token", "fires on ran")
    assert found[0, 4, 1] == ("rule:dead", "dead: hardly ever active")
    assert found[0, 4, -1] == ("rule:dead", "dead: hardly ever active")
    assert found[0, 5, 1] == ("rule:sequence", "fires on the after green")
    assert found[0, 6, 1] == ("rule:bos", "fires on the first position of a text")
    assert found[0, 7, 1][0] == "rule:position"
    assert found[0, 7, 1][1].startswith("fires at the beginning of a text: ")
    assert found[1, 0, -1] == ("rule:tokens", "fires on red, blue, green, pink (negative)")
    assert found[1, 3, 1] == ("rule:dense", "fires on many different tokens")
    assert found[1, 4, 1][0] == "rule:context"
    assert (1, 0, 1) not in found  # it never fires positively


def test_white_space_is_written_out_and_spellings_of_a_word_count_once(con: duckdb.DuckDBPyConnection) -> None:
    assert inputs(labelled(con))[1, 5, 1] == ("rule:tokens", "fires on \\n, Dogs")


def test_the_description_holds_the_evidence(con: duckdb.DuckDBPyConnection) -> None:
    rows = labelled(con)
    told = rows[0, 0, "rule:tokens", 1]["description"]
    # of 8 + 7 + 6 + 5 + 9 parts the animals have 26; two of the ten exemplars stand on "ran"
    on_ran = sum(text(c)[p] == ID["ran"] for c, p in on(["dogs", "cats", "cows", "pigs", "ran"]))
    assert f"4 of 5 trigger tokens, alike by what else fires on them, explain {100 * 26 / 35:.0f}%" in told
    assert f"{100 - 10 * on_ran}% of 10 strongest exemplars" in told
    assert "dogs (80% of peak)" in told and "others: ran (90% of peak)" in told
    assert "13 at the first position, 3.2 times the peak" in rows[0, 6, "rule:bos", 1]["description"]


def test_the_output_is_told_of_the_stronger_sign(con: duckdb.DuckDBPyConnection) -> None:
    rows = labelled(con)
    # neuron 0 fires negatively: it promotes what a positive activation would suppress
    assert rows[1, 0, "rule:logit_lens", 0]["label"] == "promotes dogs, cats, pigs (negative)"
    assert "others: of" in rows[1, 0, "rule:logit_lens", 0]["description"]
    assert rows[1, 1, "rule:logit_lens", 0]["label"] == "promotes dogs, cats, pigs"
    assert rows[1, 2, "rule:logit_lens", 0]["label"] == "suppresses red, of"


def test_edges_name_their_three_strongest_targets(con: duckdb.DuckDBPyConnection) -> None:
    row = labelled(con)[0, 0, "rule:edges", 0]
    assert row["label"] == "feeds L1/N0 (red, blue, green), against L1/N1 (red, blue, green), L1/N2 (red, blue, green)"
    assert f"{100 * 5.5 / 5.75:.0f}% of all that leave it" in row["description"]
    assert row["pass"] == "output"


def test_texts_kept_for_scores_have_no_part_in_a_label(con: duckdb.DuckDBPyConnection) -> None:
    """Every neuron gets 20 stronger exemplars, all at the start of a text, in documents kept for scores."""
    for c in range(20):
        con.execute("INSERT INTO contexts VALUES ($1, 'made', $2, 0, $3)", [100 + c, KEPT[c], text(c)])
    before = labelled(con)
    con.execute("UPDATE exemplars SET rank = rank + 20")
    for layer, neuron, sign in {(key[0], key[1], key[3] or 1) for key in before}:
        for rank in range(20):
            place = (layer, neuron, sign, 0, rank, sign * 99.0, 100 + rank, 1, 0, [99.0, 99.0])
            con.execute("INSERT INTO exemplars VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", place)
    assert labelled(con) == before
    con.execute("DELETE FROM exemplars WHERE rank >= 20")  # those that labels are made from
    found = inputs(labelled(con))
    assert found[0, 5, 1][0] == found[0, 7, 1][0] == "rule:dense"  # were a sequence and a position


def test_a_corpus_of_one_document_that_is_kept_for_scores_is_used(con: duckdb.DuckDBPyConnection) -> None:
    before = inputs(labelled(con))
    con.execute("UPDATE contexts SET document = $1", [KEPT[0]])
    assert inputs(labelled(con)) == before


def test_labels_of_others_stay_and_a_second_run_changes_nothing(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("INSERT INTO labels BY NAME SELECT 0 AS layer, 0 AS neuron, 'mine' AS label, 'manual' AS source")
    first = labelled(con)
    con.execute("SET threads = 1")
    assert labelled(con) == first
    assert first[0, 0, "manual", None]["label"] == "mine"
    assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name LIKE 'rule_%'").fetchall() == [(0,)]


def test_an_atlas_without_measurements_has_labels_by_edges_only(con: duckdb.DuckDBPyConnection) -> None:
    assert is_measured(con)
    for table in ("neuron_stats", "token_stats", "exemplars", "contexts", "logit_lens", "vocab"):
        con.execute(f"DELETE FROM {table}")
    assert not is_measured(con)
    assert {key[2] for key in labelled(con)} == {"rule:edges"}
    assert labelled(con)[0, 1, "rule:edges", 0]["label"] == "feeds L1/N0"


@pytest.mark.parametrize(
    ("words", "shared"),
    [
        (["barked", "mooed", "hooted"], " (-ed)"), (["undo", "unfit", "until", "unto", "untie", "unify"], " (un-)"),
        (["Rome", "Oslo", "Lima"], " (capitalised)"), (["12", "7", "1.5"], " (numbers)"),
        ([".", ";", "!?"], " (punctuation)"), (["dogs", "cats", "pigs", "cows", "owls", "bees"], " (-s)"),
        (["dog", "Oslo", "7"], ""), (["barked", "mooed"], ""),
    ],
)  # fmt: skip
def test_what_the_letters_have_in_common(con: duckdb.DuckDBPyConnection, words: list[str], shared: str) -> None:
    con.execute("DELETE FROM vocab; DELETE FROM token_stats; DELETE FROM exemplars")
    rows = [(i + 1, f" {word}", 10) for i, word in enumerate(words)] + [(20, " rest", 900)]
    con.executemany("INSERT INTO vocab VALUES ($1, $2, $3)", rows)
    con.execute("UPDATE contexts SET token_ids = [0, 1]")
    for neuron in (0, 1):  # two neurons, so that the tokens are alike
        fires = [(0, neuron, 1, i + 1, 10, 30.0 - i, 4.0, 1.0) for i in range(len(words))]
        con.executemany("INSERT INTO token_stats VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", fires)
        con.execute("INSERT INTO exemplars VALUES (0, $1, 1, 0, 0, 4.0, 0, 1, 0, [0.0, 4.0])", [neuron])
    assert inputs(labelled(con))[0, 0, 1][1] == f"fires on {', '.join(words[:5])}{shared}"
