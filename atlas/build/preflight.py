"""A recipe -> what it reads, hashed and of one model, and whether disk and memory suffice, before hours are spent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from atlas.build.recipe import Recipe
from atlas.errors import InputError, ResourceError, StoreError
from atlas.shards import file_sha256, write_whole
from atlas.store.memory import available_memory

# Bytes of shards and tables per neuron, with the default numbers of exemplars (40 windows of 17 floats and ids, 400
# token rows, 40 logit-lens, 30 read-token and 40 wiring rows), rounded up; measured 11 kB on stories260K. Twice:
# shards + file.
BYTES_PER_NEURON = 2 * 16_000
# Of an assembly, on disk: an edge of the store in both directions and while it is sorted, a row of neurons, and label
# files once in the temporary table and once in the atlas (a packed one unfolds to some 6 times its size).
EDGE_DISK, NEURON_DISK, UNPACKED = 60, 500, 6
# In memory: what a neuron takes while modules are summed up (1.44 GB for 1.64 million), and an edge in Infomap.
NEURON_MEMORY, INFOMAP_MEMORY, LEAST_MEMORY = 900, 350, 500_000_000


def input_hashes(recipe: Recipe, *, cache: Path) -> dict[str, str]:
    """Content hashes of everything the recipe reads: model files, tokenizer, corpus, and "<table step>/<name>".

    Hashes are remembered in `cache` by size and modification time: a 64 GB model is read once. Raises InputError for
    what is not there, and for an edge store that is of other sizes than the model.
    """
    named = {} if recipe.is_assembly else _measured_files(recipe)
    named |= _table_files(recipe)
    _check_sizes(recipe)
    known = _read_cache(cache)
    stamps = {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in named.values()}
    hashes = {path: known.get((path, *stamp)) or file_sha256(Path(path)) for path, stamp in stamps.items()}
    if cache.parent.is_dir() and known != {(path, *stamps[path]): value for path, value in hashes.items()}:
        # whole: the workers of a cluster write it at the same time
        write_whole(cache, json.dumps({path: [*stamps[path], value] for path, value in hashes.items()}, indent=1))
    return {name: hashes[str(path)] for name, path in named.items()} | _store_hash(recipe)


def check_resources(recipe: Recipe, *, shard: Path | None = None) -> None:
    """Refuse when the disk cannot hold the build (or one shard in the folder `shard`), with both numbers.

    An assembly needs 60 bytes of disk for an edge of the store, twice its label files and 500 bytes a neuron; and
    memory of 900 bytes a neuron, or 350 bytes an edge where Infomap is run.
    """
    if recipe.is_assembly:
        _check_memory(_assembly_memory(recipe))
    layers, width = model_sizes(recipe)
    needed = layers * width * BYTES_PER_NEURON // (1 if shard is None else 2)
    if recipe.is_assembly:
        needed = _assembly_disk(recipe)
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


def model_sizes(recipe: Recipe) -> tuple[int, int]:
    """(layers, neurons of a layer): the model's, or those that an assembly states."""
    if recipe.is_assembly:
        return recipe.sizes.layers or 0, recipe.sizes.d_mlp or 0
    from atlas.models.folder import find_folder, read_config

    source = recipe.path(recipe.model)
    config = read_config(find_folder(source if source.exists() else recipe.model))
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
    return layers, int(config.get("intermediate_size") or config.get("n_inner") or 4 * int(config.get("n_embd") or 0))


def _measured_files(recipe: Recipe) -> dict[str, Path]:
    from atlas.models.folder import check_folder, find_folder

    source = recipe.path(recipe.model)
    folder = find_folder(source if source.exists() or recipe.model.startswith((".", "/")) else recipe.model)
    check_folder(folder)
    corpus = recipe.path(recipe.corpus)
    if not corpus.is_file():
        raise InputError(
            f"no corpus at {corpus}; set corpus in {recipe.origin.name} to a JSON, JSONL, text or Parquet file"
        )
    files = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model"))
    return {path.name: path for path in files} | {"corpus": corpus}


def _table_files(recipe: Recipe) -> dict[str, Path]:
    from atlas.ingest.labels import check_names

    check_names(recipe.label_files)
    found = {f"table:labels/{file.name}": file for file in recipe.label_files}
    if recipe.assignments_file:
        found[f"table:assignments/{recipe.assignments_file.name}"] = recipe.assignments_file
    for name, file in found.items():
        if not file.is_file():
            key = "labels.files" if name.startswith("table:labels/") else "cluster.assignments"
            raise InputError(f"no file at {file}; mend {key} in {recipe.origin.name}")
    return found


def _store_hash(recipe: Recipe) -> dict[str, str]:
    if recipe.store_folder is None:
        return {}
    from atlas.ingest.edge_store.facts import content_key

    return {"table:edges/store": content_key(recipe.store_folder)}


def _check_sizes(recipe: Recipe) -> None:
    """Refuse sizes, a model and an edge store that are not of one model, and a store that cannot be projected yet."""
    known, where = model_sizes(recipe), recipe.origin.name
    stated = (recipe.sizes.layers, recipe.sizes.d_mlp)
    if stated not in ((None, None), known):
        raise InputError(
            f"{where}: sizes say {stated[0]} layers x {stated[1]}, the model has {known[0]} x {known[1]}; "
            "remove [sizes]"
        )
    if recipe.store_folder is None:
        return
    from atlas.ingest.edge_store.compact import is_compact
    from atlas.ingest.edge_store.facts import open_store

    store = open_store(recipe.store_folder)
    if (store.facts.layers, store.facts.width) != known:
        raise InputError(
            f"{store.path} is of {store.facts.model}: {store.facts.layers} layers x {store.facts.width}, {where} is of "
            f"{known[0]} x {known[1]}; give the store of this model, or mend [sizes]"
        )
    if not is_compact(store):
        raise StoreError(f'{store.path} has edges in several files; "atlas edges compact {store.path}" merges them')


def _store_edges(recipe: Recipe) -> int:
    if recipe.store_folder is None:
        return 0
    from atlas.ingest.edge_store.facts import open_store

    return sum(one.edges for one in open_store(recipe.store_folder).manifest.partials)


def _assembly_disk(recipe: Recipe) -> int:
    layers, width = model_sizes(recipe)
    labels = sum(f.stat().st_size * (UNPACKED if f.suffix == ".gz" else 1) for f in recipe.label_files)
    return _store_edges(recipe) * EDGE_DISK + 2 * labels + layers * width * NEURON_DISK


def _assembly_memory(recipe: Recipe) -> int:
    layers, width = model_sizes(recipe)
    infomap = 0 if recipe.cluster.assignments else _store_edges(recipe) * INFOMAP_MEMORY
    return max(LEAST_MEMORY, layers * width * NEURON_MEMORY, infomap)


def _check_memory(needed: int) -> None:
    free = available_memory()
    if free is not None and free < needed:
        raise ResourceError(
            f"this build needs about {needed / 1e9:.2f} GB of memory, {free / 1e9:.2f} GB are available; free memory, "
            "or give cluster.assignments made elsewhere (Infomap needs 350 bytes an edge)"
        )


def _read_cache(cache: Path) -> dict[tuple[str, int, int], str]:
    """(path, size, modification time in ns) -> hash."""
    try:
        rows = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}  # no cache, or one cut by a kill: everything is hashed again
    return {(path, size, changed): value for path, (size, changed, value) in rows.items()}
