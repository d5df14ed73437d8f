"""Clusterings of an atlas: stored whole or not at all, one of them shown, forecasts that refuse; recipes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planted_edges import planted, write_edges

pytest.importorskip("infomap")
pytest.importorskip("igraph")

import atlas
from atlas.build.clustering import RunOptions, cluster_atlas, forecast, require, use_clustering
from atlas.build.recipe import read_recipe
from atlas.derive.clustering.methods import METHODS, make_options
from atlas.errors import InputError, ResourceError, StoreError
from atlas.store.connection import open_writer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_edges(tmp_path_factory.mktemp("atlas") / "planted.duckdb", planted())


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(made, tmp_path / "a.duckdb"))


def shown(file: Path) -> tuple[str, int]:
    """The primary clustering; faults when neurons, clusters and partitions do not show it alike."""
    with atlas.open(file) as a:
        name = a.metadata["primary_clustering"]
        differ = a.sql(
            "SELECT n.layer FROM neurons AS n LEFT JOIN (FROM partitions WHERE clustering = "
            "(SELECT value FROM metadata WHERE key = 'primary_clustering')) AS p USING (layer, neuron) "
            "WHERE n.cluster_path IS DISTINCT FROM p.cluster_path"
        ).rows()
        modules = a.sql("SELECT count(*) AS n FROM clusters").rows()[0]["n"]
        counted = a.sql("SELECT clustering, modules FROM clusterings").rows()
        assert not differ and {"clustering": name, "modules": modules} in counted
        assert all(check.healthy for check in a.check())
    return name, modules


def test_the_first_is_shown_and_a_later_one_on_request(file: Path) -> None:
    first = cluster_atlas(file, "infomap", {})
    assert first["primary"] and shown(file) == ("infomap", first["modules"])
    second = cluster_atlas(file, "louvain-hierarchical", {"seed": 3, "name": "levels"})
    assert not second["primary"] and shown(file)[0] == "infomap"
    assert use_clustering(file, "levels")["primary"] and shown(file) == ("levels", second["modules"])
    with atlas.open(file) as a:
        assert a.metadata["cluster_method"].startswith("louvain-hierarchical, every level, both directions added")
        assert a.metadata["seeds"] == "louvain-hierarchical 3"
        assert [row["clustering"] for row in a.clusterings().rows()] == ["levels", "infomap"]
    hidden = cluster_atlas(file, "leiden", {"max_size": 30}, how=RunOptions(primary=False))
    assert not hidden["primary"] and shown(file)[0] == "levels"
    assert cluster_atlas(file, "leiden", {"max_size": 20}, how=RunOptions(primary=True))["primary"]
    assert shown(file)[0] == "leiden"


def test_a_primary_run_made_again_is_shown_anew(file: Path) -> None:
    cluster_atlas(file, "leiden", {"max_size": 100})
    again = cluster_atlas(file, "leiden", {"max_size": 10}, how=RunOptions(primary=False))
    assert again["primary"] and shown(file) == ("leiden", again["modules"])


def test_a_killed_run_leaves_the_atlas_as_it_was(file: Path) -> None:
    before = file.read_bytes()
    code = "from atlas.cli.main import main; main()"
    command = [sys.executable, "-c", code, "cluster", str(file), "--method", "leiden", "--trials", "100000"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(atlas.__file__).parents[1])
    assert running.stderr is not None
    while b"reading edges" not in running.stderr.readline():
        assert running.poll() is None
    time.sleep(0.2)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    running.stderr.close()
    assert file.read_bytes() == before


def test_what_fails_while_it_is_stored_leaves_the_atlas_as_it_was(file: Path) -> None:
    con = open_writer(file)
    con.execute("UPDATE neurons SET feature_id = feature_id")  # a healthy file, then an edge table that is not
    con.execute("DELETE FROM edges_in WHERE tgt = (SELECT max(tgt) FROM edges_in)")
    con.close()
    before = file.read_bytes()
    with pytest.raises(StoreError, match="with this clustering the atlas fails its checks"):
        cluster_atlas(file, "infomap", {})
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_forecast_counts_and_refuses_with_both_numbers(file: Path) -> None:
    found = forecast(file, "infomap", {}, how=RunOptions(memory=1 << 20))
    assert found.need.entries == len(planted()) and found.disk > file.stat().st_size
    with pytest.raises(ResourceError, match=r"takes about 0\.\d+ GiB of memory, 0\.00 GiB are allowed"):
        require(found)
    small, large = (forecast(file, "infomap", {"min_count": count}).need for count in (3, 1))
    assert small.entries == large.entries and small.memory > 100 << 20
    before = file.read_bytes()
    with pytest.raises(ResourceError):
        cluster_atlas(file, "infomap", {}, how=RunOptions(memory=1 << 20))
    assert file.read_bytes() == before


@pytest.mark.parametrize("method", ["kmeans", "nmf", "spectral"])
def test_a_forecast_grows_with_the_number_of_modules(file: Path, method: str) -> None:
    usual, more = (forecast(file, method, {"min_count": 1, "k": k}).need for k in (None, 20))
    assert more.seconds > usual.seconds
    assert (more.memory > usual.memory) == (method != "kmeans")  # its points are as wide for any k


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("kmeans", {"max_size": 3}, "kmeans has no max-size; it takes k"),
        ("infomap", {"resolution": 2.0}, "infomap has no resolution"),
        ("guess", {}, "no method 'guess'; choose infomap"),
        ("infomap", {"min_count": 0}, "min-count is 0"),
        ("infomap", {"trials": 0}, "trials is 0"),
        ("infomap", {"seed": -1}, "seed is -1"),
        *((method, {"seed": 1 << 64}, "seed is 18446744073709551616, it must be at most") for method in METHODS),
        ("infomap", {"name": "import:x"}, "cannot be called"),
        ("infomap", {"name": "primary"}, "cannot be called"),  # compare and export mean the one that is shown
        ("infomap", {"name": "two\nlines"}, "cannot be called"),
        ("infomap", {"name": ""}, "cannot be called"),
        ("infomap", {"weight": "mean_weight"}, "negative"),
    ],
)
def test_options_that_do_not_fit_are_refused(file: Path, method: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cluster_atlas(file, method, given)


def test_unknown_names_and_names_of_other_methods(file: Path) -> None:
    with pytest.raises(InputError, match=r"no clustering 'mine' in a\.duckdb; there is none"):
        use_clustering(file, "mine")
    cluster_atlas(file, "infomap", {"name": "mine"})
    with pytest.raises(InputError, match="'mine' is a clustering by infomap"):
        cluster_atlas(file, "leiden", {"name": "mine"})
    with pytest.raises(InputError, match=r"no clustering 'other' in a\.duckdb"):
        use_clustering(file, "other")


def test_an_atlas_without_edges_is_one_line(tmp_path: Path) -> None:
    file = write_edges(tmp_path / "bare.duckdb", {})
    for method in ("infomap", "leiden", "louvain-hierarchical", "kmeans"):
        with pytest.raises(StoreError, match="no edge"):
            cluster_atlas(file, method, {})
    with pytest.raises(InputError, match="no atlas at"):
        cluster_atlas(tmp_path / "none.duckdb", "infomap", {})


def test_every_method_has_options_of_its_own() -> None:
    assert [type(make_options(method, {"seed": 1})).__name__ for method in METHODS] == [
        "InfomapOptions", "LeidenOptions", "LouvainOptions", "ProfileOptions", "ProfileOptions", "ProfileOptions",
    ]  # fmt: skip


ASSEMBLY = 'name = "a"\natlas = "a.duckdb"\n[sizes]\nlayers = 2\nd_mlp = 4\n[edges]\nstore = "st"\n[cluster]\n'


def test_a_recipe_names_the_method_and_its_options(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(ASSEMBLY + 'method = "leiden"\nmax_size = 50\nresolution = 2\nweight = "count"\n')
    assert read_recipe(recipe).cluster.options() == {
        "min_count": 3, "seed": 42, "weight": "count", "resolution": 2.0, "max_size": 50,
    }  # fmt: skip
    for keys, message in [
        ('method = "best"\n', "r.toml: cluster: no method 'best'"),
        ("max_size = 5\n", "cluster: infomap has no max-size"),
        ('method = "kmeans"\ntrials = 4\n', "cluster: kmeans has no trials"),
        ("depth = 5\n", "unknown key 'depth'"),
        ('k = "many"\n', "k must be int"),
    ]:
        recipe.write_text(ASSEMBLY + keys)
        with pytest.raises(InputError, match=message):
            read_recipe(recipe)
