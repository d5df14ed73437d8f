"""Sample prompts over HTTP: those of the atlas, then the file's; many writers at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest
from served import Served


def test_at_first_they_are_the_prompts_of_the_atlas(
    demo_file: Path, tmp_path: Path, start: Callable[..., Served]
) -> None:
    told = start(demo_file, data=tmp_path / "data").client.get("/api/v1/samples").json()["data"]
    with duckdb.connect(str(demo_file), read_only=True) as con:
        prompts = {prompt for (prompt,) in con.execute("SELECT prompt FROM graphs").fetchall()}
    assert len(told) == 20 and set(told) <= prompts


def test_a_prompt_is_added_last_and_only_once(start: Callable[..., Served]) -> None:
    served = start()
    before = served.client.get("/api/samples").json()
    added = served.client.post("/api/samples", json={"prompt": " New sample: é\n"})
    assert added.status_code == 200 and added.json()["added"] is True
    assert served.client.get("/api/samples").json() == [*before, " New sample: é\n"]
    again = served.client.post("/api/v1/samples", json={"prompt": " New sample: é\n"}).json()
    assert again["data"]["added"] is False and again["message"] == "The sample is there already"
    assert json.loads((served.settings.folder / "samples.json").read_text()) == [*before, " New sample: é\n"]


def test_many_writers_lose_nothing(start: Callable[..., Served]) -> None:
    served = start()
    before = served.client.get("/api/samples").json()
    prompts = [f"prompt {i}" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(lambda p: served.client.post("/api/samples", json={"prompt": p}).status_code, prompts))
    assert statuses == {200}
    assert sorted(served.client.get("/api/samples").json()) == sorted([*before, *prompts])


def test_there_is_an_end(start: Callable[..., Served]) -> None:
    served = start()
    served.settings.folder.mkdir(exist_ok=True)
    (served.settings.folder / "samples.json").write_text(json.dumps([f"prompt {i}" for i in range(1000)]))
    found = served.client.post("/api/samples", json={"prompt": "one more"})
    assert found.status_code == 409 and "1,000 prompts" in found.json()["error"]
    assert served.client.post("/api/samples", json={"prompt": "prompt 7"}).json()["count"] == 1000


def test_a_broken_file_is_told_and_kept(start: Callable[..., Served]) -> None:
    served = start()
    served.settings.folder.mkdir(exist_ok=True)
    file = served.settings.folder / "samples.json"
    file.write_text('["cut')
    for found in (served.client.get("/api/samples"), served.client.post("/api/samples", json={"prompt": "a"})):
        assert found.status_code == 409 and "samples.json" in found.json()["error"]
    assert file.read_text() == '["cut'


@pytest.mark.parametrize(
    "body", [{}, {"prompt": ""}, {"prompt": " \n"}, {"prompt": "a" * 10_001}, {"prompt": ["a"]}, []]
)
def test_bad_samples(demo_server: Served, body: Any) -> None:
    found = demo_server.client.post("/api/samples", json=body)
    assert found.status_code == 400 and found.json()["error"]
