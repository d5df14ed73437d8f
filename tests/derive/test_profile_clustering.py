"""Clusterings by profile: hand-made graphs and firings, dense numpy as the oracle, same seed same modules."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import edge_sums, random_tables, write_atlas

pytest.importorskip("scipy")

import atlas
from atlas.derive.clustering import kmeans, nmf, profiles, spectral
from atlas.derive.clustering.profiles import ProfileOptions, directions, module_count, placed, read_profiles
from atlas.errors import InputError, ResourceError, StoreError
from atlas.ingest.partitions import write_clustering
from atlas.store.connection import open_writer

D_MLP, LAYERS = 40, 3
GROUPS = 4  # group of neuron n of any layer: n % GROUPS
METHODS = {"kmeans": kmeans, "nmf": nmf, "spectral": spectral}


def grouped_tables() -> dict:
    """Neurons that send to, and fire on the tokens of, their own group; a weak edge now and then between groups."""
    rng = np.random.default_rng(3)
    tables = random_tables(1, layers=LAYERS, d_mlp=D_MLP)
    edges: dict[tuple[int, int], list[float]] = {}
    for src in range(D_MLP * (LAYERS - 1)):
        for tgt in range((src // D_MLP + 1) * D_MLP, D_MLP * LAYERS):
            same = src % GROUPS == tgt % GROUPS
            if rng.random() < (0.6 if same else 0.02):
                edges[src, tgt] = [(1.0 + rng.random()) * (1 if same else 0.1) * rng.choice([-1, 1]) for _ in range(4)]
    tables["edges"] = [
        {"src": s, "tgt": t, "src_layer": s // D_MLP, "src_neuron": s % D_MLP, **edge_sums(flow)}
        for (s, t), flow in sorted(edges.items())
    ]
    tables["token_stats"] = [
        {"layer": layer, "neuron": n, "polarity": sign, "token_id": token, "n": 5, "sum": sign * 5.0 * strength,
         "max": 1.0, "min": 1.0}
        for layer in range(LAYERS) for n in range(D_MLP) for sign in (1, -1) for token in range(40)
        if (strength := float(rng.random()) * (1 if token % GROUPS == n % GROUPS else 0.02)) > 0.01
    ]  # fmt: skip
    return tables


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory):
    file = write_atlas(tmp_path_factory.mktemp("g") / "g.duckdb", grouped_tables(), layers=LAYERS, d_mlp=D_MLP)
    with atlas.open(file) as opened:
        yield opened.con


@pytest.mark.parametrize("profile", ["edges", "activations"])
@pytest.mark.parametrize("method", METHODS)
def test_planted_groups_are_found(con, method: str, profile: str) -> None:
    options = ProfileOptions(k=GROUPS, profile=profile)
    run, found = METHODS[method].find(con, options=options, d_mlp=D_MLP)
    groups = defaultdict(set)
    for packed, path in zip(found.ids.tolist(), found.paths.tolist(), strict=True):
        groups[path].add(packed % GROUPS)
    assert sorted(map(sorted, groups.values())) == [[0], [1], [2], [3]]
    assert set(groups) == {"1", "2", "3", "4"} and len(found.ids) == LAYERS * D_MLP
    assert (run.name, run.method, run.seed, run.parameters["k"]) == (method, method, 42, GROUPS)
    assert run.quality_measure == ("reconstruction_error" if method == "nmf" else "inertia")
    assert (run.edges is None) == (profile == "activations")
    again = METHODS[method].find(con, options=options, d_mlp=D_MLP)
    assert again[0] == run and again[1].paths.tolist() == found.paths.tolist()


def test_edge_profiles_are_those_of_plain_python(con) -> None:
    out, into = defaultdict(dict), defaultdict(dict)
    rows = con.execute("SELECT src, tgt, mean_abs_weight FROM edges WHERE count >= 3 ORDER BY ALL").fetchall()
    for src, tgt, weight in rows:
        out[src][tgt] = into[tgt][src] = weight
    found = read_profiles(con, options=ProfileOptions(), d_mlp=D_MLP)
    assert found.ids.tolist() == sorted({*out, *into}) and found.entries == len(rows)
    dense, n = found.rows.toarray(), len(found.ids)
    place = {packed: i for i, packed in enumerate(found.ids.tolist())}
    for packed in found.ids.tolist():
        wanted = np.zeros(2 * n)
        for start, partners in ((0, out[packed]), (n, into[packed])):
            length = sum(w * w for w in partners.values()) ** 0.5
            for partner, weight in partners.items():
                wanted[start + place[partner]] = weight / length
        np.testing.assert_allclose(dense[place[packed]], wanted / np.linalg.norm(wanted), atol=1e-6)


def test_activation_profiles_keep_the_signs_apart(con) -> None:
    found = read_profiles(con, options=ProfileOptions(profile="activations"), d_mlp=D_MLP)
    rows = con.execute(
        "SELECT layer * 40 + neuron, polarity, token_id, sum / n FROM token_stats WHERE n >= 3"
    ).fetchall()
    columns = sorted({(token, polarity < 0) for _, polarity, token, _ in rows})
    wanted = np.zeros((len(found.ids), len(columns)))
    for packed, polarity, token, mean in rows:
        wanted[found.ids.tolist().index(packed), columns.index((token, polarity < 0))] = abs(mean)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found.rows.toarray(), wanted, atol=1e-6)


def test_directions_are_those_of_the_full_decomposition() -> None:
    from scipy.sparse import csr_array

    rng = np.random.default_rng(0)
    rows = (rng.random((60, 5)) @ rng.random((5, 90))).astype(np.float32)
    found = directions(csr_array(rows), dimensions=3, seed=1)
    left, strength, _ = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    wanted = left[:, :3] * strength[:3]
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-3)
    assert (found[np.abs(found).argmax(axis=0), range(3)] > 0).all()
    assert directions(csr_array(rows), seed=1).shape[1] == 5  # its rank: no direction of rounding


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_kmeans_is_a_fixed_point_of_lloyd(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((30, 3)).astype(np.float32)
    labels, inertia = kmeans.kmeans(points, k, seed=seed)
    centres = {m: points[labels == m].mean(axis=0) for m in set(labels.tolist())}
    spent = 0.0
    for point, label in zip(points, labels.tolist(), strict=True):
        distances = {m: float(((point - centre) ** 2).sum()) for m, centre in centres.items()}
        assert distances[label] <= min(distances.values()) + 1e-5
        spent += distances[label]
    assert inertia == pytest.approx(spent, rel=1e-4)


def test_kmeans_of_coinciding_points() -> None:
    labels, inertia = kmeans.kmeans(np.ones((6, 2), np.float32), 3, seed=0)
    assert len(set(labels.tolist())) == 1 and inertia == 0


def test_nmf_error_is_what_is_left_over() -> None:
    from scipy.sparse import random_array

    rows = random_array((40, 30), density=0.3, rng=np.random.default_rng(2), format="csr").astype(np.float32)
    errors = []
    for k in (2, 6, 12):
        loadings, components, error = nmf.factorise(rows, k, seed=0)
        assert (loadings >= 0).all() and (components >= 0).all()
        rest = rows.toarray() - loadings.T @ components
        assert error == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(rows.toarray()), rel=1e-3)
        errors.append(error)
    assert errors[0] > errors[1] > errors[2]


def test_memberships_are_shares(con) -> None:
    _, found = nmf.find(con, options=ProfileOptions(k=GROUPS), d_mlp=D_MLP)
    assert found.membership is not None
    assert ((found.membership > 1 / GROUPS) & (found.membership <= 1)).all()
    assert found.membership.mean() > 0.6  # each neuron is of one group, but for a weak edge


def test_parts_that_are_not_linked_are_modules_of_their_own(tmp_path: Path) -> None:
    tables = grouped_tables()
    kept = [e for e in tables["edges"] if e["src"] % GROUPS == e["tgt"] % GROUPS and e["src"] % GROUPS in (0, 1)]
    few = [e for e in kept if e["src"] % GROUPS == 0 or e["src"] < 8]  # group 1: two sources only, the smaller part
    tables["edges"] = few
    file = write_atlas(tmp_path / "parts.duckdb", tables, layers=LAYERS, d_mlp=D_MLP)
    with atlas.open(file) as opened:
        _, found = spectral.find(opened.con, options=ProfileOptions(k=2), d_mlp=D_MLP)
    inside = {path for packed, path in zip(found.ids, found.paths, strict=True) if packed % GROUPS == 1}
    others = {path for packed, path in zip(found.ids, found.paths, strict=True) if packed % GROUPS == 0}
    assert len(inside) == 1 and len(others) == 2 and not inside & others


def test_modules_by_falling_size_then_smallest_id_without_those_of_one() -> None:
    ids = np.arange(10) * 7
    found = placed(ids, np.array([3, 3, 0, 0, 9, 5, 5, 5, -1, -1]))
    assert found.ids.tolist() == [0, 7, 14, 21, 35, 42, 49]
    assert found.paths.tolist() == ["2", "2", "3", "3", "1", "1", "1"]


def test_the_rule_for_k() -> None:
    assert module_count(ProfileOptions(), 1_638_400, most=1024) == 905
    assert module_count(ProfileOptions(), 3, most=64) == 2
    assert module_count(ProfileOptions(), 10**6, most=64) == 64
    for k in (1, 0, -3, 11):
        with pytest.raises(InputError, match=rf"k is {k}, and 10 neurons"):
            module_count(ProfileOptions(k=k), 10, most=64)


def test_rows_are_written_to_partitions(tmp_path: Path) -> None:
    file = write_atlas(tmp_path / "w.duckdb", grouped_tables(), layers=LAYERS, d_mlp=D_MLP)
    con = open_writer(file)
    run, found = nmf.find(con, options=ProfileOptions(name="mine", k=GROUPS), d_mlp=D_MLP)
    assert write_clustering(con, run, found, d_mlp=D_MLP) == len(found.ids)
    row = con.execute("SELECT method, neurons, modules, levels FROM clusterings WHERE clustering = 'mine'").fetchall()
    assert row == [("nmf", len(found.ids), GROUPS, 1)]
    con.close()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_cluster_and_too_much_are_one_line(con, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    find = METHODS[method].find
    with pytest.raises(StoreError, match="no edge has a count of at least 99"):
        find(con, options=ProfileOptions(min_count=99), d_mlp=D_MLP)
    with pytest.raises(StoreError, match="no token that fires a neuron"):
        find(con, options=ProfileOptions(min_count=99, profile="activations"), d_mlp=D_MLP)
    with pytest.raises(InputError, match="no profile 'words'"):
        find(con, options=ProfileOptions(profile="words"), d_mlp=D_MLP)  # type: ignore[arg-type]
    monkeypatch.setattr(profiles, "available_memory", lambda: 1000)
    with pytest.raises(
        ResourceError, match=r"profiles of [\d,]+ edges need about 0\.0 GiB of memory, 0\.0 GiB are free"
    ):
        find(con, options=ProfileOptions(), d_mlp=D_MLP)


def test_without_scipy_one_line(con, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="need scipy, which is not installed; pip install scipy"):
        kmeans.find(con, options=ProfileOptions(), d_mlp=D_MLP)
