"""Real servers on free ports over the demo atlas and the synthetic one, and an HTTP client.

The demo atlas is built here from the shipped model on part of its corpus, once for all processes of a test run (12 s);
ATLAS_DEMO=FILE takes a built one instead, which is quicker when one test is run again and again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from served import Served, serving
from synthetic import small_tables, write_atlas

DEMO = Path(__file__).parents[2] / "data" / "demo"
RECIPE = """
name = "demo"
model = "{demo}/model"
model_name = "atlas-demo"
corpus = "{demo}/corpus.json"
atlas = "{folder}/demo.duckdb"
[activations]
documents = 800
fire_quantile = 0.95
[gradients]
documents = 50
[relp]
graphs = 60
tokens = 24
tau = 0.002
[edges]
min_count = 2
[cluster]
min_count = 2
"""


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo atlas; copy it before changing it."""
    if given := os.environ.get("ATLAS_DEMO"):
        return Path(given)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo_atlas"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:  # processes of one run share it: the first builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _build_demo(folder)
            (folder / "done").touch()
    return folder / "demo.duckdb"


@pytest.fixture(scope="session")
def demo_server(demo_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over a copy of the demo atlas, with its model; its own data folder."""
    file = Path(shutil.copyfile(demo_file, tmp_path_factory.mktemp("demo_server") / "demo.duckdb"))
    with serving(file, models=(DEMO / "model",)) as served:
        yield served


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over the synthetic atlas of tests/synthetic.py; without a model."""
    file = write_atlas(tmp_path_factory.mktemp("small_server") / "small.duckdb", small_tables())
    with serving(file) as served:
        yield served


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start a server of one's own: start(FILE, rate="3/minute"); without a file, over a small synthetic atlas."""
    with ExitStack() as stack:

        def started(file: Path | None = None, **given: Any) -> Served:
            if file is None:
                file = tmp_path / "small.duckdb"
                if not file.exists():
                    write_atlas(file, small_tables())
            return stack.enter_context(serving(file, **given))

        yield started


def _build_demo(folder: Path) -> None:
    pytest.importorskip("torch")
    from atlas.build.executor import build
    from atlas.build.recipe import read_recipe

    (folder / "demo.toml").write_text(RECIPE.format(demo=DEMO, folder=folder))
    build(read_recipe(folder / "demo.toml"))
