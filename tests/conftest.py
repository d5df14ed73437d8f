"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import sys
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
    """End with pytest's summary: duckdb lists what it still holds at the interpreter's end on stderr, as leaked.

    hypothesis and torch keep modules alive until then; nothing of ours is in these lists (no connection, no result).
    """
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
