"""A small build of the demo model, made once; and a way to run the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from small_build import write_recipe


class Outcome(NamedTuple):
    """What a person sees of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `atlas ...` in this process."""
    from atlas.cli.main import main

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        shown = capsys.readouterr()
        return Outcome(code, shown.out, shown.err)

    return call


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small atlas with its build folder beside it; tests copy what they change."""
    pytest.importorskip("torch")
    from atlas.build.executor import build
    from atlas.build.recipe import read_recipe

    folder = tmp_path_factory.mktemp("small")
    build(read_recipe(write_recipe(folder)))
    return folder / "small.duckdb"
