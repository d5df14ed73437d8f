"""The name of a device -> a torch device that is there."""

from __future__ import annotations

import torch

from atlas.errors import InputError


def find_device(name: str) -> torch.device:
    """Find the device of a name: "cpu", "cuda", "cuda:1", or "auto" for CUDA where there is one, else the CPU.

    Raises InputError for another name and for a CUDA device that this machine, or this build of torch, does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise InputError(f'unknown device {name!r}; choose "auto", "cpu", "cuda" or "cuda:1"')
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(index or 0) >= count:
        raise InputError(f"device {name!r} is not there: torch {torch.__version__} finds {count} CUDA devices; use cpu")
    return torch.device(name)
