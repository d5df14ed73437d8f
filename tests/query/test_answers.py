"""Each question against plain Python over the rows that went in, and against values computed by hand."""

import math
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import D_MLP, drawn, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError, N, NeuronId
from atlas.query.answer import literal
from atlas.query.pruning import Ranking, summary
from atlas.query.search import Where, explain

Row = dict[str, Any]


@pytest.fixture(scope="module")
def a(small: Path) -> atlas.Atlas:  # noqa: F811
    return atlas.open(small)


@pytest.fixture(scope="module")
def big(drawn: Path) -> atlas.Atlas:  # noqa: F811
    return atlas.open(drawn)


SMALL, DRAWN = small_tables(), random_tables(1)


# -- search ------------------------------------------------------------------------------------------------------
def bm25(rows: list[Row], query: str) -> list[tuple[float, int, int]]:
    """Okapi BM25 (k1 1.2, b 0.75) by definition; negated score, layer, neuron: ascending = best first."""
    documents = {}
    for r in rows:
        text = " ".join(r[c] for c in ("label", "description", "input_label", "output_label") if r[c] is not None)
        if words := re.findall(r"[^\W_]+", text.lower()):
            documents[r["layer"], r["neuron"]] = words
    mean = sum(map(len, documents.values())) / len(documents)
    scores: dict[tuple[int, int], float] = defaultdict(float)
    for term in set(re.findall(r"[^\W_]+\*?", query.lower())):
        stem = term.rstrip("*")
        tf = {
            key: sum(w.startswith(stem) if term.endswith("*") else w == stem for w in words)
            for key, words in documents.items()
        }
        df = sum(n > 0 for n in tf.values())
        idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
        for key, n in tf.items():
            if n:
                scores[key] += idf * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * len(documents[key]) / mean))
    return sorted((-score, *key) for key, score in scores.items())


def found(answer: Any) -> list[tuple[float, int, int]]:
    return [(-r["score"], r["layer"], r["neuron"]) for r in answer.rows()]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["dog", "cat", "d*", "French", "promotes", "no*", "xyz"]), min_size=1, max_size=4))
def test_word_search_is_bm25(big: atlas.Atlas, words: list[str]) -> None:
    expected = bm25(DRAWN["neurons"], " ".join(words))
    got = found(big.search(" ".join(words), limit=None))
    assert [round(s, 9) for s, *_ in got] == pytest.approx([round(s, 9) for s, *_ in expected])
    assert sorted(x[1:] for x in got) == sorted(x[1:] for x in expected)


def test_search_score_is_the_sum_of_its_parts(a: atlas.Atlas) -> None:
    parts: dict[tuple[int, int], float] = defaultdict(float)
    for row in explain(a, "dog asp* cat").rows():
        parts[row["layer"], row["neuron"]] += row["score"]
    assert {(n, m): -s for s, n, m in found(a.search("dog asp* cat"))} == pytest.approx(dict(parts))


def test_search_knows_letters_beyond_ascii_and_upper_case(a: atlas.Atlas) -> None:
    assert [(r["layer"], r["neuron"]) for r in a.search("ÜBER").rows()] == [(1, 3)]


def test_search_filters_choose_rows_and_leave_scores(a: atlas.Atlas) -> None:
    whole = {(r["layer"], r["neuron"]): r["score"] for r in a.search("dog").rows()}
    for where, keys in [
        (Where(layers=(1, 2)), {(1, 3), (2, 7)}),
        (Where(cluster="1"), {(0, 0), (0, 2), (1, 3)}),
        (Where(cluster="1.1"), {(0, 0)}),
        (Where(source="rule"), set(whole)),
        (Where(source="llm"), set()),
    ]:
        got = {(r["layer"], r["neuron"]): r["score"] for r in a.search("dog", where=where).rows()}
        assert got == {key: whole[key] for key in keys}
    assert [r["neuron"] for r in a.search("aspirin", where=Where(type="token-pattern")).rows()] == [2]


