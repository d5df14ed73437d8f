"""The machine -> bytes of memory that processes may still take."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int | None:
    """MemAvailable, in bytes; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
