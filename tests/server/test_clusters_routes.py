"""Cluster files over HTTP: k-means of a layer's activations, and new clusterings of the atlas."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx2 as httpx
import numpy as np
import pytest
from seed_examples import CLUSTERS, FILES, form_faults
from served import Served

TOKENS = 6
FILE = "three_groups.json"


@pytest.fixture(scope="module")
def points(demo_server: Served) -> Any:
    """Activations [neurons, tokens] of layer 2 of a file whose neurons fall into three groups, far apart."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 9, 0, 0, 0], [5, -5, 0, 0, 5, 0], [0, 0, 0, 0, 0, 20]], float)
    found = centres[np.arange(60) % 3] + rng.normal(0, 0.1, (60, TOKENS))
    neurons = [{"neuron_index": 2 * i, "activations": row.tolist()} for i, row in enumerate(found)]
    content = {"prompt": "p", "tokens": list("abcdef"), "layers": [{"layer_index": 2, "neurons": neurons}]}
    folder = demo_server.settings.folder / "activations"
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(json.dumps(content))
    return found


def test_groups_are_found_with_their_means(demo_server: Served, points: Any) -> None:
    told = demo_server.client.post(
        "/api/clusters/generate", json={"activation_file": FILE, "layer_index": 2, "n_clusters": 3}
    ).json()
    assert form_faults(told, CLUSTERS) == []
    assert told["layer"] == 2 and [one["cluster_id"] for one in told["clusters"]] == [0, 1, 2]
    groups = {tuple(one["neuron_indices"]) for one in told["clusters"]}
    assert groups == {tuple(2 * i for i in range(60) if i % 3 == k) for k in range(3)}
    inertia = 0.0
    for one in told["clusters"]:
        members = points[[neuron // 2 for neuron in one["neuron_indices"]]]
        assert one["centroid"] == pytest.approx(members.mean(0).tolist())
        inertia += float(((members - members.mean(0)) ** 2).sum())
    assert told["inertia"] == pytest.approx(inertia, rel=1e-4)


def test_the_answer_is_a_file_and_listed(demo_server: Served, points: Any) -> None:
    body = {"activation_file": FILE, "layer_index": 2, "n_clusters": 5, "seed": 3}
    told = demo_server.client.post("/api/v1/clusters/generate?wait=60", json=body).json()["data"]
    assert told["filename"] == "three_groups_layer_2_clusters.json"
    listed = demo_server.client.get("/api/clusters/files").json()
    assert form_faults(listed, FILES) == [] and told["filename"] in listed["files"]
    read = demo_server.client.get(f"/api/clusters/{told['filename']}").json()
    assert read == {"layer": told["layer"], "clusters": told["clusters"]}
    sizes = [len(one["neuron_indices"]) for one in read["clusters"]]
    assert sum(sizes) == 60 and sizes == sorted(sizes, reverse=True)
    centres = np.array([one["centroid"] for one in read["clusters"]])
    nearest = ((points[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    for one in read["clusters"]:  # every neuron is nearest to its own centroid
        assert {int(nearest[neuron // 2]) for neuron in one["neuron_indices"]} == {one["cluster_id"]}
    again = demo_server.client.post("/api/v1/clusters/generate?wait=60", json=body).json()["data"]
    assert again == told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation_file": "none.json"}, "no file 'none.json'"),
        ({"activation_file": "../tokens.json"}, "activation_file"),
        ({"activation_file": "/etc/passwd"}, "activation_file"),
        ({"layer_index": 0}, "has no layer 0; it has 2"),
        ({"layer_index": -1}, "layer_index"),
        ({"n_clusters": 61}, "60 neurons of layer 2"),
        ({"n_clusters": 0}, "n_clusters"),
        ({"n_clusters": "3"}, "n_clusters"),
        ({"more": 1}, "more"),
    ],
)
def test_bad_requests(demo_server: Served, points: Any, change: dict[str, Any], said: str) -> None:
    body = {"activation_file": FILE, "layer_index": 2, "n_clusters": 3} | change
    found = demo_server.client.post("/api/clusters/generate", json=body)
    assert found.status_code == 400 and said in found.json()["error"], found.text


def test_activations_that_are_no_numbers_are_refused(demo_server: Served, points: Any) -> None:
    file = demo_server.settings.folder / "activations" / FILE
    content = json.loads(file.read_text())
    content["layers"][0]["neurons"][0]["activations"][0] = None
    (file.parent / "null.json").write_text(json.dumps(content))
    found = demo_server.client.post(
        "/api/clusters/generate", json={"activation_file": "null.json", "layer_index": 2, "n_clusters": 2}
    )
    assert found.status_code == 400 and "no numbers" in found.json()["error"]


def test_a_clustering_is_stored_and_the_server_shows_it(
    demo_file: Path, tmp_path: Path, start: Callable[..., Served]
) -> None:
    served = start(Path(shutil.copyfile(demo_file, tmp_path / "demo.duckdb")))
    body = {"method": "kmeans", "k": 6, "name": "six", "primary": True}
    told = served.client.post("/api/v1/clusterings?wait=120", json=body)
    assert told.status_code == 200, told.text
    row = told.json()["data"]
    assert (row["clustering"], row["method"], row["primary"], row["levels"]) == ("six", "kmeans", True, 1)
    with duckdb.connect(str(served.settings.atlas), read_only=True) as con:
        stored = con.execute(
            "SELECT count(*), count(DISTINCT cluster_path) FROM partitions WHERE clustering = 'six'"
        ).fetchall()
    assert stored == [(row["neurons"], row["modules"])]
    query = served.client.post("/api/queries/cluster", json={"cluster_id": 0}).json()  # of what is shown now
    assert query["cluster_path"] == "1"
    assert served.client.post("/api/queries/cluster", json={"cluster_id": row["modules"]}).status_code == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"method": "none"}, "method"),
        ({"method": "infomap", "k": 3}, "infomap has no k"),
        ({"method": "leiden", "weight": "(SELECT 1)"}, "weight"),
        ({"method": "kmeans", "k": 1}, "k"),
        ({"method": "kmeans", "k": 1000000, "name": "x"}, "choose k from 2"),
        ({"method": "kmeans", "name": "primary"}, "cannot be called 'primary'"),
    ],
)
def test_bad_clusterings(demo_server: Served, body: dict[str, Any], said: str) -> None:
    found = demo_server.client.post("/api/v1/clusterings?wait=60", json=body)
    assert found.status_code == 400 and said in found.json()["error"], found.text


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    """A server whose files may not grow beyond 300,000 bytes: what a job writes, and what a request does."""
    from synthetic import small_tables, write_atlas

    file, data = write_atlas(tmp_path / "small.duckdb", small_tables()), tmp_path / "data"
    (data / "activations").mkdir(parents=True)
    rows = np.random.default_rng(0).normal(size=(400, 60))
    neurons = [{"neuron_index": i, "activations": row.tolist()} for i, row in enumerate(rows)]
    content = {"prompt": "p", "tokens": ["t"] * 60, "layers": [{"layer_index": 0, "neurons": neurons}]}
    (data / "activations" / "many.json").write_text(json.dumps(content))
    (data / "samples.json").write_text(json.dumps(["x" * 9000 + str(i) for i in range(34)]))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
        "from atlas.cli.main import main; main()"
    )
    words = ["serve", "--atlas", str(file), "--data", str(data), "--port", "0"]
    with subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = server.stderr.readline().split()[0].rstrip("/")
        try:
            body = {"activation_file": "many.json", "layer_index": 0, "n_clusters": 400}
            job = httpx.post(f"{url}/api/v1/clusters/generate?wait=100", json=body, timeout=120)
            sample = httpx.post(f"{url}/api/samples", json={"prompt": "y" * 9000}, timeout=60)
        finally:
            server.terminate()
    assert (job.status_code, sample.status_code) == (503, 503), (job.text, sample.text)
    assert "disk full while writing" in job.json()["error"] and "the disk is full" in sample.json()["error"]
    assert not list((data / "clusters").iterdir())  # nothing half-written
    assert len(json.loads((data / "samples.json").read_text())) == 34
