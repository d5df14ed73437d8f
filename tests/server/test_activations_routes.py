"""Activation files over HTTP: what a model computes, in the seed's form; names that lead nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seed_examples import ACTIVATIONS, FILES, form_faults
from served import Served

DEMO = Path(__file__).parents[2] / "data" / "demo"
PROMPT = "Hannah counted fourteen bananas and six horses ."


@pytest.fixture(scope="module")
def made(demo_server: Served) -> dict[str, Any]:
    """A file of one prompt, with all neurons."""
    pytest.importorskip("torch")
    found = demo_server.client.post("/api/activations/generate", json={"prompt": PROMPT, "model_name": "model"})
    assert found.status_code == 200, found.text
    return dict(found.json())


def test_the_file_holds_what_the_model_computes(demo_server: Served, made: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told = demo_server.client.get(f"/api/activations/{made['filename']}").json()
    assert form_faults(told, ACTIVATIONS) == []
    assert told["prompt"] == PROMPT and told["tokens"] == made["tokens"]
    model = AutoModelForCausalLM.from_pretrained(DEMO / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    seen: dict[int, Any] = {}
    for layer, block in enumerate(model.model.layers):
        block.mlp.down_proj.register_forward_pre_hook(lambda _, given, layer=layer: seen.update({layer: given[0][0]}))
    ids = tokenizer(PROMPT, add_special_tokens=False).input_ids
    with torch.inference_mode():
        model(torch.tensor([[tokenizer.bos_token_id, *ids]]))
    assert len(told["tokens"]) == len(ids) + 1
    assert [layer["layer_index"] for layer in told["layers"]] == [0, 1, 2, 3]
    for layer in told["layers"]:
        assert [neuron["neuron_index"] for neuron in layer["neurons"]] == list(range(384))
        found = np.array([neuron["activations"] for neuron in layer["neurons"]])
        np.testing.assert_allclose(found, seen[layer["layer_index"]].T.numpy(), rtol=1e-4, atol=1e-6)


def test_the_file_is_listed_and_lies_where_it_is_said_to(demo_server: Served, made: dict[str, Any]) -> None:
    told = demo_server.client.get("/api/activations/files").json()
    assert form_faults(told, FILES) == []
    assert made["filename"] in told["files"] == sorted(told["files"]) and told["count"] == len(told["files"])
    file = Path(made["file_path"])
    assert file == demo_server.settings.folder / "activations" / made["filename"]
    assert (
        made["size_bytes"] == file.stat().st_size and made["filename"] == "hannah_counted_fourteen_bananas_and_six.json"
    )
    enveloped = demo_server.client.get(f"/api/v1/activations/{made['filename']}").json()
    assert enveloped["status"] == "success" and enveloped["data"] == json.loads(file.read_text())


def test_the_strongest_are_kept_and_a_prompt_keeps_its_file(demo_server: Served, made: dict[str, Any]) -> None:
    def generate(prompt: str) -> str:
        found = demo_server.client.post("/api/activations/generate", json={"prompt": prompt, "top": 3})
        assert found.status_code == 200, found.text
        return str(found.json()["filename"])

    first, again, other = generate("She wept , because"), generate("She wept , because"), generate("she wept because !")
    assert (first, again, other) == ("she_wept_because.json", "she_wept_because.json", "she_wept_because_2.json")
    few = demo_server.client.get(f"/api/activations/{first}").json()
    assert [len(layer["neurons"]) for layer in few["layers"]] == [3, 3, 3, 3]
    assert few["prompt"] == "She wept , because"


@pytest.mark.parametrize(
    "name",
    [
        "none.json",
        "%2e%2e",
        "..%2fjobs.sqlite",
        "%2fetc%2fpasswd",
        ".hidden.json",
        "link.json",
        "a%00b.json",
        "x" * 250,
    ],
)
def test_names_that_are_no_files(demo_server: Served, made: dict[str, Any], tmp_path: Path, name: str) -> None:
    folder = demo_server.settings.folder / "activations"
    (folder / ".hidden.json").write_text("{}")
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    link = folder / "link.json"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "secret.json")
    found = demo_server.client.get(f"/api/activations/{name}")
    assert found.status_code in (400, 404) and "secret" not in found.text
    assert found.json().keys() == {"error", "details"}
    listed = demo_server.client.get("/api/activations/files").json()["files"]
    link.unlink()
    assert not {".hidden.json", "link.json"} & set(listed)


def test_a_file_that_is_no_json_is_told(demo_server: Served, made: dict[str, Any]) -> None:
    file = demo_server.settings.folder / "activations" / "broken.json"
    file.write_text('{"prompt": "cut')
    found = demo_server.client.get("/api/activations/broken.json")
    file.unlink()
    assert found.status_code == 409 and "broken.json is not whole JSON" in found.json()["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " "}, "no tokens"),
        ({"prompt": "a " * 400}, "shorten it"),
        ({"prompt": 7}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "model_name": "gpt2"}, "no model 'gpt2'"),
        ({"prompt": "a", "top": 0}, "top"),
        ({"prompt": "a", "top": "3"}, "top"),
    ],
)
def test_bad_prompts(demo_server: Served, made: dict[str, Any], body: dict[str, Any], said: str) -> None:
    found = demo_server.client.post("/api/activations/generate", json=body)
    assert found.status_code == 400 and said in found.json()["error"], found.text


def test_a_file_too_large_is_refused_with_its_size(made: dict[str, Any]) -> None:
    from atlas.errors import InputError
    from atlas.export.seed_forms import Activations
    from atlas.server.work.activations import require_small

    shape = (32, 11008, 200)
    found = Activations(
        "a", ("b",) * 200, np.arange(32), np.zeros((32, 1), np.int64), np.broadcast_to(np.float32(0), shape)
    )
    with pytest.raises(InputError, match=r"about 775 MB, at most 537 MB are written; ask for the strongest: top 7,626"):
        require_small(found)


def test_large_files_are_streamed_whole(
    demo_server: Served, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas.server import files

    monkeypatch.setattr(files, "CHECKED", 1000)
    content = Path(made["file_path"]).read_bytes()
    bare = demo_server.client.get(f"/api/activations/{made['filename']}")
    assert bare.content == content and int(bare.headers["content-length"]) == len(content)
    enveloped = demo_server.client.get(f"/api/v1/activations/{made['filename']}")
    assert enveloped.json()["data"] == json.loads(content)


def test_files_of_an_export_are_served(tmp_path: Path, start: Callable[..., Served]) -> None:
    """The data folder has the form of a folder that `atlas export seed-json` writes."""
    from synthetic import small_tables, write_atlas

    from atlas.export.seed_json import export_seed_json
    from atlas.query.atlas import Atlas

    file = write_atlas(tmp_path / "small.duckdb", small_tables())
    with Atlas(file) as atlas:
        report = export_seed_json(atlas, tmp_path / "seed")
    served = start(file, data=tmp_path / "seed")
    for folder in ("clusters", "queries"):
        names = [Path(name).name for name, _ in report.files if name.startswith(folder)]
        assert served.client.get(f"/api/{folder}/files").json()["files"] == sorted(names) != []
        for name in names:
            written = json.loads((tmp_path / "seed" / folder / name).read_text())
            assert served.client.get(f"/api/{folder}/{name}").json() == written
    assert served.client.get("/api/samples").json() == json.loads((tmp_path / "seed" / "samples.json").read_text())