def test_search_field_and_regex(a: atlas.Atlas) -> None:
    assert [(r["layer"], r["neuron"]) for r in a.search("meowing", field="output_label").rows()] == [(0, 1)]
    assert len(a.search("meowing", field="label")) == 0
    expected = [(r["layer"], r["neuron"]) for r in SMALL["neurons"] if re.search(r"^(dog|cat) w", r["label"] or "")]
    assert [(r["layer"], r["neuron"]) for r in a.search("^(DOG|cat) w", mode="regex").rows()] == expected
    assert len(a.search("c++ (dog", limit=3)) == 3  # no regular expression in word mode


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("", {}, "empty query"),
        ("  ", {}, "empty query"),
        ("++", {}, "no letter"),
        ("(", {"mode": "regex"}, "not a regular expression"),
        ("dog", {"mode": "vowels"}, "unknown search mode"),
        ("dog", {"field": "nope"}, "unknown field"),
        ("dog", {"where": Where(cluster="77")}, "no module '77'"),
    ],
)
def test_search_refuses(a: atlas.Atlas, query: str, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        a.search(query, **options)


# -- tokens ------------------------------------------------------------------------------------------------------
def test_tokens_by_hand(a: atlas.Atlas) -> None:
    row = a.tokens("0_0", polarity="+").rows()[0]
    # 30 of 40 strong firings on ' dog', which is 40 of 800 positions: lift 0.75 / 0.05
    assert row == {
        "token_id": 1,
        "token": " dog",
        "polarity": 1,
        "n": 30,
        "n_neurons": 1,
        "share": 0.75,
        "mean": 2.0,
        "peak": 3.0,
        "lift": 15.0,
    }
    negative = a.tokens((0, 0), polarity="-").rows()
    assert [(r["token"], r["peak"], r["mean"], r["share"]) for r in negative] == [(" cat", -2.0, -1.5, 0.75)]


@pytest.mark.parametrize("sign", [1, -1])
def test_tokens_of_a_set_against_brute_force(big: atlas.Atlas, sign: int) -> None:
    chosen = {(r["layer"], r["neuron"]) for r in DRAWN["neurons"] if (r["cluster_path"] or "").startswith("2.")}
    column = "n_fired_pos" if sign > 0 else "n_fired_neg"
    fired = sum(r[column] for r in DRAWN["neuron_stats"] if (r["layer"], r["neuron"]) in chosen)
    corpus = sum(r["count"] for r in DRAWN["vocab"])
    n: dict[int, int] = defaultdict(int)
    for r in DRAWN["token_stats"]:
        if (r["layer"], r["neuron"]) in chosen and r["polarity"] == sign:
            n[r["token_id"]] += r["n"]
    lift = {t: n[t] / fired / (DRAWN["vocab"][t]["count"] / corpus) for t in n}
    rank = {t: n[t] / fired * math.log2(1 + lift[t]) for t in n}
    got = big.tokens("cluster:2", polarity=sign, limit=None).rows()
    assert {r["token_id"]: r["n"] for r in got} == dict(n)
    assert {r["token_id"]: r["lift"] for r in got} == pytest.approx(lift)
    order = [rank[r["token_id"]] for r in got]
    assert order == sorted(order, reverse=True)


def test_fires_on_by_hand(a: atlas.Atlas) -> None:
    rows = a.fires_on("dog").rows()
    assert [(r["layer"], r["neuron"]) for r in rows] == [(0, 0), (0, 2), (0, 1)]
    first = rows[0]  # 30 on ' dog' + 5 on 'dog' of their 50 occurrences; 35 of its 40 firings; 50 of 800 positions
    assert (first["n"], first["recall"], first["precision"], first["lift"]) == (35, 0.7, 0.875, 14.0)
    assert first["tokens"] == [" dog", "dog"] and first["peak"] == 3.0 and first["mean"] == pytest.approx(66 / 35)
    assert a.fires_on("dog").warnings == ("'dog' means the tokens ' dog', 'dog'",)


def test_both_signs_by_default(a: atlas.Atlas) -> None:
    for ask in (lambda p: a.fires_on("dog", " cat", polarity=p), lambda p: a.tokens("0_0", polarity=p)):
        separate = [row for sign in ("+", "-") for row in ask(sign).rows()]
        assert sorted(map(repr, ask(None).rows())) == sorted(map(repr, separate))
        assert {row["polarity"] for row in separate} == {1, -1}


def test_a_category_averages_recall(a: atlas.Atlas) -> None:
    rows = {r["neuron"]: r for r in a.fires_on("dog", " cat", polarity="+").rows()}
    assert rows[1]["recall"] == pytest.approx((3 / 50 + 27 / 30) / 2)
    assert rows[1]["precision"] == 1.0 and rows[1]["lift"] == pytest.approx(1 / (80 / 800))
    assert (
        rows[0]["n"] == 35 and a.fires_on("dog", " dog", polarity="+").rows()[0]["n"] == 35
    )  # overlapping words count once


def test_spaces_match_exactly_and_unknown_tokens_get_spellings(a: atlas.Atlas) -> None:
    assert len(a.fires_on(" ")) == 0
    with pytest.raises(InputError, match="' dog', 'dog'"):
        a.fires_on("dgo")
    with pytest.raises(InputError, match="no token"):
        a.exemplars("0_0", tokens=["zzzzzz"])
    with pytest.raises(InputError, match="polarity"):
        a.tokens("0_0", polarity=2)


def test_exemplar_texts_mark_the_position(a: atlas.Atlas) -> None:
    assert [(r["activation"], r["context_text"]) for r in a.exemplars("0_0").rows()] == [
        (3.0, " the⟦ dog⟧ runs"),
        (-2.0, "<s> a⟦ cat⟧ runs"),
        (1.0, " cat⟦ runs⟧"),
    ]
    assert [r["activation"] for r in a.exemplars("layer:0-2", tokens=["cat"]).rows()] == [-2.0]
    assert [r["activation"] for r in a.exemplars("layer:0-2", polarity="-").rows()] == [-2.0]


# -- edges -------------------------------------------------------------------------------------------------------
def test_edge_evidence_by_hand(a: atlas.Atlas) -> None:
    (row,) = a.edges("0_0", "1_2").rows()  # flows 1, 2, 3: variance 1, standard error sqrt(1/3)
    assert row["standard_error"] == pytest.approx(math.sqrt(1 / 3)) and row["mean_weight"] == 2.0
    (mixed,) = a.edges("1_2", "2_7").rows()  # flows 2, -1, 2
    assert mixed["sign_consistency"] == pytest.approx(3 / 5)
    assert mixed["standard_error"] == pytest.approx(math.sqrt(3 / 3))
    (single,) = a.edges("0_2", "1_2").rows()
    assert single["standard_error"] is None and single["sign_consistency"] == 1.0


def test_edges_between_against_brute_force(big: atlas.Atlas) -> None:
    sources = {r["feature_id"] for r in DRAWN["neurons"] if r["layer"] < 2}
    targets = {r["feature_id"] for r in DRAWN["neurons"] if (r["cluster_path"] or "").startswith("1.")}
    expected = [
        (e["src"], e["tgt"])
        for e in sorted(DRAWN["edges"], key=lambda e: (-float32(e["weight_abs_sum"]), e["src"], e["tgt"]))
        if e["src"] in sources and e["tgt"] in targets and e["count"] >= 2 and e["weight_abs_sum"] / e["count"] >= 0.5
    ]
    answer = big.edges(N(layers=[0, 1]), N(cluster="1"), min_count=2, min_weight=0.5, limit=10)
    assert [(r["src"], r["tgt"]) for r in answer.rows()] == expected[:10]
    assert (answer.total, answer.cut) == (len(expected), len(expected) - 10)


def float32(value: float) -> float:
    import struct

    return float(struct.unpack("f", struct.pack("f", value))[0])


def test_edges_by_cluster_against_brute_force(big: atlas.Atlas) -> None:
    module = {r["feature_id"]: r["cluster_path"] and r["cluster_path"].split(".")[0] for r in DRAWN["neurons"]}
    expected: dict[tuple[Any, Any], list[float]] = defaultdict(lambda: [0, 0.0])
    for e in DRAWN["edges"]:
        pair = expected[module[e["src"]], module[e["tgt"]]]
        pair[0] += 1
        pair[1] += e["weight_sum"]
    got = {
        (r["src_cluster"], r["tgt_cluster"]): [r["n_edges"], r["weight_sum"]]
        for r in big.edges().by_cluster(1, limit=None).rows()
    }
    assert got.keys() == expected.keys()
    assert all(got[k] == pytest.approx(expected[k], abs=1e-5) for k in got)


def test_matrix_has_all_edges(big: atlas.Atlas) -> None:
    matrix = big.edges(limit=3).matrix()
    d_mlp = 40
    dense = matrix.value.toarray()
    assert matrix.value.nnz == len(DRAWN["edges"])
    for e in DRAWN["edges"][::37]:
        i = matrix.rows.index(NeuronId.of_feature(e["src"], d_mlp))
        j = matrix.columns.index(NeuronId.of_feature(e["tgt"], d_mlp))
        assert dense[i, j] == pytest.approx(e["weight_sum"] / e["count"], rel=1e-5, abs=1e-6)
    with pytest.raises(InputError, match="no column"):
        big.edges().matrix("nope")


@pytest.mark.parametrize("direction", ["both", "downstream", "upstream"])
def test_ego_against_breadth_first_search(big: atlas.Atlas, direction: str) -> None:
    strength = {(e["src"], e["tgt"]): float32(e["weight_abs_sum"]) for e in DRAWN["edges"]}

    def near(node: int) -> set[int]:
        down = sorted(((-w, t) for (s, t), w in strength.items() if s == node and direction != "upstream"))[:3]
        up = sorted(((-w, s) for (s, t), w in strength.items() if t == node and direction != "downstream"))[:3]
        return {other for _, other in down + up}

    start = 90
    hop, frontier = {start: 0}, {start}
    for step in (1, 2):
        frontier = {other for node in frontier for other in near(node)} - set(hop)
        hop |= dict.fromkeys(frontier, step)
    ego = big.ego(start, hops=2, top=3, direction=direction)
    assert {r["id"]: r["hop"] for r in ego.nodes.rows()} == hop
    inside = {pair for pair in strength if set(pair) <= set(hop)}
    assert {(r["src"], r["tgt"]) for r in ego.edges.rows()} == inside
    assert {"nodes", "edges"} == set(ego.to_dict())


# -- card, clusters, pruning ----------------------------------------------------------------------------------------
def test_card_of_one_neuron(a: atlas.Atlas) -> None:
    card = a.neuron("L1/N2")
    assert (card.about["label"], card.about["cluster_label"]) == ("aspirin and drugs", "module 1.2")
    assert (card.about["n_edges_in"], card.about["n_edges_out"]) == (3, 2)
    assert (card.about["mean"], card.about["std"], card.about["excess_kurtosis"]) == (0.0, 1.0, -2.0)
    assert [(r["layer"], r["neuron"]) for r in card.edges_in.rows()] == [(0, 0), (0, 1), (0, 2)]
    assert sum(r["share"] for r in card.edges_in.rows()) == pytest.approx(1)
    assert [(r["layer"], r["neuron"]) for r in card.edges_out.rows()] == [(2, 7), (2, 6)]
    assert [r["status"] for r in card.labels.rows()] == ["ok", "ok", "parse_error"]
    assert [(r["direction"], r["strength"]) for r in card.wiring.rows()] == [
        ("upstream", pytest.approx(0.9)),
        ("downstream", pytest.approx(0.7)),
    ]
    text = str(card)
    for part in ("L1/N2", "NSAID mentions", "⟦ aspirin⟧", "<- L0/N0", "-> L2/N7", "weight rank 6"):
        assert part in text
    assert card.to_dict()["edges_in"][0]["label"] == "dog words"


def test_clusters(a: atlas.Atlas) -> None:
    assert [r["cluster_path"] for r in a.clusters().rows()] == ["1", "2", "1.2", "1.1"]
    assert [r["cluster_path"] for r in a.clusters(below="1").rows()] == ["1.2", "1.1"]
    card = a.cluster("1")
    weights = {r["cluster_path"]: r for r in SMALL["clusters"]}["1"]
    cut = weights["outgoing_weight"] + weights["incoming_weight"]
    assert card.about["conductance"] == pytest.approx(cut / (cut + 2 * weights["internal_weight"]))
    assert (card.about["parts"], card.about["labelled"]) == (2, 5)
    assert [(r["layer"], r["neuron"]) for r in card.members.rows()] == [(1, 3), (1, 2), (0, 2), (0, 1), (0, 0)]
    (other,) = card.neighbours.rows()
    assert (other["cluster_path"], other["edges_out"], other["edges_in"]) == ("2", 4, 0)
    assert other["weight_out"] == pytest.approx(weights["outgoing_weight"])


def test_neighbours_against_brute_force(big: atlas.Atlas) -> None:
    module = {r["feature_id"]: r["cluster_path"] for r in DRAWN["neurons"]}
    out: dict[Any, float] = defaultdict(float)
    into: dict[Any, float] = defaultdict(float)
    for e in DRAWN["edges"]:
        mean = e["weight_abs_sum"] / e["count"]
        if module[e["src"]] == "2.1" != module[e["tgt"]]:
            out[module[e["tgt"]]] += mean
        if module[e["tgt"]] == "2.1" != module[e["src"]]:
            into[module[e["src"]]] += mean
    got = big.cluster("2.1", k=None).neighbours.rows()
    assert {r["cluster_path"]: r["weight_out"] for r in got if r["edges_out"]} == pytest.approx(dict(out), rel=1e-5)
    assert {r["cluster_path"]: r["weight_in"] for r in got if r["edges_in"]} == pytest.approx(dict(into), rel=1e-5)


def test_prune_counts_true_candidates_only(a: atlas.Atlas) -> None:
    answer = a.prune(threshold=25.0, limit=2)  # scores 1, 6/7, 5/7 ...: two of each layer are >= 0.75
    assert answer.total == 6 and answer.cut == 4
    assert [(r["layer_index"], r["neuron_index"]) for r in answer.rows()] == [(0, 0), (1, 0)]
    everything = a.prune(threshold=25.0, everything=True, limit=None).rows()
    assert len(everything) == 24 and sum(r["is_pruning_candidate"] for r in everything) == 6
    assert a.prune(layer=1).total == 1
    for wrong in ({"threshold": 101}, {"layer": 3}):
        with pytest.raises(InputError):
            a.prune(**wrong)


def ranks(rows: list[dict], value: str, layers: bool) -> dict[tuple[int, int], float]:
    """1 - (ascending rank - 1)/(n - 1), ties by index, in plain Python."""
    found = {}
    for part in sorted({r["layer"] for r in rows}) if layers else [None]:
        some = sorted(
            (r for r in rows if part in (None, r["layer"])), key=lambda r: (r[value], r["layer"], r["neuron"])
        )
        found |= {(r["layer"], r["neuron"]): 1 - place / (len(some) - 1) for place, r in enumerate(some)}
    return found


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("method", ["fisher", "wifv", "weights", "taylor_abs", "wanda"])
def test_every_method_ranks_by_its_own_score(big: atlas.Atlas, method: str, scope: str) -> None:
    rows = [r | {"weights": r["weight_magnitude"]} for r in random_tables(1)["pruning"]]
    expected = ranks(rows, method, scope == "layer")
    ranking = Ranking(method, scope)
    answer = big.prune(threshold=15.0, everything=True, limit=None, ranking=ranking)
    got = {(r["layer_index"], r["neuron_index"]): r for r in answer.rows()}
    assert {key: r["pruning_score"] for key, r in got.items()} == pytest.approx(expected)
    assert {r["score_method"] for r in got.values()} == {method}
    true = {key for key, score in expected.items() if score >= 0.85}
    assert {key for key, r in got.items() if r["is_pruning_candidate"]} == true
    assert big.prune(threshold=15.0, ranking=ranking).total == len(true)
    assert sum(r["candidates"] for r in summary(big, threshold=15.0, ranking=ranking).rows()) == len(true)


def test_the_atlas_own_scores_are_those_of_its_method(big: atlas.Atlas) -> None:
    for scope in ("layer", "global"):
        own = big.prune(everything=True, limit=None, ranking=Ranking(scope=scope)).fetchall()
        assert own == big.prune(everything=True, limit=None, ranking=Ranking("fisher", scope)).fetchall()
    for wrong in (Ranking("magnitude"), Ranking(scope="model"), Ranking(eval_id="e9")):
        with pytest.raises(InputError, match=r"no (score method|scope|scores of evaluation) "):
            big.prune(ranking=wrong)


# -- selections, answers ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("selection", "ids"),
    [
        ("L1/N2", [10]),
        ((1, 2), [10]),
        (("L1", 2), [10]),
        (10, [10]),
        ("10", [10]),
        (NeuronId(1, 2), [10]),
        (["1_2", "0:0", 10], [0, 10]),
        ("cluster:1.1", [0, 1]),
        ("layer:2", list(range(16, 24))),
        ("layer:0-1", list(range(16))),
        ("label:GERMAN", [11]),
        (["cluster:1.1", "2_0"], [0, 1, 16]),
        (N(min_count=1), [0, 10]),
        (N(layers=1, label="dog"), [11]),
        (N(ids=("1_2", 3), where="layer = 0"), [3]),
        (N(where="label IS NOT NULL -- a comment"), [0, 1, 2, 10, 11, 23]),
    ],
)
def test_selections(a: atlas.Atlas, selection: Any, ids: list[int]) -> None:
    assert a.select(selection) == ids


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("L3/N0", "layers 0..2"),
        ((0, 8), "neurons 0..7"),
        (24, "out of range"),
        (-1, "out of range"),
        ("dog", "cannot read"),
        ("cluster:9", "no module '9'"),
        ("layer:x", "cannot read layers"),
        ([], "empty list"),
        ("label:zzz", "no neuron"),
        (N(where="nope > 1"), "nope"),
        (N(where="1 = 1); DELETE FROM neurons; SELECT (1"), "read-only"),
    ],
)
def test_selections_refuse(a: atlas.Atlas, selection: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        a.select(selection)


def test_an_answer_shows_sql_that_gives_the_same_rows(a: atlas.Atlas) -> None:
    for answer in (a.search("it's a dog"), a.tokens([0, 1]), a.edges("0_0"), a.prune(), a.clusters()):
        assert a.sql(answer.sql).fetchall() == answer.fetchall()
    assert a.search("$mode $query").sql.count("'$mode $query'") == 1
    assert "score DESC" in a.search("dog").explain()


def test_an_answer_in_every_form(a: atlas.Atlas) -> None:
    answer = a.sql("SELECT layer, count(*) AS n FROM neurons GROUP BY layer ORDER BY layer;")
    assert answer.columns == ["layer", "n"] and len(answer) == 3 and list(answer) == [(0, 8), (1, 8), (2, 8)]
    assert answer.arrow().num_rows == 3 and answer.pl()["n"].to_list() == [8, 8, 8]
    assert answer.rows()[0] == {"layer": 0, "n": 8} and answer.cut == 0
    assert a.sql("FROM neurons WHERE layer = $l", {"l": 1}).total == 8


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM neurons",
        "COPY neurons TO 'x.csv'",
        "SELECT 1; SELECT 2",
        "ATTACH 'x'",
        "SET threads = 1",
        "",
        "CREATE TABLE x (i INT)",
    ],
)
def test_sql_only_reads(a: atlas.Atlas, text: str) -> None:
    with pytest.raises(InputError, match="read-only"):
        a.sql(text)


