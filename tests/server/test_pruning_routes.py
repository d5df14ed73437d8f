"""Pruning over HTTP: the fields of the seed's document, the numbers of the command line and of the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from safetensors.numpy import load_file
from seed_examples import BATCH, CANDIDATES, EXPORTED, IMPACTS, IMPORTANCE, WEIGHTS, form_faults
from served import Served

from atlas.export.seed_json import read_impact_analysis, read_weight_analysis

DEMO = Path(__file__).parents[2] / "data" / "demo"
TEXT = "Hannah counted fourteen bananas and six horses . after February comes March ."
TEXTS = ["the weather in Athens was dry .", "five plus fourteen is nineteen ."]
NEURONS = [4, 1, 300]
CORPUS = {  # just enough for a verdict
    "corpus": "demo.json", "skip_calibration": True, "documents": 300, "skip_documents": 1000, "max_tokens": 10_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def served(demo_server: Served) -> Served:
    """The demo server with the demo's documents in its data folder."""
    folder = demo_server.settings.folder / "corpora"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(DEMO / "corpus.json", folder / "demo.json")
    return demo_server


def ask(served: Served, path: str, body: dict[str, Any]) -> Any:
    """The answer, however long a busy machine takes."""
    found = served.client.post(f"/api/pruning/{path}?wait=300", json=body, timeout=320)
    assert found.status_code == 200, found.text
    return found.json()


def cli(capsys: pytest.CaptureFixture[str], served: Served, *words: str) -> Any:
    """What the command line says as JSON, of the same atlas and model."""
    from atlas.cli.main import main

    capsys.readouterr()
    place = ["--atlas", str(served.settings.atlas), "--model", str(DEMO / "model")]
    with pytest.raises(SystemExit) as left:
        main([*words, *place, "--no-store", "--quiet", "--format", "json"])
    shown = capsys.readouterr()
    assert not left.value.code, shown.err
    return json.loads(shown.out)


