"""Assignment files of other tools -> partitions, against what a person reads off the members."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from atlas.errors import InputError
from atlas.ingest.clusters import import_assignments, read_assignments
from atlas.store.connection import open_writer
from atlas.store.schema import apply_schema
from atlas.store.write import transaction

LAYERS, D_MLP = 4, 50
SHORTER = "finest module held that neuron alone (the module above is taken)"
CUT = "path ended in the neuron's own rank (cut off)"
TAKEN = "top, sub or subsub not of its path (the path is taken)"
COUNTED = "depth counted from 0"


@pytest.fixture
def con(tmp_path: Path):
    connection = open_writer(tmp_path / "assigned.duckdb")
    apply_schema(connection, d_mlp=D_MLP)
    yield connection
    connection.close()


def assigned(con: duckdb.DuckDBPyConnection, folder: Path, content: dict, **how: bool):
    file = folder / "assignments.json"
    file.write_text(json.dumps({"metadata": {"method": "infomap", "assignments": 3}, "assignments": content}))
    return import_assignments(con, file, layers=LAYERS, d_mlp=D_MLP, **how)


def places(con: duckdb.DuckDBPyConnection) -> dict[str, tuple]:
    rows = con.execute("SELECT layer, neuron, cluster_path, flow, method FROM partitions").fetchall()
    return {
        f"L{layer}/{n}": (path, flow) for layer, n, path, flow, method in rows if method == "import:assignments.json"
    }


def test_assignments_in_every_form(con, tmp_path: Path) -> None:
    content = {
        "L0/1": {"path": "158.4", "top": 158, "sub": 4, "subsub": None, "depth": 2, "flow": 0.25},
        "L0/2": {"path": "158:4", "flow": None},
        "L1/N3": {"path": [158, 4]},
        "104": {"top": 7, "sub": None},
        "2_5": "7",
    }
    done = assigned(con, tmp_path, content)
    assert (done.rows_in, done.rows_out, done.rejected) == (5, 5, {})
    assert places(con) == {
        "L0/1": ("158.4", 0.25),
        "L0/2": ("158.4", None),
        "L1/3": ("158.4", None),
        "L2/4": ("7", None),
        "L2/5": ("7", None),
    }


def test_modules_of_one_neuron_end_the_path_above(con, tmp_path: Path) -> None:
    dice = random.Random(5)
    paths = {
        f"L{layer}/{n}": ".".join(str(dice.randint(1, 4 + 3 * depth)) for depth in range(dice.randint(1, 4)))
        for layer in range(LAYERS)
        for n in range(0, D_MLP, 3)
    } | {"L0/1": "99.1", "L0/2": "98"}
    sizes = Counter(".".join(p.split(".")[:k]) for p in paths.values() for k in range(1, len(p.split(".")) + 1))
    wanted = {}
    for key, path in paths.items():
        parts = path.split(".")
        shared = [".".join(parts[:k]) for k in range(1, len(parts) + 1) if sizes[".".join(parts[:k])] > 1]
        if shared:
            wanted[key] = shared[-1]
    done = assigned(con, tmp_path, {key: {"path": path} for key, path in paths.items()})
    assert {key: path for key, (path, _) in places(con).items()} == wanted
    assert {"L0/1", "L0/2"}.isdisjoint(wanted)
    cut = sum(paths[key] != path for key, path in wanted.items())
    assert done.notes == {"in a module of their own (left out)": len(paths) - len(wanted), SHORTER: cut}


def test_the_rank_of_the_leaf_is_no_module(con, tmp_path: Path) -> None:
    content = {"L0/1": {"path": "1:1:1"}, "L0/2": {"path": "1:1:2"}, "L0/3": {"path": "1:2"}, "L1/1": {"path": "2:1"}}
    assigned(con, tmp_path, content)
    assert {key: path for key, (path, _) in places(con).items()} == {"L0/1": "1.1", "L0/2": "1.1", "L0/3": "1"}


def test_assignments_that_cannot_be_used_are_counted(con, tmp_path: Path) -> None:
    good = {"L0/1": {"path": "1"}, "L0/2": {"path": "1"}}
    bad = {"L9/1": {"path": "1"}, "L0/99": "1", "mean": {"path": "1"}, "L1/1": {"path": "a.b"}, "0_1": {"path": "1"}}
    bad |= {"L1/2": {"path": None}, "L1/3": 5, "L1/4": {"path": "1.12345678901"}}
    done = assigned(con, tmp_path, good | bad)
    assert done.rejected == {
        "without a module path": 4,
        "out of the model's range": 2,
        "for a neuron that has an earlier one": 1,
        "with an unreadable neuron id": 1,
    }
    assert (done.rows_in, done.rows_out) == (10, 2)
    with pytest.raises(InputError, match=r"assignments\.json: at 'L9/1' out of the model's range"):
        assigned(con, tmp_path, good | bad, strict=True)


@pytest.mark.parametrize("text", ["", "[]", '{"assignments": {"L0/1": {"path": "1"}', '{"assignments": 3}', "{}"])
def test_files_that_are_no_assignments(con, tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        import_assignments(con, file, layers=LAYERS, d_mlp=D_MLP)


def test_a_neuron_whose_first_assignment_is_unusable_keeps_the_next(con, tmp_path: Path) -> None:
    content = {"L0/1": "nowhere", "0_1": "3", "0/1": "4", "L0/2": "3"}
    done = assigned(con, tmp_path, content)
    assert places(con) == {"L0/1": ("3", None), "L0/2": ("3", None)}
    assert done.rejected == {"for a neuron that has an earlier one": 1, "without a module path": 1}


def test_odd_text_and_numbers_of_assignments_are_no_crash(con, tmp_path: Path) -> None:
    content = {"\ud800": "1", "L0/1": "1", "L0/2": {"path": "1", "flow": 10**400}, "L0/3": "\udfff", "L0/4": ["\ud800"]}
    done = assigned(con, tmp_path, content)
    assert places(con) == {"L0/1": ("1", None), "L0/2": ("1", None)}
    assert done.rejected == {"without a module path": 2, "with an unreadable neuron id": 1}
    (tmp_path / "latin.json").write_bytes('{"assignments": {"L0/1": "1", "L0/2": "é"}}'.encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 text"):
        import_assignments(con, tmp_path / "latin.json", layers=LAYERS, d_mlp=D_MLP)


def tree(*, depth: int | None = None, fields: int | None = None) -> dict[str, dict]:
    """Sixty neurons, ten in each of six modules, with paths that end in their ranks; depth and fields as asked."""
    found = {}
    for i in range(60):
        path = [i // 30 + 1, i // 10 % 3 + 1, i % 10 + 1]
        value = {"path": ".".join(map(str, path))}
        if depth is not None:
            value["depth"] = depth
        if fields is not None:
            value |= dict(zip(("top", "sub", "subsub"), path[:fields] + [None] * (3 - fields), strict=True))
        found[f"L{i // 20}/{i % 20}"] = value
    return found


def modules_by_hand() -> dict[str, str]:
    return {f"L{i // 20}/{i % 20}": f"{i // 30 + 1}.{i // 10 % 3 + 1}" for i in range(60)}


def found_paths(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    return {key: path for key, (path, _) in places(con).items()}


def test_ranks_are_cut_where_nearly_all_paths_differ(con, tmp_path: Path) -> None:
    content = tree()
    content["L0/1"] = content["L0/0"]  # one path twice: no module of two
    done = assigned(con, tmp_path, content)
    assert found_paths(con) == modules_by_hand()
    assert done.notes == {CUT: 60}


@pytest.mark.parametrize("told", [{"depth": 2}, {"fields": 2}])
def test_ranks_are_cut_where_the_file_names_one_module_less(con, tmp_path: Path, told: dict) -> None:
    content = tree(**told)
    others = {f"L3/{i}": {"path": "1.1.1", "top": 1, "sub": 1, "subsub": 1, "depth": 3} for i in range(20)}
    done = assigned(con, tmp_path, content | others)  # real modules of three levels in the same file stay
    assert found_paths(con) == modules_by_hand() | dict.fromkeys(others, "1.1.1")
    assert done.notes == {CUT: 60}


def test_a_depth_counted_from_zero_is_no_rank(con, tmp_path: Path) -> None:
    content = {f"L0/{i}": {"path": f"1.{i // 10 + 1}", "depth": 1} for i in range(40)}
    done = assigned(con, tmp_path, content)
    assert set(found_paths(con).values()) == {"1.1", "1.2", "1.3", "1.4"}
    assert done.notes == {COUNTED: 40}


def test_the_path_is_taken_where_the_fields_differ(con, tmp_path: Path) -> None:
    content = {
        f"L0/{i}": {"path": "158.4", "top": 158, "sub": 5 - (i < 6), "subsub": None, "depth": 2} for i in range(9)
    }
    content |= {f"L1/{i}": {"path": "158.4", "depth": 7} for i in range(2)}
    done = assigned(con, tmp_path, content)
    assert set(found_paths(con).values()) == {"158.4"}
    assert done.notes == {TAKEN: 3, "depth not of its path (the path is taken)": 2}


def test_a_deep_chain_of_modules_is_not_taken_for_ranks(con, tmp_path: Path) -> None:
    # One neuron directly in every module but the last: 39 of 40 paths differ, and each has the depth it says.
    chain = {f"L0/{i}": {"path": ".".join(["1"] * min(i + 1, 39)), "depth": min(i + 1, 39)} for i in range(40)}
    done = assigned(con, tmp_path, chain)
    assert found_paths(con) == {key: value["path"] for key, value in chain.items()} and done.notes == {}


def test_a_file_that_says_it_is_of_another_model(con, tmp_path: Path) -> None:
    members = {"L0/1": "1", "L0/2": "1"}
    for order in (("metadata", "assignments"), ("assignments", "metadata")):
        content = {"metadata": {"num_layers": 64, "neurons_per_layer": 25600}, "assignments": members}
        (tmp_path / "q.json").write_text(json.dumps({key: content[key] for key in order}))
        with pytest.raises(InputError, match=r"64 layers of 25600 neurons, this atlas has 4 of 50"):
            import_assignments(con, tmp_path / "q.json", layers=LAYERS, d_mlp=D_MLP)
    assert con.execute("SELECT count(*) FROM partitions").fetchall() == [(0,)]


def test_a_failed_import_leaves_the_earlier_one(con, tmp_path: Path) -> None:
    assigned(con, tmp_path, {"L0/1": "1", "L0/2": "1"})
    (tmp_path / "assignments.json").write_text('{"assignments": {"L0/1": "2", "L0/2": "2", "L0/3"')
    with pytest.raises(InputError, match="ends early"), transaction(con):
        import_assignments(con, tmp_path / "assignments.json", layers=LAYERS, d_mlp=D_MLP)
    assert found_paths(con) == {"L0/1": "1", "L0/2": "1"}


def test_shares_are_kept_and_reading_writes_nothing(con, tmp_path: Path) -> None:
    file = tmp_path / "nmf.json"
    value = {"path": "1", "flow": 0.1, "membership": 1 / 3}
    file.write_text(json.dumps({"assignments": {"L0/1": value, "L0/2": {"path": "1", "membership": True}}}))
    read_assignments(con, file, layers=LAYERS, d_mlp=D_MLP)
    assert con.execute("SELECT count(*) FROM partitions").fetchall() == [(0,)]
    found = con.execute("SELECT neuron, flow, membership FROM temp.assignments ORDER BY neuron").fetchall()
    assert found == [(1, 0.1, 1 / 3), (2, None, None)]