def test_answers_from_several_threads(a: atlas.Atlas) -> None:
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda i: len(a.search(("dog", "cat")[i % 2])), range(64)))
    assert counts == [4, 2] * 32


def test_info(a: atlas.Atlas) -> None:
    facts = a.info()
    assert facts["graphs"] == pytest.approx(
        {
            "graphs": 3,
            "explained_median": 0.7,
            "explained_min": 0.5,
            "explained_neurons_median": 0.45,
            "explained_neurons_min": 0.25,
            "residual_median": 2e-9,
            "residual_max": 3e-9,
        }
    )
    assert (facts["layers"], facts["neurons_per_layer"], facts["labelled"], facts["in_modules"]) == (3, D_MLP, 6, 8)
    assert len(a.hash()) == 32


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), lambda s: st.lists(s, max_size=1)
    )
)
def test_literals_are_read_back(value: Any) -> None:
    import duckdb

    if "\x00" not in str(value) and "\\x00" not in repr(value):
        assert duckdb.sql(f"SELECT {literal(value)}").fetchall() == [(value,)]


# -- findings of a review ----------------------------------------------------------------------------------------
def test_fires_on_ranks_by_strength(big: atlas.Atlas) -> None:
    token = next(
        r for r in DRAWN["vocab"] if r["count"] and any(t["token_id"] == r["token_id"] for t in DRAWN["token_stats"])
    )
    peak = {
        (r["layer"], r["neuron"], s): r["max"] if s > 0 else -r["min"] for r in DRAWN["neuron_stats"] for s in (1, -1)
    }
    same = {v["token_id"] for v in DRAWN["vocab"] if v["token"].strip(" ") == token["token"].strip(" ")}
    seen = sum(v["count"] for v in DRAWN["vocab"] if v["token_id"] in same)
    total: dict[tuple[int, int, int], float] = defaultdict(float)
    for r in DRAWN["token_stats"]:
        if r["token_id"] in same:
            total[r["layer"], r["neuron"], r["polarity"]] += abs(r["sum"])
    rows = big.fires_on(token["token"], limit=None).rows()
    got = {(r["layer"], r["neuron"], r["polarity"]): r["strength"] for r in rows}
    assert got == pytest.approx({key: value / seen / peak[key] for key, value in total.items()}, rel=1e-5)
    order = [r["strength"] * math.log2(1 + r["lift"]) for r in rows]
    assert order == sorted(order, reverse=True)


