"""Neuronpedia exports over HTTP: the package of the command, its states, ranges, and an end at any time."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from seed_examples import EXPORT_STATUS, form_faults
from served import Served

MODEL = Path(__file__).parents[2] / "data" / "demo" / "model"
PATH = "/api/v1/neuronpedia"
SEVEN = {"selection": "range", "range": [380, 386], "logit_lens_k": 5, "histogram_bins": 12, "top_tokens_k": 9}


def ask(served: Served, body: dict[str, Any], *, status: int = 200) -> dict[str, Any]:
    """Start an export and wait for its end."""
    found = served.client.post(f"{PATH}/export?wait=300", json=body, timeout=320)
    assert found.status_code == status, found.text
    return dict(found.json()["data"] if status == 200 else found.json())


@pytest.fixture(scope="module")
def made(demo_server: Served) -> dict[str, Any]:
    """One export, complete."""
    pytest.importorskip("torch")
    return ask(demo_server, SEVEN)


def test_it_starts_at_once_and_has_every_field(demo_server: Served) -> None:
    found = demo_server.client.post(f"{PATH}/export", json=SEVEN)
    told = found.json()["data"]
    assert found.status_code == 202 and found.headers["location"] == f"{PATH}/export/{told['id']}"
    assert form_faults(told, EXPORT_STATUS, nulls=True) == []
    assert told["status"] in ("pending", "computing") and told["feature_count"] == 7
    states = [told["status"]]
    while states[-1] not in ("completed", "failed", "cancelled"):
        time.sleep(0.05)
        states.append(demo_server.client.get(found.headers["location"]).json()["data"]["status"])
    order = ["pending", "computing", "packaging", "completed"]
    assert [order.index(state) for state in states] == sorted(order.index(state) for state in states)


def test_the_end_is_told(demo_server: Served, made: dict[str, Any]) -> None:
    told = demo_server.client.get(f"{PATH}/export/{made['id']}").json()["data"]
    assert told == made and form_faults(told, EXPORT_STATUS) == []
    assert (told["status"], told["progress"], told["feature_count"]) == ("completed", 1.0, 7)
    assert told["file_size_bytes"] == Path(told["output_path"]).stat().st_size
    assert told["created_at"] <= told["started_at"] <= told["completed_at"]
    assert told["config"]["range"] == [380, 386] and told["error_message"] is None


def test_the_archive_is_that_of_the_command(demo_server: Served, made: dict[str, Any], tmp_path: Path) -> None:
    from atlas.cli.main import main

    with pytest.raises(SystemExit) as left:
        main(
            ["export", "neuronpedia", "--layout", "prd", "--range", "380:386", "--top-k", "5", "--bins", "12",
             "--top-tokens", "9", "--model", str(MODEL), "-o", str(tmp_path / "it.zip"), "-q",
             "--atlas", str(demo_server.settings.atlas)]
        )  # fmt: skip
    assert not left.value.code
    found = demo_server.client.get(made["download"])
    assert found.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(found.content)) as ours, zipfile.ZipFile(tmp_path / "it.zip") as theirs:
        assert ours.testzip() is None and ours.namelist() == theirs.namelist()
        for name in ours.namelist():
            if name not in ("metadata.json", "README.md"):  # which hold the path of the model and hashes
                assert ours.read(name) == theirs.read(name), name
        meta = json.loads(ours.read("metadata.json"))
        assert meta["feature_count"] == 7 and set(meta["includes"].values()) == {True}
        assert {"features/380.json", "saelens/metadata.json"} <= set(ours.namelist())


def test_ranges_and_tags(demo_server: Served, made: dict[str, Any]) -> None:
    whole = demo_server.client.get(made["download"])
    assert int(whole.headers["content-length"]) == len(whole.content) == made["file_size_bytes"]
    assert whole.headers["content-disposition"] == 'attachment; filename="atlas-demo-neurons-prd.zip"'
    part = demo_server.client.get(made["download"], headers={"range": "bytes=10-29"})
    assert part.status_code == 206 and part.content == whole.content[10:30]
    tag = whole.headers["etag"]
    same = demo_server.client.get(made["download"], headers={"if-none-match": f'"other", W/{tag}'})
    assert same.status_code == 304 and same.content == b"" and same.headers["etag"] == tag
    beyond = demo_server.client.get(made["download"], headers={"range": "bytes=99999999-"})
    assert beyond.status_code == 416


def test_an_unfinished_export_is_not_downloaded_and_can_be_cancelled(demo_server: Served) -> None:
    first = demo_server.client.post(f"{PATH}/export", json={"selection": "all"}).json()["data"]["id"]
    second = demo_server.client.post(f"{PATH}/export", json={"selection": "all"}).json()["data"]["id"]
    for one in (second, first):  # the second waits for the first
        early = demo_server.client.get(f"{PATH}/export/{one}/download")
        assert early.status_code == 409 and "nothing to download" in early.json()["error"]
        ended = demo_server.client.post(f"{PATH}/export/{one}/cancel").json()["data"]
        assert ended["status"] == "cancelled" and ended["completed_at"] is None
        assert not (demo_server.settings.folder / "jobs" / one).exists()
        assert demo_server.client.get(f"{PATH}/export/{one}/download").status_code == 409
    again = demo_server.client.post(f"{PATH}/export/{first}/cancel")
    assert again.status_code == 200 and again.json()["data"]["status"] == "cancelled"


@pytest.mark.parametrize("layout", ["bulk", "upload", "sae-dashboard"])
def test_other_layouts_come_as_one_file_too(demo_server: Served, layout: str) -> None:
    told = ask(demo_server, {"selection": "neurons", "neurons": ["L0/N5", 400], "layout": layout})
    assert told["feature_count"] == 2
    archive = demo_server.client.get(told["download"])
    with zipfile.ZipFile(io.BytesIO(archive.content)) as found:
        assert found.testzip() is None and {"metadata.json", "README.md"} <= set(found.namelist())
        assert json.loads(found.read("metadata.json"))["feature_count"] == 2
    assert [path.name for path in Path(told["output_path"]).parent.iterdir()] == [Path(told["output_path"]).name]


def test_what_is_left_out_is_not_there(demo_server: Served) -> None:
    off = dict.fromkeys(("logit_lens", "histograms", "top_tokens", "explanations", "saelens_weights"), False)
    told = ask(demo_server, {"selection": "range", "range": [3, 3], **off})
    with zipfile.ZipFile(told["output_path"]) as found:
        assert set(json.loads(found.read("metadata.json"))["includes"].values()) == {False}
        assert not [name for name in found.namelist() if name.startswith("saelens/")]


def test_a_select_chooses_but_reaches_nothing_else(demo_server: Served, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("layer,neuron\n0,1\n")
    told = ask(
        demo_server, {"selection": "sql", "sql": "SELECT layer, neuron FROM neurons WHERE layer = 1 AND neuron < 3"}
    )
    assert told["feature_count"] == 3
    refused = [
        (f"SELECT * FROM '{tmp_path}/rows.csv'", "the SELECT names a file"),
        ("SELECT 1 AS layer, 2 AS neuron FROM read_text('/etc/passwd')", "read_text is not answered here"),
        (f"COPY (SELECT 1) TO '{tmp_path}/out.csv'", "expected one SELECT"),
        ("SELECT 1 AS x", "columns layer and neuron"),
        ("SELECT layer, neuron FROM neurons; DROP TABLE neurons", "expected one SELECT"),
        ("no sql", "yntax"),
    ]
    for sql, said in refused:
        found = ask(demo_server, {"selection": "sql", "sql": sql}, status=400)
        assert said in found["error"], found
    assert not (tmp_path / "out.csv").exists()


def test_an_export_whose_worker_is_killed_goes_on(demo_server: Served) -> None:
    body = {"selection": "range", "range": [0, 399], "saelens_weights": False, "layout": "bulk"}
    job = demo_server.client.post(f"{PATH}/export", json=body).json()["data"]["id"]
    while (told := _status(demo_server, job))["status"] == "pending" or told["current_stage"] == "starting":
        time.sleep(0.01)
    assert told["status"] == "computing"
    for process in psutil.Process().children(recursive=True):
        if str(demo_server.settings.folder) in " ".join(process.cmdline()):
            process.kill()
    while (told := _status(demo_server, job))["status"] == "computing":
        time.sleep(0.01)
    assert (told["status"], told["resumable"]) == ("failed", True) and "SIGKILL" in told["error_message"]
    assert demo_server.client.get(f"{PATH}/export/{job}/download").status_code == 409
    assert demo_server.client.post(f"/api/v1/jobs/{job}/resume").status_code == 200
    ended = demo_server.client.get(f"/api/v1/jobs/{job}?wait=300", timeout=320).json()["data"]
    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    whole = demo_server.client.get(f"{PATH}/export/{job}/download")
    fresh = demo_server.client.get(ask(demo_server, body)["download"])
    assert whole.content == fresh.content and whole.headers["etag"] == fresh.headers["etag"]


def _status(served: Served, job: str) -> dict[str, Any]:
    return dict(served.client.get(f"{PATH}/export/{job}").json()["data"])


def test_history_is_newest_first_in_pages(demo_server: Served, made: dict[str, Any]) -> None:
    newest = ask(demo_server, {"selection": "range", "range": [0, 0], "saelens_weights": False})
    page = demo_server.client.get(f"{PATH}/exports?limit=1").json()["data"]
    assert page["exports"] == [newest]
    seen = [newest["id"]]
    while page["next"]:
        page = demo_server.client.get(f"{PATH}/exports?limit=1&before={page['next']}").json()["data"]
        assert form_faults(page["exports"][0], EXPORT_STATUS, nulls=True) == []
        seen.append(page["exports"][0]["id"])
    assert made["id"] in seen and len(seen) == len(set(seen))


def test_an_estimate_is_near_and_writes_nothing(demo_server: Served, made: dict[str, Any]) -> None:
    before = demo_server.client.get(f"{PATH}/exports").json()["data"]["exports"][0]["id"]
    told = demo_server.client.post(f"{PATH}/estimate?wait=300", json=SEVEN, timeout=320).json()["data"]
    assert told["features"] == 7 and told["weight_bytes"] > 0
    assert 0.3 < told["size_bytes"] / made["file_size_bytes"] < 3
    light = demo_server.client.post(f"{PATH}/estimate", json=SEVEN | {"saelens_weights": False})  # at once
    assert light.status_code == 200 and light.json()["data"]["weight_bytes"] == 0
    sql = {"selection": "sql", "sql": "SELECT layer, neuron FROM neurons WHERE layer = 1"}
    job = demo_server.client.post(f"{PATH}/estimate?wait=300", json=sql, timeout=320).json()["data"]
    assert job["features"] == 384
    assert demo_server.client.get(f"{PATH}/exports").json()["data"]["exports"][0]["id"] == before


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"selection": "some"}, "selection"),
        ({"selection": "range"}, "give range with selection"),
        ({"selection": "all", "range": [0, 1]}, "give range with selection"),
        ({"selection": "range", "range": [5, 2]}, "not within"),
        ({"selection": "range", "range": [0, 99999]}, "not within 0:1535"),
        ({"selection": "range", "range": [0]}, "range"),
        ({"selection": "neurons", "neurons": []}, "neurons"),
        ({"selection": "neurons", "neurons": ["L9/N1"]}, "out of range"),
        ({"selection": "neurons", "neurons": ["cluster:999"]}, "no module '999'"),
        ({"selection": "all", "layout": "zip"}, "layout"),
        ({"selection": "all", "logit_lens_k": 0}, "logit_lens_k"),
        ({"selection": "all", "histogram_bins": "50"}, "histogram_bins"),
        ({"selection": "all", "release": "../x"}, "release"),
        ({"selection": "all", "layout": "upload", "logit_lens_k": 21}, "at most 20 promoted tokens"),
        ({"selection": "all", "layout": "bulk", "set": "mine"}, "leave it out"),
        ({"selection": "all", "max_bytes": 1000}, "would take about"),
        ([], "body"),
    ],
)
def test_bad_requests(demo_server: Served, body: Any, said: str) -> None:
    found = demo_server.client.post(f"{PATH}/export?wait=300", json=body, timeout=320)
    assert found.status_code == 400 and said in found.json()["error"], found.text


def test_unknown_exports(demo_server: Served) -> None:
    job = demo_server.client.post("/api/v1/activations/generate", json={"prompt": "a"}).json()["data"]["id"]
    for one in ("none", job, "5f0c6a3e-0d6c-4f8e-9d0e-5a1f6b1c2d3e"):
        for found in (
            demo_server.client.get(f"{PATH}/export/{one}"),
            demo_server.client.get(f"{PATH}/export/{one}/download"),
            demo_server.client.post(f"{PATH}/export/{one}/cancel"),
        ):
            assert found.status_code == 404 and found.json().keys() == {"error", "details"}, found.text
    assert demo_server.client.get(f"{PATH}/exports?limit=0").status_code == 400
    assert demo_server.client.get(f"{PATH}/exports?before=none").status_code == 404


def test_weights_need_the_model(start: Callable[..., Served]) -> None:
    served = start()
    found = served.client.post(f"{PATH}/export", json={"selection": "all", "saelens_weights": True})
    assert found.status_code == 409 and "--model FOLDER" in found.json()["error"]
    without = ask(served, {"selection": "all"})
    assert without["config"]["saelens_weights"] is False and without["feature_count"] == 24
