"""An atlas assembled without a model: from an edge store, label files and cluster assignments."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pytest

from atlas.build import executor, preflight
from atlas.build.edge_store import EdgeOptions, Sizes, add, compact
from atlas.build.executor import build
from atlas.build.measurement import wanted_step
from atlas.build.recipe import read_recipe
from atlas.errors import InputError, ResourceError, StoreError
from atlas.shards import Shard, new_shard
from atlas.store.checks import run_checks
from atlas.store.connection import open_reader
from atlas.store.content import content_hash, row_counts
from atlas.tables import SHARDS

LAYERS, D_MLP, GRAPHS = 4, 50, 30
RECIPE = """
name = "tiny"
model_name = "Org/tiny"
atlas = "tiny.duckdb"
[sizes]
layers = 4
d_mlp = 50
[edges]
store = "tiny.edges"
min_count = 2
[labels]
files = ["labels.jsonl"]
[cluster]
assignments = "assignments.json"
"""


def observations(seed: int = 1, graphs: int = GRAPHS) -> list[dict]:
    """Rows of graph_edges; weights are multiples of 1/8, so that every sum is exact in any order."""
    dice, rows = random.Random(seed), []
    for graph in range(graphs):
        for _ in range(80):
            src, tgt = sorted(dice.sample(range(LAYERS), 2))
            ends = [min(int(dice.paretovariate(0.8)), D_MLP) - 1 for _ in range(2)]
            place = {"src_layer": src, "src_neuron": ends[0], "src_position": 1}
            place |= {"tgt_layer": tgt, "tgt_neuron": ends[1], "tgt_position": 2}
            rows.append({"graph_id": graph, **place, "weight": dice.randint(-40, 40) / 8})
    return rows


def members(rows: list[dict]) -> set[tuple[int, int, int]]:
    return {(r["graph_id"], r[f"{end}_layer"], r[f"{end}_neuron"]) for r in rows for end in ("src", "tgt")}


def write_store(folder: Path, rows: list[dict], *, name: str = "tiny.edges", shards: str = "shards") -> Path:
    """Add the graphs of `rows` to a store, as one more source; not compacted."""
    nodes = [{"graph_id": g, "layer": layer, "neuron": n, "position": 1} for g, layer, n in sorted(members(rows))]
    tokens = [
        {"graph_id": 0, "kind": "logit", "token_id": 7, "layer": 1, "neuron": 2, "position": 1, "weight": 0.5}
    ] * 3
    graphs = [{"graph_id": g, "edge_method": "relp_direct"} for g in sorted({r["graph_id"] for r in rows})]
    tables = {"graphs": graphs, "graph_edges": rows, "graph_token_edges": tokens, "graph_nodes": nodes}
    with new_shard(folder / shards, Shard("k" * 12, 0, 1)) as draft:
        for table, content in tables.items():
            full = [{column: row.get(column) for column in SHARDS[table].names} for row in content]
            draft.write(table, pa.Table.from_pylist(full, schema=SHARDS[table]))
    add(folder / name, [folder / shards], sizes=Sizes("Org/tiny", LAYERS, D_MLP), options=EdgeOptions())
    return folder / name


def write_inputs(folder: Path, *, text: str = RECIPE) -> Path:
    compact(write_store(folder, observations()), options=EdgeOptions())
    dice = random.Random(2)
    lines = [
        {
            "feature_id": i,
            "label": f"label {i}",
            "description": f"text {i}",
            "max_activation": i / 4,
            "num_exemplars": 20,
        }
        for i in range(LAYERS * D_MLP)
        if i % 7
    ]
    bad = ["no json", json.dumps({"feature_id": 1000, "label": "x"})]
    (folder / "labels.jsonl").write_text("\n".join([*map(json.dumps, lines), *bad]) + "\n")
    paths = {
        f"L{layer}/{n}": {"path": f"{dice.randint(1, 3)}.{dice.randint(1, 2)}", "flow": dice.random() / 100}
        for layer in range(LAYERS)
        for n in range(0, 30)
    }
    (folder / "assignments.json").write_text(json.dumps({"assignments": paths}))
    (folder / "tiny.toml").write_text(text)
    return folder / "tiny.toml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished assembly; tests read it only."""
    folder = tmp_path_factory.mktemp("assembly")
    build(read_recipe(write_inputs(folder)))
    return folder