def _triggers(key: tuple[int, int], polarity: int, label: str, source: str = "rule:tokens", **more: Any) -> Row:
    row = SMALL["labels"][0] | {"layer": key[0], "neuron": key[1], "polarity": polarity, "label": label}
    return row | {"source": source, "pass": "input", **more}


def test_fires_on_shows_the_label_of_its_own_sign(tmp_path: Path) -> None:
    added = [
        _triggers((0, 0), 1, "rule +"), _triggers((0, 0), 1, "unclear +", "llm", interpretability="low"),
        _triggers((0, 0), 1, "written +", "llm"), _triggers((0, 0), 1, "other run +", "llm", run="r2", score=-1.0),
        _triggers((0, 0), 1, "refused +", "manual", status="refused"),
        _triggers((0, 0), 1, "output +", "manual") | {"pass": "output"},
        _triggers((0, 0), -1, "rule -"), _triggers((0, 1), -1, "of the other sign", "manual"),
        _triggers((0, 2), 1, "written", "llm"), _triggers((0, 2), 1, "by hand", "manual", interpretability="low"),
    ]  # fmt: skip
    shown = {}
    for name, labels in (("there", added), ("back", added[::-1])):
        path = write_atlas(tmp_path / f"{name}.duckdb", {**small_tables(), "labels": labels})
        with atlas.open(path) as opened:
            rows = opened.fires_on("dog", "cat").rows()
            shown[name] = {(r["layer"], r["neuron"], r["polarity"]): r["label"] for r in rows}
    expected = {(0, 0, 1): "written +", (0, 0, -1): "rule -", (0, 1, 1): "cat words", (0, 2, 1): "by hand"}
    assert shown == {"there": expected, "back": expected}


