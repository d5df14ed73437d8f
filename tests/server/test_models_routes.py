"""Models over HTTP: what the folders say, the switch, memory; with and without a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.numpy import load_file, save_file
from seed_examples import LISTED_MODEL, MEMORY, MODEL, SWITCHED, form_faults
from served import Served

DEMO = Path(__file__).parents[2] / "data" / "demo" / "model"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model of another size: a tenth of the demo's weights under another config."""
    folder = tmp_path / "other"
    shutil.copytree(DEMO, folder)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    kept = {
        name: w for name, w in load_file(DEMO / "model.safetensors").items() if ".layers." not in name or ".0." in name
    }
    save_file(kept, folder / "model.safetensors")
    return folder


def test_the_models_are_the_folders(demo_server: Served) -> None:
    told = demo_server.client.get("/api/models").json()
    config = json.loads((DEMO / "config.json").read_text())
    parameters = sum(weight.size for weight in load_file(DEMO / "model.safetensors").values())
    assert form_faults(told["models"]["model"], LISTED_MODEL) == []
    assert told["models"].keys() == {"model"} and told["current_model"] == "model"
    one = demo_server.client.get("/api/models/model").json()
    assert form_faults(one, MODEL) == []
    assert one == told["models"]["model"]
    assert (one["layers"], one["hidden_size"], one["num_attention_heads"]) == (
        config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"],
    )  # fmt: skip
    assert (one["family"], one["parameters"], one["size_category"]) == ("llama", parameters, "small")
    assert one["recommended"] is True
    enveloped = demo_server.client.get("/api/v1/models/model").json()
    assert enveloped["status"] == "success" and enveloped["data"] == one


def test_an_unknown_model_is_told_apart_from_an_unknown_name_in_a_body(demo_server: Served) -> None:
    path = demo_server.client.get("/api/models/gpt2")
    assert path.status_code == 404 and "this server has model" in path.json()["error"]
    body = demo_server.client.post("/api/models/switch", json={"model_name": "gpt2"})
    assert body.status_code == 400 and "gpt2" in body.json()["error"]


@pytest.mark.parametrize("body", ["{}", '{"model_name": 7}', '{"model_name": ""}', "[]", "no json", ""])
def test_a_bad_switch_is_refused(demo_server: Served, body: str) -> None:
    found = demo_server.client.post("/api/models/switch", content=body, headers={"content-type": "application/json"})
    assert found.status_code == 400 and found.json().keys() == {"error", "details"}


def test_memory_is_that_of_the_machine(demo_server: Served) -> None:
    told = demo_server.client.get("/api/models/memory").json()
    assert form_faults(told, MEMORY) == []
    assert told["total_memory"] == psutil.virtual_memory().total
    assert told["used_memory"] + told["available_memory"] == told["total_memory"]
    assert 20 << 20 < told["server_memory"] < told["total_memory"]


def test_the_model_that_a_worker_holds_is_counted(
    demo_file: Path, tmp_path: Path, start: Callable[..., Served]
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    served = start(demo_file, models=(DEMO,), data=tmp_path / "data")
    assert served.client.get("/api/models/memory").json()["model_memory"] == 0
    made = served.client.post("/api/activations/generate", json={"prompt": "she wept", "model_name": "model"})
    assert made.status_code == 200, made.text
    told = served.client.get("/api/models/memory").json()
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())  # tied ones are one
    assert parameters <= told["model_memory"] <= 1.01 * parameters  # beside them buffers, such as frequencies
    assert told["worker_memory"] > told["model_memory"]


def test_switching_is_checked_and_told(other: Path, demo_file: Path, start: Callable[..., Served]) -> None:
    served = start(demo_file, models=(DEMO, other), data=other.parent / "data")
    told = served.client.post("/api/models/switch", json={"model_name": "other"})
    assert told.status_code == 200 and form_faults(told.json(), SWITCHED) == []
    assert told.json()["message"] == "Successfully switched to other"
    assert told.json()["model_info"]["recommended"] is False
    assert served.client.get("/api/models").json()["current_model"] == "other"
    back = served.client.post("/api/v1/models/switch", json={"model_name": "model"}).json()
    assert back["data"]["current_model"] == "model" and back["message"] == "Successfully switched to model"


