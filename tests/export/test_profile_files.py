"""Enriched profiles: what they hold against the tables, and that our readers bring edges and labels back."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import D_MLP, FLOWS, PATHS, VOCAB, edge_sums, random_tables, small_tables, write_atlas

import atlas
from atlas.build.label_import import import_label_files
from atlas.errors import InputError
from atlas.export.profiles import ProfilePlan, export_profiles
from atlas.ingest.graph_files.detect import open_source
from atlas.ingest.graph_files.source import Report, Units
from atlas.ingest.label_formats.recognise import recognise

Profiles = dict[str, dict[str, Any]]
LAYERS, WIDTH = 5, 40


def drawn_tables() -> Any:
    """Edges, token edges, appearances; one neuron's edges have unknown sums of |F|, as imports have."""
    tables, dice = random_tables(6), random.Random(6)
    tables["token_edges"] = [
        {"kind": kind, "token_id": token, "layer": layer, "neuron": neuron,
         **edge_sums([dice.gauss(0, 1) for _ in range(dice.randint(1, 4))])}
        for kind in ("embedding", "logit") for layer in range(LAYERS) for neuron in range(0, WIDTH, 7)
        for token in dice.sample(range(50), 5)
    ]  # fmt: skip
    for row in tables["neurons"]:
        row["appearance_count"] = dice.randrange(4)
    return tables


@pytest.fixture(scope="module")
def tables() -> Any:
    return drawn_tables()


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory, tables: Any) -> Iterator[atlas.Atlas]:
    file = write_atlas(tmp_path_factory.mktemp("profiles") / "p.duckdb", tables, layers=LAYERS, d_mlp=WIDTH)
    with atlas.open(file) as opened:
        yield opened


def read(path: Path) -> Profiles:
    return {one["neuron_id"]: one for one in json.loads(path.read_text(), parse_constant=pytest.fail)["profiles"]}


