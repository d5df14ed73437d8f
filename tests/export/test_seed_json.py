"""NeuronScope JSON: the files hold what plain Python over the tables says, and the readers give it back."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seed_schemas import schema_faults, weight_schema
from synthetic import PATHS, VOCAB, random_tables, small_tables, write_atlas

import atlas
from atlas.errors import InputError
from atlas.export.folder import new_folder
from atlas.export.seed_forms import Cluster, LayerClusters, TokenQuery, write_clusters, write_query, write_samples
from atlas.export.seed_json import (
    Activations,
    SeedPlan,
    SeedReport,
    export_seed_json,
    prompt_names,
    read_activations,
    read_clusters,
    read_query,
    read_samples,
    read_weight_analysis,
)

SCHEMA = weight_schema()
CLUSTER_IDS = {"1": 0, "1.1": 1, "1.2": 2, "2": 3}  # ranks of the paths of PATHS, by hand


@dataclass(frozen=True)
class Prompt:
    prompt: str
    tokens: tuple[str, ...]
    values: Any


def export(
    folder: Path, tables: dict[str, Any], *, plan: SeedPlan | None = None, measured: Any = (), **size: int
) -> SeedReport:
    file = folder / "a.duckdb"
    if not file.exists():
        write_atlas(file, tables, **size)
    with atlas.open(file) as opened:
        return export_seed_json(opened, folder / "out", plan=plan, measured=measured)


def test_weight_analysis_follows_the_schema_and_the_tables(tmp_path: Path) -> None:
    tables = random_tables(1)
    tables["weight_stats"] = [
        {"name": f"layers.{i}.down.weight", "layer": i, "total_parameters": 10 * (i + 1), "non_zero_parameters": 9,
         "sparsity": 1 - 9 / (10 * (i + 1)), "mean_magnitude": 0.1 + 0.2, "std_magnitude": 0.1, "min_magnitude": 0.0,
         "max_magnitude": 1.0, "l1_norm": 3.0, "l2_norm": 1e-9} for i in range(3)
    ]  # fmt: skip
    export(tmp_path, tables, layers=5, d_mlp=40)
    file = tmp_path / "out" / "pruning" / "weight_analysis.json"
    found = read_weight_analysis(file)
    assert schema_faults(found, SCHEMA) == []
    sparsity = found["sparsity_analysis"]
    assert (sparsity["total_parameters"], sparsity["non_zero_parameters"]) == (60, 27)
    assert sparsity["overall_sparsity"] == pytest.approx(33 / 60)
    assert sparsity["layer_sparsity"]["layers.2.down.weight"]["total_params"] == 30
    assert [row["layer_name"] for row in sparsity["layer_stats"]] == [f"layers.{i}.down.weight" for i in range(3)]
    assert "0.30000000000000004" in file.read_text()  # shortest round trip of 0.1 + 0.2
    true = {(r["layer"], r["neuron"]): r for r in tables["pruning"] if r["pruning_score"] >= 0.9}
    listed = {(c["layer_index"], c["neuron_index"]): c for c in found["pruning_candidates"]}
    assert listed.keys() == true.keys()
    assert found["total_candidates"] == len(true) == 20  # 4 of 40 neurons in each of 5 layers
    assert all(c["weight_rank"] == true[key]["weight_rank"] for key, c in listed.items())


def test_the_schema_check_can_fail() -> None:
    good = {"sparsity_analysis": {"overall_sparsity": 0.5, "total_parameters": 2, "non_zero_parameters": 1,
            "layer_sparsity": {}, "layer_stats": []}, "pruning_candidates": []}  # fmt: skip
    assert schema_faults(good, SCHEMA) == []
    bad = {"sparsity_analysis": good["sparsity_analysis"] | {"overall_sparsity": 2, "new": 1}}
    assert len(schema_faults(bad, SCHEMA)) == 3


def test_clusters_hold_the_finest_modules_of_each_layer(tmp_path: Path) -> None:
    export(tmp_path, small_tables())
    for layer in range(3):
        found = read_clusters(tmp_path / "out" / "clusters" / f"layer_{layer}_clusters.json")
        expected = defaultdict(list)
        for (of_layer, neuron), path in sorted(PATHS.items()):
            if of_layer == layer:
                expected[path].append(neuron)
        assert found.layer == layer
        assert {c.cluster_path: list(c.neuron_indices) for c in found.clusters} == expected
        assert all(c.cluster_id == CLUSTER_IDS[c.cluster_path or ""] and c.centroid is None for c in found.clusters)


def test_cluster_ids_follow_the_numbers_of_the_path_not_its_text(tmp_path: Path) -> None:
    tables = small_tables()
    for row, path in zip(tables["neurons"], ("10", "2", "2.10", "2.9"), strict=False):
        row["cluster_path"] = path
    export(tmp_path, tables)
    found = read_clusters(tmp_path / "out" / "clusters" / "layer_0_clusters.json")
    order = [c.cluster_path for c in sorted(found.clusters, key=lambda c: c.cluster_id)]
    assert order == ["2", "2.9", "2.10", "10"]


def expected_tokens(tables: dict[str, Any], members: set[tuple[int, int]], sign: int) -> list[tuple[str, float]]:
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0])
    for row in tables["token_stats"]:
        if (row["layer"], row["neuron"]) in members and row["polarity"] == sign:
            sums[row["token_id"]][0] += row["sum"]
            sums[row["token_id"]][1] += row["n"]
    names = {row["token_id"]: row["token"] for row in tables["vocab"]}
    means = sorted((-sign * total / n, token) for token, (total, n) in sums.items())
    return [(names[token], -sign * mean) for mean, token in means]


def test_queries_list_mean_activations_strongest_first(tmp_path: Path) -> None:
    tables = small_tables()
    report = export(tmp_path, tables)
    query = read_query(tmp_path / "out" / "queries" / "L0_N0.json")
    assert (query.query_type, query.layer_index, query.neuron_index) == ("neuron", 0, 0)
    assert query.top_tokens == ((" dog", 2.0), ("dog", 1.2), (" the", 1.0))  # 60/30, 6/5, 5/5
    assert query.top_tokens_negative == ((" cat", -1.5),)
    module = read_query(tmp_path / "out" / "queries" / "cluster_1.json")
    members = {key for key, path in PATHS.items() if path.split(".")[0] == "1"}
    assert (module.cluster_id, module.cluster_path) == (0, "1")
    assert [t for t, _ in module.top_tokens] == [t for t, _ in expected_tokens(tables, members, 1)]
    assert [a for _, a in module.top_tokens] == pytest.approx([a for _, a in expected_tokens(tables, members, 1)])
    fired = {(r["layer"], r["neuron"]) for r in tables["token_stats"]}
    names = {name for name, _ in report.files if name.startswith("queries/L")}
    assert names == {f"queries/L{layer}_N{neuron}.json" for layer, neuron in fired}


def test_limits_and_selections_are_kept_and_said(tmp_path: Path) -> None:
    chosen = SeedPlan(neurons=("label:dog", "0_1", "cluster:1.2"), limit=2, tokens=1)
    report = export(tmp_path, small_tables(), plan=chosen)
    names = {name for name, _ in report.files if name.startswith("queries/")}
    assert names == {"queries/L0_N0.json", "queries/L0_N2.json", "queries/cluster_1.2.json"}
    assert any("2 of 5 neurons" in note for note in report.notes)  # 4 with "dog" and 0_1
    assert len(read_query(tmp_path / "out" / "queries" / "L0_N0.json").top_tokens) == 1


def test_unknown_modules_and_neurons_leave_no_folder(tmp_path: Path) -> None:
    for selection in ("cluster:9", "L7/N0"):
        with pytest.raises(InputError):
            export(tmp_path, small_tables(), plan=SeedPlan(neurons=(selection,)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.duckdb"]


def test_samples_come_from_graphs_else_from_contexts(tmp_path: Path) -> None:
    export(tmp_path, small_tables())
    assert read_samples(tmp_path / "out" / "samples.json") == ["The dog runs"]
    other = tmp_path / "other"
    other.mkdir()
    tables = small_tables()
    tables["graphs"] = []
    export(other, tables, plan=SeedPlan(limit=2))
    words = [[VOCAB[i][0] for i in row["token_ids"][1:]] for row in tables["contexts"]]  # without <s>
    assert read_samples(other / "out" / "samples.json") == ["".join(w) for w in words]
    for row in tables["vocab"]:
        row["token"] = row["token"].strip()  # a word-level tokenizer: no token has a space
    (other / "a.duckdb").unlink()
    export(other, tables, plan=SeedPlan(limit=1, force=True))
    assert read_samples(other / "out" / "samples.json") == [" ".join(w.strip() for w in words[0])]


def test_an_atlas_without_evidence_says_what_is_left_out(tmp_path: Path) -> None:
    tables = {"neurons": [row | {"cluster_path": None} for row in small_tables()["neurons"]]}
    report = export(tmp_path, tables)
    assert report.files == []
    assert [note.split(":")[0] for note in report.notes] == [
        "no pruning/weight_analysis.json", "no pruning/impact_analysis.json", "no clusters/", "no queries/",
        "no samples.json",
    ]  # fmt: skip


def activations(values: Any, prompt: str = "a dog") -> Prompt:
    return Prompt(prompt, tuple(f" t{i}" for i in range(values.shape[2])), values)


def test_activations_round_trip_in_float32(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 8, 4)).astype(np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.float32(0.1), np.float32(1e-30)
    export(tmp_path, small_tables(), measured=[activations(values)])
    file = tmp_path / "out" / "activations" / "a_dog.json"
    found = read_activations(file)
    assert (found.prompt, found.tokens) == ("a dog", (" t0", " t1", " t2", " t3"))
    assert np.array_equal(found.values.astype(np.float32), values)
    assert found.neuron_index.tolist() == [list(range(8))] * 3
    assert "[0.1, " in file.read_text()
    content = json.loads(file.read_text())
    assert content["layers"][2]["neurons"][5] == {"neuron_index": 5, "activations": found.values[2, 5].tolist()}


def test_top_keeps_the_strongest_of_each_layer_by_absolute_value(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(3, 8, 4))
    export(tmp_path, small_tables(), measured=[activations(values)], plan=SeedPlan(top=2))
    found = read_activations(tmp_path / "out" / "activations" / "a_dog.json")
    for layer in range(3):
        peaks = sorted(range(8), key=lambda n: -max(abs(v) for v in values[layer, n]))
        assert found.neuron_index[layer].tolist() == sorted(peaks[:2])
        assert np.array_equal(found.values[layer], values[layer, sorted(peaks[:2])])


def test_a_measurement_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 layers of 8 neurons"):
        export(tmp_path, small_tables(), measured=[activations(np.zeros((2, 8, 1)))])


def test_not_a_number_is_written_as_null(tmp_path: Path) -> None:
    write_query(tmp_path / "q.json", TokenQuery("neuron", (("a", math.nan), ("b", math.inf)), neuron_index=1))
    text = (tmp_path / "q.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert read_query(tmp_path / "q.json").top_tokens == (("a", None), ("b", None))
    values = np.zeros((3, 8, 2), dtype=np.float32)
    values[1, 2, 1] = np.nan
    export(tmp_path, small_tables(), measured=[activations(values)])
    found = read_activations(tmp_path / "out" / "activations" / "a_dog.json")
    assert np.argwhere(np.isnan(found.values)).tolist() == [[1, 2, 1]]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        values = np.random.default_rng(0).normal(size=(5, 40, 3)).astype(np.float32)
        export(tmp_path / name, random_tables(4), measured=[activations(values)], layers=5, d_mlp=40)
        root = tmp_path / name / "out"
        contents.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 100


def test_a_folder_that_is_not_empty_needs_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "out" / "samples.json").write_text("old")
    with pytest.raises(InputError, match="not empty"):
        export(tmp_path, small_tables())
    assert (tmp_path / "out" / "samples.json").read_text() == "old"
    export(tmp_path, small_tables(), plan=SeedPlan(force=True))
    assert read_samples(tmp_path / "out" / "samples.json") == ["The dog runs"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "out") as folder:
        write_samples(folder / "samples.json", ["a"])
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_readers_accept_the_documents_own_examples(tmp_path: Path) -> None:
    file = tmp_path / "seed.json"
    file.write_text('{"layer": 10, "clusters": [{"cluster_id": 0, "neuron_indices": [3, 5], "centroid": [0.12, 1]}]}')
    assert read_clusters(file) == LayerClusters(10, (Cluster(0, (3, 5), None, (0.12, 1)),))
    file.write_text(
        '{"query_type": "neuron", "neuron_index": 42, "top_tokens": [{"token": "the", "activation": 2.03}]}'
    )
    assert read_query(file) == TokenQuery("neuron", (("the", 2.03),), neuron_index=42)
    file.write_text(
        '{"prompt": "p", "tokens": ["a", "b"], "layers": [{"layer_index": 0, "neurons": '
        '[{"neuron_index": 0, "activations": [0.132, -0.033]}]}]}'
    )
    found = read_activations(file)
    assert isinstance(found, Activations)
    assert found.values.tolist() == [[[0.132, -0.033]]]


@pytest.mark.parametrize(
    ("reader", "text", "says"),
    [
        (read_samples, '{"a": 1}', "top level must be a list"),
        (read_samples, '["a", 1]', r"\[1\] must be a text, found 1"),
        (read_samples, '["a"', "not whole JSON"),
        (read_clusters, '{"clusters": []}', "lacks 'layer'"),
        (read_clusters, '{"layer": 1.5, "clusters": []}', "must be an integer, found 1.5"),
        (read_clusters, '{"layer": true, "clusters": []}', "must be an integer, found true"),
        (read_query, '{"query_type": "both", "top_tokens": []}', "query_type"),
        (read_query, '{"query_type": "neuron", "top_tokens": []}', "needs neuron_index"),
        (
            read_query,
            '{"query_type": "cluster", "top_tokens": [{"token": "a"}]}',
            r"top_tokens\[0\] lacks 'activation'",
        ),
        (read_weight_analysis, '{"pruning_candidates": []}', "lacks 'sparsity_analysis'"),
        (
            read_activations,
            '{"prompt": "", "tokens": ["a"], "layers": [{"layer_index": 3, "neurons": '
            '[{"neuron_index": 7, "activations": [1, 2]}]}]}',
            "neuron 7 of layer 3 has 2 activations for 1 tokens",
        ),
        (
            read_activations,
            '{"prompt": "", "tokens": [], "layers": [{"layer_index": 0, "neurons": []}, {"layer_index": 1, "neurons": '
            '[{"neuron_index": 0, "activations": []}]}]}',
            "0 to 1 neurons",
        ),
    ],
)
def test_readers_name_the_file_and_the_fault(tmp_path: Path, reader: Any, text: str, says: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(InputError, match=says) as error:
        reader(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_clusters(tmp_path / "none.json")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**40),
            st.lists(st.integers(0, 2**31)),
            st.none() | st.text(),
            st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False)),
        )
    )
)
def test_clusters_round_trip(tmp_path_factory: pytest.TempPathFactory, drawn: list[Any]) -> None:
    made = LayerClusters(
        3, tuple(Cluster(i, tuple(n), path, None if c is None else tuple(c)) for i, n, path, c in drawn)
    )
    file = tmp_path_factory.mktemp("round") / "c.json"
    write_clusters(file, made)
    assert read_clusters(file) == made


def test_prompt_names_differ_and_stay_inside_the_folder() -> None:
    names = prompt_names(["../../etc", "Über den Hund", "über den hund!", "", "x" * 90])
    assert names == ["etc", "über_den_hund", "über_den_hund_2", "prompt", "x" * 40]


def test_a_path_of_another_tool_stays_inside_the_folder(tmp_path: Path) -> None:
    tables = small_tables()
    tables["neurons"][0]["cluster_path"] = "/../../../evil"
    report = export(tmp_path, tables)
    assert {p.name for p in tmp_path.iterdir()} == {"a.duckdb", "out"}
    assert any("evil" in name for name, _ in report.files)