def rows_of(folder: Path, query: str) -> list[tuple]:
    con = open_reader(folder / "tiny.duckdb")
    try:
        return con.execute(query).fetchall()
    finally:
        con.close()


def digest(folder: Path) -> str:
    con = open_reader(folder / "tiny.duckdb")
    try:
        return content_hash(con)
    finally:
        con.close()


def test_the_atlas_is_whole_and_healthy(made: Path) -> None:
    con = open_reader(made / "tiny.duckdb")
    assert [result for result in run_checks(con) if not result.healthy] == []
    counts = row_counts(con)
    assert counts["neurons"] == LAYERS * D_MLP
    assert min(counts[t] for t in ("edges", "edges_in", "graphs", "neuron_graphs", "cooccurrence", "clusters")) > 0
    facts = dict(con.execute("FROM metadata").fetchall())
    assert facts["model"] == "Org/tiny" and facts["primary_clustering"] == "import:assignments.json"
    assert not {"architecture", "d_model", "corpora"} & facts.keys()
    con.close()


def test_neurons_hold_what_the_files_say(made: Path) -> None:
    seen = Counter((layer, n) for _, layer, n in members(observations()))
    paths = json.loads((made / "assignments.json").read_text())["assignments"]
    found = rows_of(
        made,
        "SELECT layer, neuron, label, description, max_activation, num_exemplars, appearance_count, cluster_path, "
        "top_cluster, sub_module, hierarchy_depth, infomap_flow FROM neurons ORDER BY feature_id",
    )
    assert [row[:2] for row in found] == [(layer, n) for layer in range(LAYERS) for n in range(D_MLP)]
    for row in found:
        i, place = row[0] * D_MLP + row[1], paths.get(f"L{row[0]}/{row[1]}")
        labelled = i % 7 > 0
        assert row[2:6] == ((f"label {i}", f"text {i}", i / 4, 20) if labelled else (None, None, None, 0))
        assert row[6] == seen[row[0], row[1]]
        if place is None:
            assert row[7:] == (None,) * 5
        else:
            top, sub = map(int, place["path"].split("."))
            assert row[7:] == (place["path"], top, sub, 2, place["flow"])


def test_modules_have_the_weights_of_their_edges(made: Path) -> None:
    paths = {
        key: one["path"] for key, one in json.loads((made / "assignments.json").read_text())["assignments"].items()
    }
    groups: dict[tuple, list[float]] = defaultdict(list)
    for r in observations():
        groups[r["src_layer"], r["src_neuron"], r["tgt_layer"], r["tgt_neuron"]].append(abs(r["weight"]))
    weights: dict[str, Counter[str]] = defaultdict(Counter)
    for (sl, sn, tl, tn), values in groups.items():
        if len(values) < 2:
            continue
        parts = [paths.get(f"L{layer}/{n}", "").split(".") for layer, n in ((sl, sn), (tl, tn))]
        chains = [{".".join(p[:k]) for k in range(1, len(p) + 1)} - {""} for p in parts]
        for kind, modules in (
            ("internal", chains[0] & chains[1]),
            ("outgoing", chains[0] - chains[1]),
            ("incoming", chains[1] - chains[0]),
        ):
            for module in modules:
                weights[module][kind] += sum(values) / len(values)
    found = rows_of(made, "SELECT cluster_path, size, internal_weight, outgoing_weight, incoming_weight FROM clusters")
    sizes = Counter(part for path in paths.values() for part in (path.split(".")[0], path))
    assert {row[0]: row[1] for row in found} == dict(sizes)
    for path, _, *three in found:
        assert three == pytest.approx([weights[path][k] for k in ("internal", "outgoing", "incoming")], rel=1e-6)
    assert sum(row[2] for row in found) > 0


def test_the_ledger_has_a_row_for_every_file(made: Path) -> None:
    rows = rows_of(
        made,
        "SELECT step, source_file, size_bytes, length(sha256), rows_in, rows_out, rows_rejected, reason "
        "FROM ingests WHERE step NOT LIKE 'table:%' ORDER BY step",
    )
    ledger = {row[0]: row[1:] for row in rows}
    lines = (made / "labels.jsonl").read_text().splitlines()
    size = (made / "labels.jsonl").stat().st_size
    reason = f"1 not JSON; 1 out of the model's range; first at line {len(lines) - 1}"
    assert ledger["labels:labels.jsonl"] == ("labels.jsonl", size, 64, len(lines), len(lines) - 2, 2, reason)
    assert ledger["assignments:assignments.json"][3:] == (120, 120, 0, None)
    assert ledger["edges:tiny.edges"][:4] == ("tiny.edges", None, 32, len(observations()))


