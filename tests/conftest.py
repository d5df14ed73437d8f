"""Fixtures that several test folders share."""

from __future__ import annotations

import atexit
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


@atexit.register
def _end_with_the_summary() -> None:
    """Drop what duckdb prints about itself when the interpreter goes: pytest's summary comes last.

    It lists types and functions that hypothesis and torch keep alive until then as leaked; no connection is among them.
    """
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
