"""A recipe -> what it reads, hashed, and whether disk suffices, before hours are spent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from atlas.build.recipe import Recipe
from atlas.errors import InputError, ResourceError
from atlas.shards import file_sha256, write_whole

# Bytes of shards and tables per neuron, with the default numbers of exemplars (40 windows of 17 floats and ids, 400
# token rows, 40 logit-lens and 40 wiring rows), rounded up; measured 11 kB on stories260K. Twice: shards + file.
BYTES_PER_NEURON = 2 * 16_000


def input_hashes(recipe: Recipe, *, cache: Path) -> dict[str, str]:
    """Content hashes of everything the recipe reads: model files, tokenizer, corpus.

    Hashes are remembered in `cache` by size and modification time: a 64 GB model is read once.
    """
    from atlas.models.folder import check_folder, find_folder

    source = recipe.path(recipe.model)
    folder = find_folder(source if source.exists() or recipe.model.startswith((".", "/")) else recipe.model)
    check_folder(folder)
    corpus = recipe.path(recipe.corpus)
    if not corpus.is_file():
        raise InputError(
            f"no corpus at {corpus}; set corpus in {recipe.origin.name} to a JSON, JSONL, text or Parquet file"
        )
    known = _read_cache(cache)
    files = [*sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model")), corpus]
    stamps = {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
    hashes = {path: known.get((path, *stamp)) or file_sha256(Path(path)) for path, stamp in stamps.items()}
    if cache.parent.is_dir() and known != {(path, *stamps[path]): value for path, value in hashes.items()}:
        # whole: the workers of a cluster write it at the same time
        write_whole(cache, json.dumps({path: [*stamps[path], value] for path, value in hashes.items()}, indent=1))
    return {Path(path).name if Path(path) != corpus else "corpus": value for path, value in hashes.items()}


def check_resources(recipe: Recipe, *, shard: Path | None = None) -> None:
    """Refuse when the disk cannot hold the build (or one shard in the folder `shard`), with both numbers."""
    from atlas.models.folder import find_folder, read_config

    source = recipe.path(recipe.model)
    config = read_config(find_folder(source if source.exists() else recipe.model))
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
    width = int(config.get("intermediate_size") or config.get("n_inner") or 4 * int(config.get("n_embd") or 0))
    needed = layers * width * BYTES_PER_NEURON // (1 if shard is None else 2)
    place = recipe.atlas_path.parent if shard is None else shard
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ResourceError(
            f"this {'build' if shard is None else 'shard'} needs about {needed / 1e9:.2f} GB under {place}, "
            f"{free / 1e9:.2f} GB are free; free space or "
            + ("set atlas in the recipe to another disk" if shard is None else "give --out on another disk")
        )


def _read_cache(cache: Path) -> dict[tuple[str, int, int], str]:
    """(path, size, modification time in ns) -> hash."""
    try:
        rows = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}  # no cache, or one cut by a kill: everything is hashed again
    return {(path, size, changed): value for path, (size, changed, value) in rows.items()}