def test_a_rerun_does_nothing_and_a_changed_file_only_what_rests_on_it(tmp_path: Path) -> None:
    recipe = write_inputs(tmp_path)
    assert "table:edges" in build(read_recipe(recipe)).steps_run
    assert build(read_recipe(recipe)).steps_run == ()
    with (tmp_path / "labels.jsonl").open("a") as handle:
        handle.write('{"feature_id": 0, "label": "new"}\n')
    assert build(read_recipe(recipe)).steps_run == ("table:labels", "table:neurons", "table:search")
    assert rows_of(tmp_path, "SELECT label FROM neurons WHERE feature_id = 0") == [("new",)]
    more = [{**row, "graph_id": row["graph_id"] + GRAPHS} for row in observations(9)]
    compact(write_store(tmp_path, more, shards="more"), options=EdgeOptions())
    assert build(read_recipe(recipe)).steps_run == (
        "table:edges",
        "table:cooccurrence",
        "table:labels",
        "table:neurons",
        "table:search",
    )
    assert rows_of(tmp_path, "SELECT count(*) FROM graphs") == [(2 * GRAPHS,)]


class Stopped(BaseException):
    """Stands for a kill at this point."""


@pytest.mark.parametrize("step", ["table:edges", "table:labels", "table:assignments", "table:neurons"])
def test_a_stop_between_steps_is_resumed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    recipe = write_inputs(tmp_path)
    real = executor._fill

    def stop(context, current):
        real(context, current) if current.name != step else _stop()

    def _stop():
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(executor, "_fill", stop)
        build(read_recipe(recipe))
    assert not (tmp_path / "tiny.duckdb").exists()
    report = build(read_recipe(recipe))
    assert report.steps_run[0] == step
    assert report.content_hash == digest(made)


def test_a_dropped_section_leaves_nothing_behind(made: Path, tmp_path: Path) -> None:
    recipe = write_inputs(tmp_path)
    build(read_recipe(recipe))
    recipe.write_text(RECIPE.replace('[labels]\nfiles = ["labels.jsonl"]\n', "[labels]\n"))
    build(read_recipe(recipe))
    assert rows_of(tmp_path, "SELECT count(*) FROM ingests WHERE step LIKE 'labels:%'") == [(0,)]
    assert rows_of(tmp_path, "SELECT count(label) FROM neurons") == [(0,)]
    assert rows_of(tmp_path, "SELECT (SELECT count(*) FROM labels), (SELECT count(*) FROM reported_activations)") == [
        (0, 0)
    ]
    recipe.write_text(RECIPE)
    assert build(read_recipe(recipe)).content_hash == digest(made)


def test_a_recipe_says_whose_label_is_shown(tmp_path: Path) -> None:
    recipe = write_inputs(tmp_path, text=RECIPE.replace('["labels.jsonl"]', '["a.jsonl", "b.jsonl"]'))
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"feature_id": 0, "label": f"of {name}"}) + "\n")
    shown = "SELECT label, source FROM neurons JOIN labels USING (layer, neuron, label)"
    order = "SELECT value FROM metadata WHERE key = 'label_precedence'"
    build(read_recipe(recipe))
    assert rows_of(tmp_path, order) == [("manual,two-pass,autointerp,rule",)]
    for first, second in ("ab", "ba"):
        wanted = f'precedence = ["import:{first}.jsonl", "import:{second}.jsonl"]\n[cluster]'
        recipe.write_text(RECIPE.replace('["labels.jsonl"]', '["a.jsonl", "b.jsonl"]').replace("[cluster]", wanted))
        assert build(read_recipe(recipe)).steps_run == ("table:neurons", "table:search")
        assert rows_of(tmp_path, shown) == [(f"of {first}", f"import:{first}.jsonl")]
        assert rows_of(tmp_path, order)[0][0].startswith(f"import:{first}.jsonl,import:{second}.jsonl,manual")


def test_infomap_finds_modules_where_none_are_given(tmp_path: Path) -> None:
    pytest.importorskip("infomap")
    recipe = write_inputs(tmp_path, text=RECIPE.partition("[cluster]")[0])
    assert "table:infomap" in build(read_recipe(recipe)).steps_run
    assert rows_of(tmp_path, "SELECT DISTINCT method FROM partitions") == [("infomap",)]
    assert rows_of(tmp_path, "SELECT count(cluster_path) > 0 FROM neurons") == [(True,)]


