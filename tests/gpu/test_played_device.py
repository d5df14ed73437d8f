"""Every engine on a device that the CPU plays: no operation mixes devices, and the paths of a GPU give the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agreement import CHECKS, KINDS, pair
from played_device import Held, MixedDevicesError, played

from atlas.build.context import GPU_BATCHES, Context
from atlas.build.recipe import read_recipe
from atlas.measure import wiring
from atlas.progress import Quiet

RECIPES = Path(__file__).parents[2] / "data" / "recipes"


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_operation_mixes_devices(kind: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # it has no in-place work on subclasses of Tensor
    monkeypatch.setitem(wiring.PIECE, "meta", wiring.PIECE["cuda"])
    with played() as device:
        CHECKS[check](kind, device, tmp_path)


@pytest.mark.parametrize(("place", "expected"), [("cpu", 16), ("cuda", GPU_BATCHES)])
def test_a_gpu_holds_few_batches_at_once(place: str, expected: int, tmp_path: Path) -> None:
    context = Context(read_recipe(RECIPES / "demo.toml"), tmp_path, Quiet(), 16)
    context.adapter = replace(pair("llama", torch.device("cpu"))[0], device=torch.device(place))
    assert context.batch_workers == expected


def test_the_played_device_refuses_what_a_gpu_refuses() -> None:
    with played() as device:
        there = torch.arange(3.0, device=device)
        assert isinstance(there, Held) and there.device == device
        for mixed in (
            lambda: there + torch.arange(3),
            lambda: there.index_select(0, torch.tensor([0])),
            lambda: torch.cat([there, torch.zeros(1)]),
            lambda: torch.ones(2, 3) @ there,
        ):
            with pytest.raises(MixedDevicesError):
                mixed()
        with pytest.raises(RuntimeError):
            there.numpy()
        assert (there + 1).cpu().tolist() == (there + torch.tensor(1)).tolist() == [1, 2, 3]
        assert there.new_zeros(2).device == torch.tensor([1], device=device).device == device
        moved = torch.zeros(3).to(device)
        assert moved.add_(there) is moved and moved.sum().item() == 3
        assert there[torch.tensor([2, 0])].tolist() == [2, 0]  # indices may come from the CPU