def test_every_edge_comes_back_with_its_count_and_sum(a: atlas.Atlas, tables: Any, tmp_path: Path) -> None:
    made = export_profiles(a, tmp_path / "p.json", plan=ProfilePlan(top=None))
    source, report = open_source(tmp_path / "p.json"), Report()
    assert (source.format, source.model, source.units) == ("profiles", "toy", Units(LAYERS, WIDTH))
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for batch in source.read(Units(LAYERS, WIDTH), report):
        for name, table in batch.items():
            found[name] += [tuple(row.values()) for row in table.to_pylist()]
    edges = {(*row[:4],): row[4:7] for row in found["edge_statistics"]}
    truth = {(*divmod(e["src"], WIDTH), *divmod(e["tgt"], WIDTH)): e for e in tables["edges"]}
    assert edges.keys() == truth.keys() and len(edges) == len(found["edge_statistics"]) == 600
    for key, (count, _, total) in edges.items():
        assert count == truth[key]["count"] and total == pytest.approx(truth[key]["weight_sum"], abs=1e-6)
    profiles = read(tmp_path / "p.json").values()
    sources = [row["source"] for one in profiles for row in one["top_upstream_sources"] if row["source"][0] != "E"]
    assert len(sources) == 600 == sum(len(one["top_downstream_targets"]) for one in profiles)
    tokens = {row[:4]: row[4:7] for row in found["token_edge_statistics"]}
    ours = {(e["kind"], e["token_id"], e["layer"], e["neuron"]): e for e in tables["token_edges"]}
    assert tokens.keys() == ours.keys()
    assert all(tokens[key][2] == pytest.approx(ours[key]["weight_sum"], abs=1e-6) for key in ours)
    active = {(e[end] // WIDTH, e[end] % WIDTH) for e in tables["edges"] for end in ("src", "tgt")}
    counts = {(n["layer"], n["neuron"]): n["appearance_count"] for n in tables["neurons"]}
    expected = {key: count for key, count in counts.items() if count or key in active}
    assert {row[:2]: row[2] for row in found["neuron_appearances"]} == expected and made.profiles == len(expected)
    assert not report.notes


def test_labels_come_back_by_label_import(tmp_path: Path) -> None:
    tables = small_tables()
    tables["labels"] += [
        {**tables["labels"][0], "pass": "autointerp", "polarity": sign, "label": f"sign {sign}", "source": "import:t"}
        for sign in (1, -1)
    ]
    file = write_atlas(tmp_path / "a.duckdb", tables)
    with atlas.open(file) as opened:
        everyone = [f"L{layer}/N{neuron}" for layer in range(3) for neuron in range(D_MLP)]
        export_profiles(opened, tmp_path / "p.json", plan=ProfilePlan(selection=everyone))
    profiles = read(tmp_path / "p.json")
    assert profiles["L0/N0"]["transluce_label_positive"] == "sign 1" and len(profiles) == 3 * D_MLP
    assert profiles["L1/N2"]["input_label"] == "NSAID mentions"
    assert recognise(tmp_path / "p.json") == "combined"
    other = write_atlas(tmp_path / "b.duckdb", small_tables() | {"labels": []})
    import_label_files(other, [tmp_path / "p.json"])
    with atlas.open(other) as opened:
        rows = opened.sql('SELECT layer, neuron, "pass", polarity, label FROM labels').fetchall()
    ok = [one for one in tables["labels"] if one["label"]]
    truth = {tuple(one[k] for k in ("layer", "neuron", "pass", "polarity", "label")) for one in ok}
    assert {(*row[:3], 0 if row[2] != "autointerp" else row[3], row[4]) for row in rows} == {
        (*row[:3], 0 if row[2] != "autointerp" else row[3], row[4]) for row in truth
    }


def test_what_a_profile_holds(tmp_path: Path) -> None:
    with atlas.open(write_atlas(tmp_path / "a.duckdb", small_tables())) as opened:
        export_profiles(opened, tmp_path / "p.json")
    document = json.loads((tmp_path / "p.json").read_text())
    assert list(document) == ["metadata", "profiles", "summary"]
    assert (
        document["metadata"] | {"model": "toy", "num_layers": 3, "neurons_per_layer": 8, "total_graphs": 3}
        == (document["metadata"])
    )
    one = read(tmp_path / "p.json")["L0/N0"]
    assert (one["layer"], one["neuron"], one["appearance_count"], one["max_activation"]) == (0, 0, 3, 3.0)
    out = sorted((-sum(map(abs, f)), t, f) for (s, t), f in FLOWS.items() if s == 0)
    assert [row["target"] for row in one["top_downstream_targets"]] == [f"1_{t - D_MLP}" for _, t, _ in out]
    for row, (_, _, flows) in zip(one["top_downstream_targets"], out, strict=True):
        graphs = max(1, len(flows) - 1)
        assert row["count"] == len(flows) and row["avg_weight"] == pytest.approx(sum(flows) / len(flows))
        assert row["frequency"] == pytest.approx(graphs / 3)
    (source,) = one["top_upstream_sources"]
    assert (source["source"], source["count"], source["avg_weight"]) == ("E_1", 2, 1.25)
    assert one["top_cooccurring_neurons"] == [{"neuron_id": "L1/N2", "count": 1, "lift": 1.0}]
    assert [row["token"] for row in one["output_projections"]["suppresses"]] == [VOCAB[5][0], VOCAB[6][0]]
    assert {part: [row["token_id"] for row in rows] for part, rows in one["input_projections"].items()} == {
        "gate": [1], "up_positive": [1, 2], "up_negative": [3],
    }  # fmt: skip
    assert one["direct_effect_ratio"] == 0.0 and "transluce_label_positive" not in one
    last = read(tmp_path / "p.json")["L2/N7"]
    assert last["direct_effect_ratio"] == 1.0
    assert last["output_token_associations"] == [
        {"token": VOCAB[4][0], "token_id": 4, "count": 1, "frequency": None, "avg_weight": -1.0}
    ]
    assert set(read(tmp_path / "p.json")) == {
        f"L{one // D_MLP}/N{one % D_MLP}" for pair in FLOWS for one in pair
    }  # fmt: skip


def test_the_strongest_are_kept(a: atlas.Atlas, tmp_path: Path) -> None:
    for top, name in ((2, "few.json"), (None, "all.json")):
        export_profiles(a, tmp_path / name, plan=ProfilePlan(top=top))
    few, every = read(tmp_path / "few.json"), read(tmp_path / "all.json")
    assert few.keys() == every.keys()
    for name, one in every.items():
        assert few[name]["top_downstream_targets"] == one["top_downstream_targets"][:2]
        neurons = [row for row in one["top_upstream_sources"] if not row["source"].startswith("E_")]
        kept = [row for row in few[name]["top_upstream_sources"] if not row["source"].startswith("E_")]
        assert kept == neurons[:2]
        assert few[name]["direct_effect_ratio"] == one["direct_effect_ratio"]
    assert any(len(one["top_downstream_targets"]) > 2 for one in every.values())


def test_equal_bytes_and_a_selection(a: atlas.Atlas, tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        export_profiles(a, tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    made = export_profiles(a, tmp_path / "some.json", plan=ProfilePlan(selection=["layer:2", "L0/N1"]))
    some, every = read(tmp_path / "some.json"), read(tmp_path / "one.json")
    assert made.profiles == len(some) == WIDTH + 1 and list(some)[:2] == ["L0/N1", "L2/N0"]
    assert all(every[name] == one for name, one in some.items() if name in every)


def test_refusals(a: atlas.Atlas, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        export_profiles(a, tmp_path / "p.json")
    with pytest.raises(InputError, match="top is 0; use at least 1"):
        export_profiles(a, tmp_path / "q.json", plan=ProfilePlan(top=0))
    bare = {"neurons": [row | {"appearance_count": None} for row in small_tables()["neurons"]]}
    with (
        atlas.open(write_atlas(tmp_path / "b.duckdb", bare)) as opened,
        pytest.raises(InputError, match="no neuron with edges or graphs"),
    ):
        export_profiles(opened, tmp_path / "q.json")
    assert (tmp_path / "p.json").read_text() == "mine" and not (tmp_path / "q.json").exists()
    assert len(PATHS) == 8