def test_what_is_of_the_atlas_needs_its_model(other: Path, demo_file: Path, start: Callable[..., Served]) -> None:
    served = start(demo_file, models=(other, DEMO), data=other.parent / "data")
    text = {"layer_index": 0, "neuron_indices": [1], "input_text": "she wept because"}
    for path, body in (
        ("/api/pruning/impact-analysis", text),
        ("/api/pruning/neuron-importance", {"layer_index": 0, "input_texts": ["she wept"]}),
        ("/api/pruning/export", {"type": "weight"}),
    ):
        found = served.client.post(path, json=body)
        assert found.status_code == 409, path
        assert found.json()["error"].endswith("switch to model"), found.text
    assert served.client.get("/api/pruning/candidates").status_code == 409
    weights = served.client.get("/api/pruning/weight-analysis").json()  # of the current model, from its files
    assert weights["total_parameters"] == sum(w.size for w in load_file(other / "model.safetensors").values())


def test_two_switches_at_once_leave_one_of_them(other: Path, demo_file: Path, start: Callable[..., Served]) -> None:
    served = start(demo_file, models=(DEMO, other), data=other.parent / "data")

    def switch(name: str) -> Any:
        return served.client.post("/api/models/switch", json={"model_name": name}).json()["current_model"]

    asked = ["other", "model"] * 10
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(switch, asked)) == asked
    assert served.client.get("/api/models").json()["current_model"] in ("model", "other")


def test_a_damaged_model_is_not_switched_to(other: Path, demo_file: Path, start: Callable[..., Served]) -> None:
    served = start(demo_file, models=(DEMO, other), data=other.parent / "data")
    assert served.client.get("/api/models/other").json()["problem"] is None
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    found = served.client.post("/api/models/switch", json={"model_name": "other"})
    assert found.status_code == 409 and "truncated or damaged" in found.json()["error"]
    listed = served.client.get("/api/models").json()
    assert listed["current_model"] == "model" and listed["models"]["model"]["problem"] is None
    assert "truncated or damaged" in listed["models"]["other"]["problem"]
    assert listed["models"]["other"]["parameters"] is None and listed["models"]["other"]["recommended"] is False


def test_a_model_that_was_taken_away_is_told(other: Path, demo_file: Path, start: Callable[..., Served]) -> None:
    served = start(demo_file, models=(DEMO, other), data=other.parent / "data")
    shutil.rmtree(other)
    assert "no config.json" in served.client.get("/api/models").json()["models"]["other"]["problem"]
    found = served.client.post("/api/models/switch", json={"model_name": "other"})
    assert found.status_code == 409 and "no config.json" in found.json()["error"]


def test_without_a_model_there_is_none(small_server: Served) -> None:
    assert small_server.client.get("/api/models").json() == {"models": {}, "current_model": None}
    for found in (
        small_server.client.get("/api/models/model"),
        small_server.client.post("/api/models/switch", json={"model_name": "model"}),
        small_server.client.post("/api/activations/generate", json={"prompt": "dog"}),
        small_server.client.post(
            "/api/pruning/impact-analysis", json={"layer_index": 0, "neuron_indices": [1], "input_text": "dog"}
        ),
    ):
        assert found.status_code == 409
        assert found.json()["error"] == "this server has no model: start the server with --model FOLDER"


def test_folders_of_one_name_are_told_apart(tmp_path: Path, demo_file: Path, start: Callable[..., Served]) -> None:
    shutil.copytree(DEMO, tmp_path / "x" / "model")
    served = start(demo_file, models=(DEMO, tmp_path / "x" / "model"), data=tmp_path / "data")
    assert list(served.client.get("/api/models").json()["models"]) == ["model", "model_2"]


def test_a_folder_that_is_no_model_starts_no_server(tmp_path: Path, demo_file: Path) -> None:
    from atlas.errors import InputError
    from atlas.server.app import make_app
    from atlas.server.settings import Settings

    with pytest.raises(InputError, match=r"no config\.json"):
        make_app(Settings(demo_file, (tmp_path,)))