def same(found: Any, expected: Any) -> None:
    """Equal but for rounding; the answer may hold more."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys(), expected.keys() - found.keys()
        for name, value in expected.items():
            same(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)  # float32 sums in another order
    else:
        assert found == expected


def test_weights_are_those_of_the_files(served: Served) -> None:
    told = served.client.get("/api/pruning/weight-analysis").json()
    weights = load_file(DEMO / "model" / "model.safetensors")
    assert form_faults(told, WEIGHTS) == []
    assert told["total_parameters"] == sum(w.size for w in weights.values())
    assert told["non_zero_parameters"] == sum(np.count_nonzero(w) for w in weights.values())
    by_name = {row["layer_name"]: row for row in told["layer_stats"]}
    assert by_name.keys() == {name.removesuffix(".weight") for name in weights} == told["layer_sparsity"].keys()
    for name, weight in weights.items():
        row, w = by_name[name.removesuffix(".weight")], np.abs(weight.astype(np.float64))
        assert row["mean_magnitude"] == pytest.approx(w.mean()) and row["max_magnitude"] == pytest.approx(w.max())
        assert row["l1_norm"] == pytest.approx(w.sum()) and row["l2_norm"] == pytest.approx(np.sqrt((w**2).sum()))
        assert row["std_magnitude"] == pytest.approx(w.std())
    assert served.client.get("/api/v1/pruning/weight-analysis").json()["data"] == told


@pytest.mark.parametrize("threshold", [10.0, 2.5])
def test_candidates_are_the_rows_of_the_table(served: Served, threshold: float) -> None:
    told = served.client.get("/api/pruning/candidates", params={"threshold": threshold}).json()
    with duckdb.connect(str(served.settings.atlas), read_only=True) as con:
        rows = con.execute(
            "SELECT layer, neuron, pruning_score, weight_rank FROM pruning WHERE pruning_score >= 1 - $1 / 100",
            [threshold],
        ).fetchall()
    assert form_faults(told, CANDIDATES) == []
    found = [(c["layer_index"], c["neuron_index"], c["pruning_score"], c["weight_rank"]) for c in told["candidates"]]
    assert sorted(found) == sorted(rows) and told["total_candidates"] == len(rows)
    assert [score for _, _, score, _ in found] == sorted((score for _, _, score, _ in rows), reverse=True)
    assert told["threshold_percentile"] == threshold and all(c["is_pruning_candidate"] for c in told["candidates"])


def test_candidates_of_a_layer_cut_by_a_limit_are_counted(served: Served) -> None:
    told = served.client.get("/api/v1/pruning/candidates?threshold=10&layer=2&limit=3").json()
    assert [c["layer_index"] for c in told["data"]["candidates"]] == [2, 2, 2]
    assert told["data"]["total_candidates"] > 30 and "3 of" in told["message"]


@pytest.mark.parametrize(
    "query", ["threshold=101", "threshold=-1", "threshold=x", "layer=9", "layer=-1", "limit=0", "method=x", "thresh=3",
              "threshold=nan", "eval_id=none"],
)  # fmt: skip
def test_bad_questions_about_candidates(served: Served, query: str) -> None:
    found = served.client.get(f"/api/pruning/candidates?{query}")
    assert found.status_code == 400, found.text
    assert found.json()["error"]


def test_an_impact_has_the_numbers_of_the_command(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(served, "impact-analysis", {"layer_index": 1, "neuron_indices": NEURONS, "input_text": TEXT})
    assert form_faults(told, IMPACTS, nulls=True) == []
    assert sorted(told["affected_neurons"]) == sorted(NEURONS)
    assert told["safe_to_prune"] is None and "one document" in told["reason"]  # never a guess
    named = ",".join(f"L1/N{neuron}" for neuron in NEURONS)
    expected = cli(capsys, served, "impact", "--neurons", named, "--text", TEXT)
    expected["individual_impacts"] = sorted(expected["individual_impacts"], key=lambda row: row["neuron_index"])
    told["individual_impacts"] = sorted(told["individual_impacts"], key=lambda row: row["neuron_index"])
    same(told, expected)


def test_on_enough_text_there_is_a_verdict(served: Served) -> None:
    told = ask(served, "impact-analysis", {"layer_index": 0, "neuron_indices": [0, 1], "each": False, **CORPUS})
    assert form_faults(told, IMPACTS) == []
    assert told["tokens"] == 10_000 and told["documents"] > 100 and told["individual_impacts"] == []
    assert told["safe_to_prune"] == (told["impact_score"] < 0.1)
    assert told["kl_low"] <= told["kl"] <= told["kl_high"]


def test_importance_has_the_numbers_of_the_command(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(served, "neuron-importance", {"layer_index": 3, "input_texts": TEXTS})
    assert form_faults(told, IMPORTANCE) == []
    assert told["total_neurons"] == len(told["importance_scores"]) == 384
    assert told["critical_neurons"] == sum(row["is_critical"] for row in told["importance_scores"])
    words = [word for text in TEXTS for word in ("--text", text)]
    expected = cli(capsys, served, "importance", "--layer", "3", *words)
    assert told["eval_id"] == expected["eval_id"] and told["notes"] == expected["notes"]
    found = {row["neuron_index"]: row for row in told["importance_scores"]}
    for row in expected["importance_scores"]:
        same(found[row["neuron_index"]], row)


def test_a_batch_has_the_numbers_of_the_command(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    places = [(0, 0), (0, 1), (1, 0), (3, 7)]
    candidates = [{"layer_index": layer, "neuron_index": neuron} for layer, neuron in places]
    told = ask(served, "batch-analysis", {"pruning_candidates": candidates, "input_texts": TEXTS, "batch_size": 3})
    assert form_faults(told, BATCH, nulls=True) == []
    assert told["cumulative_impact"]["n_neurons"] == 3
    named = ",".join(f"L{layer}/N{neuron}" for layer, neuron in places)
    words = [word for text in TEXTS for word in ("--text", text)]
    same(told, cli(capsys, served, "prune", "batch", "--neurons", named, "--batch-size", "3", *words))


def test_a_batch_on_enough_text_says_how_many_may_go_and_is_exported(served: Served) -> None:
    body = {"pruning_candidates": [{"layer_index": 0, "neuron_index": i} for i in range(2)], **CORPUS}
    told = ask(served, "batch-analysis", body)
    assert form_faults(told, BATCH) == []
    advice = told["recommendations"]
    assert advice["safe_to_prune"] + advice["risky_to_prune"] == 2 and 0 <= advice["suggested_batch_size"] <= 2
    exported = served.client.post("/api/pruning/export", json={"type": "impact"}).json()
    assert form_faults(exported, EXPORTED) == []
    file = served.settings.folder / "pruning" / "impact_analysis.json"
    assert exported["file_path"] == str(file) and exported["message"] == "Impact analysis exported successfully"
    written = read_impact_analysis(file)
    assert form_faults(written, BATCH) == []
    assert written["individual_impacts"] == [
        {name: row[name] for name in written["individual_impacts"][0]} for row in told["individual_impacts"]
    ]
    assert written["cumulative_impact"]["impact_score"] == told["cumulative_impact"]["impact_score"]
    assert written["recommendations"]["suggested_batch_size"] == advice["suggested_batch_size"]


def test_exported_weights_are_those_of_the_command(served: Served, tmp_path: Path) -> None:
    from atlas.export.seed_json import SeedPlan, export_seed_json
    from atlas.query.atlas import Atlas

    told = served.client.post("/api/v1/pruning/export", json={"type": "weight"}).json()
    assert told["message"] == "Weight analysis exported successfully"
    file = served.settings.folder / "pruning" / "weight_analysis.json"
    with Atlas(served.settings.atlas) as atlas:
        export_seed_json(atlas, tmp_path / "seed", plan=SeedPlan(part="pruning"))
    assert file.read_bytes() == (tmp_path / "seed" / "pruning" / "weight_analysis.json").read_bytes()
    assert told["data"]["size_bytes"] == file.stat().st_size
    assert form_faults(read_weight_analysis(file)["sparsity_analysis"], WEIGHTS) == []


def test_impacts_that_are_kept_are_in_the_atlas(demo_file: Path, tmp_path: Path, start: Callable[..., Served]) -> None:
    pytest.importorskip("torch")
    served = start(Path(shutil.copyfile(demo_file, tmp_path / "kept.duckdb")), models=(DEMO / "model",))
    nothing = served.client.post("/api/pruning/export", json={"type": "impact"})
    assert nothing.status_code == 409 and "no impacts were measured" in nothing.json()["error"]
    before = served.client.get("/api/health").json()["fingerprint"]
    body = {"layer_index": 2, "neuron_indices": [5, 9], "input_text": TEXT}
    loose = ask(served, "impact-analysis", body)
    assert served.client.get("/api/health").json()["fingerprint"] == before  # nothing was written
    kept = ask(served, "impact-analysis", body | {"store": True})
    assert kept["impact_score"] == loose["impact_score"] and kept["eval_id"] == loose["eval_id"]
    with duckdb.connect(str(served.settings.atlas), read_only=True) as con:
        rows = con.execute("SELECT neurons, kl FROM impacts ORDER BY len(neurons), neurons").fetchall()
    assert [neurons for neurons, _ in rows] == [[773], [777], [773, 777]]
    assert rows[2][1] == pytest.approx(kept["kl"])
    assert served.client.get("/api/health").json()["fingerprint"] != before


LONG = "/api/v1/pruning/impact-analysis"
BODY = {"layer_index": 0, "neuron_indices": [0], "input_text": TEXT}


def test_under_v1_the_job_comes_at_once_and_has_the_answer(served: Served) -> None:
    told = served.client.post(LONG, json=BODY)
    assert told.status_code == 202
    job = told.json()["data"]
    assert told.headers["location"] == f"/api/v1/jobs/{job['id']}" and job["kind"] == "impact"
    waited = served.client.post(LONG + "?wait=60", json=BODY)
    assert waited.status_code == 200 and waited.json()["data"]["affected_neurons"] == [0]
    done = served.client.get(told.headers["location"] + "?wait=60").json()["data"]
    same(done["result"], waited.json()["data"])


def test_a_bare_path_may_be_asked_not_to_wait(served: Served) -> None:
    told = served.client.post("/api/pruning/impact-analysis?wait=0", json=BODY)
    assert told.status_code == 202 and told.json()["status"] in ("queued", "running", "completed")
    assert served.client.get(told.headers["location"] + "?wait=60").json()["data"]["status"] == "completed"


@pytest.mark.parametrize("wait", ["-1", "301", "x", "nan"])
def test_how_long_to_wait_has_bounds(served: Served, wait: str) -> None:
    assert served.client.post(f"{LONG}?wait={wait}", json=BODY).status_code == 400


BAD = {
    "layer out of range": (BODY | {"layer_index": 9}, "this model has layers 0..3"),
    "neuron out of range": (BODY | {"neuron_indices": [0, 384]}, "neurons 0..383"),
    "negative": (BODY | {"layer_index": -1}, "layer_index"),
    "text for a number": (BODY | {"layer_index": "0"}, "layer_index"),
    "true for a number": (BODY | {"layer_index": True}, "layer_index"),
    "a huge number": (BODY | {"layer_index": 1 << 80}, "layer_index"),
    "no neurons": (BODY | {"neuron_indices": []}, "neuron_indices"),
    "no text": ({"layer_index": 0, "neuron_indices": [0]}, "give input_text or corpus"),
    "empty text": (BODY | {"input_text": ""}, "input_text"),
    "blank text": (BODY | {"input_text": " "}, "no token to predict"),
    "half a character": (BODY | {"input_text": "\ud800"}, "input_text"),
    "long text": (BODY | {"input_text": "a" * 100_001}, "input_text"),
    "both": (BODY | {"corpus": "demo.json"}, "give input_text or corpus"),
    "unknown corpus": (BODY | {"input_text": None, "corpus": "none.json"}, "no file 'none.json' in corpora/"),
    "corpus outside": (BODY | {"input_text": None, "corpus": "../demo.json"}, "no file '../demo.json'"),
    "absolute corpus": (BODY | {"input_text": None, "corpus": "/etc/passwd"}, "no file '/etc/passwd'"),
    "unknown field": (BODY | {"layers": 3}, "layers"),
    "no budget": (BODY | {"budget": 0}, "budget"),
    "nothing": ({}, "layer_index"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_told_in_one_line(served: Served, name: str) -> None:
    body, said = BAD[name]
    found = served.client.post(
        "/api/pruning/impact-analysis", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert found.status_code == 400, found.text
    assert said in found.json()["error"] and found.json().keys() == {"error", "details"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("neuron-importance", {"layer_index": 4, "input_texts": TEXTS}),
        ("neuron-importance", {"layer_index": 0, "input_texts": []}),
        ("neuron-importance", {"layer_index": 0, "input_texts": "a text"}),
        ("neuron-importance", {"layer_index": 0, "input_texts": TEXTS, "share": 0}),
        ("batch-analysis", {"pruning_candidates": [], "input_texts": TEXTS}),
        ("batch-analysis", {"pruning_candidates": [{"layer_index": 0}], "input_texts": TEXTS}),
        ("batch-analysis", {"pruning_candidates": [{"layer_index": 0, "neuron_index": 999}], "input_texts": TEXTS}),
        ("batch-analysis", {"pruning_candidates": [{"layer_index": 0, "neuron_index": 1}], "input_texts": TEXTS,
                            "batch_size": 0}),
        ("export", {"type": "both"}),
        ("export", {}),
        ("export", {"type": "weight", "eval_id": "nonesuch"}),
    ],
)  # fmt: skip
def test_bad_requests_of_the_others(served: Served, path: str, body: dict[str, Any]) -> None:
    found = served.client.post(f"/api/pruning/{path}", json=body)
    assert found.status_code == 400, found.text
    assert found.json()["error"]


def test_a_corpus_behind_a_link_is_not_read(served: Served, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('["a secret document"]')
    link = served.settings.folder / "corpora" / "link.json"
    link.symlink_to(tmp_path / "secret.json")
    body = {"layer_index": 0, "neuron_indices": [0], "corpus": "link.json"}
    assert served.client.post("/api/pruning/impact-analysis", json=body).status_code == 400


def test_without_scores_there_are_no_candidates_but_a_reason(start: Callable[..., Served], tmp_path: Path) -> None:
    from synthetic import small_tables, write_atlas

    tables = small_tables() | {"pruning": [], "weight_stats": []}
    served = start(write_atlas(tmp_path / "bare.duckdb", tables))
    told = served.client.get("/api/v1/pruning/candidates").json()
    assert told["data"]["candidates"] == [] and "table pruning is empty" in told["message"]
    weights = served.client.get("/api/pruning/weight-analysis")
    assert weights.status_code == 409 and "table weight_stats is empty" in weights.json()["error"]
    exported = served.client.post("/api/pruning/export", json={"type": "weight"})
    assert exported.status_code == 409 and "nothing to export" in exported.json()["error"]


def test_weights_of_a_large_model_are_read_by_a_job(
    demo_file: Path, tmp_path: Path, start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas.server.routes import pruning

    monkeypatch.setattr(pruning, "INLINE", 1000)
    shutil.copytree(DEMO / "model", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))  # no longer the atlas's
    served = start(demo_file, models=(tmp_path / "other",), data=tmp_path / "data")
    job = served.client.get("/api/v1/pruning/weight-analysis")
    assert job.status_code == 202 and job.json()["data"]["kind"] == "weight-analysis"
    told = served.client.get("/api/pruning/weight-analysis").json()
    assert form_faults(told, WEIGHTS) == []
    weights = load_file(DEMO / "model" / "model.safetensors")
    assert told["total_parameters"] == sum(w.size for w in weights.values())


@pytest.mark.parametrize(
    ("name", "status"),
    [("InputError", 400), ("NotFound", 500), ("StoreError", 409), ("ModelError", 409), ("ResourceError", 503),
     ("ServiceError", 502), ("AtlasError", 409), ("annotations", 500), ("deadbeef", 500), (None, 500)],
)  # fmt: skip
def test_a_failed_job_has_the_status_of_its_error(name: str | None, status: int) -> None:
    from atlas.server.waiting import status_of_name

    assert status_of_name(name) == status
