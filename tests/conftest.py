"""Fixtures that several test folders share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and corpora; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("ATLAS_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data (real models and corpora); set ATLAS_SHARED to the folder that holds data/")
    return folder


def pytest_unconfigure() -> None:
    """Let go of hypothesis' garbage-collection callback, which keeps duckdb alive past the interpreter's end.

    duckdb would then list everything it holds as leaked, after pytest's summary.
    """
    gc.callbacks.clear()
