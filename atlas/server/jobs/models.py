"""A model folder -> the loaded model, once for all jobs of a worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atlas.progress import Progress

if TYPE_CHECKING:
    from atlas.models.adapter import Adapter


class Models:
    """The model that was used last: one, since two may not fit."""

    def __init__(self) -> None:
        self._key: object = None
        self._adapter: Adapter | None = None

    def load(self, folder: str, dtype: str, progress: Progress) -> Adapter:
        """The model of a folder; it is read again when its files have changed."""
        from atlas.models.adapter import load_model

        files = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(Path(folder).glob("*"))]
        key = (folder, dtype, files)
        if self._adapter is None or self._key != key:
            progress.note(f"loading the model {Path(folder).name}")
            self._adapter = None
            self._adapter, self._key = load_model(folder, dtype=dtype), key
        return self._adapter