def test_labels_alone_are_an_atlas(tmp_path: Path) -> None:
    recipe = write_inputs(tmp_path, text=RECIPE.partition("[edges]")[0] + '[labels]\nfiles = ["labels.jsonl"]\n')
    steps = build(read_recipe(recipe)).steps_run
    assert steps == ("table:model", "table:labels", "table:neurons", "table:search", "table:macros")
    assert rows_of(tmp_path, "SELECT count(*), count(label) FROM neurons")[0][0] == LAYERS * D_MLP


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[sizes]\nlayers = 4\nd_mlp = 50\n",
            "",
            r"model is missing; a recipe needs name, atlas, and model and corpus",
        ),
        ("d_mlp = 50\n", "", r"sizes has layers only; give layers and d_mlp"),
        ("layers = 4", "layers = 0", r"sizes\.layers is 0, it must be at least 1"),
        ("[labels]", "[relp]\ngraphs = 3\n[labels]", r"\[relp\] is about measuring a model and there is none"),
        ('name = "tiny"', 'name = "tiny"\ncorpus = "c.json"', r"corpus is about measuring a model"),
        ('name = "tiny"', 'name = "tiny"\nmodel = "m"', r"corpus is missing; a recipe with a model"),
        ("[cluster]", "[cluster]\nseed = 3", r"cluster\.assignments replaces Infomap; remove min_count, seed"),
        ("min_count = 2", 'neuron_graphs = "no"', r"edges\.neuron_graphs is 'no', use \"auto\""),
        ('"tiny.edges"', '"none.edges"', r"no edge store at .*none\.edges"),
        ('"labels.jsonl"', '"none.jsonl"', r"no file at .*none\.jsonl; mend labels\.files in tiny\.toml"),
        ('"assignments.json"', '"none.json"', r"mend cluster\.assignments in tiny\.toml"),
        ("layers = 4", "layers = 5", r"tiny\.edges is of Org/tiny: 4 layers x 50, tiny\.toml is of 5 x 50"),
        ("[cluster]", 'precedence = ["best"]\n[cluster]', r"labels\.precedence: 'best' is no kind of labels"),
        ("[cluster]", "strict = true\n[cluster]", r"labels\.jsonl, line 172: not JSON"),
    ],
)
def test_recipes_that_cannot_be_assembled(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    recipe = write_inputs(tmp_path, text=RECIPE.replace(old, new))
    with pytest.raises(InputError, match=message):
        build(read_recipe(recipe))
    assert not (tmp_path / "tiny.duckdb").exists()


def test_nothing_to_assemble(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE.partition("[edges]")[0])
    with pytest.raises(InputError, match="nothing to assemble; set edges"):
        read_recipe(tmp_path / "r.toml")


def test_a_store_that_is_not_compacted_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = write_inputs(tmp_path)
    write_store(tmp_path, [{**row, "graph_id": row["graph_id"] + GRAPHS} for row in observations(4)], shards="more")
    with pytest.raises(StoreError, match="atlas edges compact"):
        build(read_recipe(recipe))
    assert not (tmp_path / "tiny.duckdb.build").exists()


def test_too_little_memory_or_disk_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(write_inputs(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "available_memory", lambda: 10_000_000)
        with pytest.raises(ResourceError, match=r"needs about 0\.50 GB of memory, 0\.01 GB are available"):
            build(recipe)
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "EDGE_DISK", 10**15)
        with pytest.raises(ResourceError, match=r"needs about [\d.]+ GB under .*, [\d.]+ GB are free"):
            build(recipe)


def test_there_is_nothing_to_measure(tmp_path: Path) -> None:
    recipe = read_recipe(write_inputs(tmp_path))
    with pytest.raises(InputError, match=r'has \[sizes\] and no model, so nothing is measured; "atlas build"'):
        wanted_step(recipe, "relp", 1)


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    recipe = write_inputs(tmp_path)
    code = (
        "import sys\nfrom atlas.cli.main import main\n"
        f"try:\n    main(['build', {str(recipe)!r}, '-q'])\n"
        "except SystemExit as leaving:\n    assert not leaving.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny.duckdb").exists()