@pytest.mark.parametrize("where", [{}, {"cluster": "1"}, [], "1.1", (0, 5), 0, Where(layers=3), Where(cluster=1)])  # type: ignore[arg-type]
def test_where_of_a_wrong_type_says_what_it_is(a: atlas.Atlas, where: Any) -> None:
    with pytest.raises(InputError, match=r"use atlas\.query\.search\.Where\(layers"):
        a.search("dog", where=where)


def test_edges_grouped_by_cluster(a: atlas.Atlas) -> None:
    assert a.edges(group_by="cluster").fetchall() == a.edges().by_cluster().fetchall()
    some = a.edges("0_0", min_count=2, group_by="cluster", limit=1)
    assert some.fetchall() == a.edges("0_0", min_count=2).by_cluster(limit=1).fetchall() != []
    with pytest.raises(InputError, match="group_by='cluster'"):
        a.edges(group_by="layer")  # type: ignore[call-overload]


def test_swapped_letters_are_near(a: atlas.Atlas) -> None:
    near = a.ask("near_tokens", {"of_token": "dgo", "max_rows": 2}).rows()
    assert [(r["token"], r["distance"]) for r in near] == [(" dog", 1), ("dog", 1)]  # the commoner one first


def test_df_without_pandas_says_what_to_install(a: atlas.Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pandas"):
        a.search("dog").df()


def test_top_tokens_are_those_with_the_largest_expected_activation(big: atlas.Atlas) -> None:
    seen = {v["token_id"]: v["count"] for v in DRAWN["vocab"]}
    key = next((r["layer"], r["neuron"]) for r in DRAWN["token_stats"])
    mine = [r for r in DRAWN["token_stats"] if (r["layer"], r["neuron"]) == key and seen[r["token_id"]]]
    for sign in (1, -1):
        expected = sorted((abs(r["sum"]) / seen[r["token_id"]] for r in mine if r["polarity"] == sign), reverse=True)
        values = {"of_layer": key[0], "of_neuron": key[1], "max_rows": None}
        rows = [r for r in big.ask("neuron_top_tokens", values).rows() if r["polarity"] == sign]
        assert [r["expected"] for r in rows] == pytest.approx(expected)
