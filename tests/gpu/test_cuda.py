"""CUDA against the CPU, engine by engine; the same checks as on a played device (test_played_device.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from agreement import CHECKS, KINDS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine")
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_equals_the_cpu(kind: str, check: str, tmp_path: Path) -> None:
    CHECKS[check](kind, torch.device("cuda"), tmp_path)
