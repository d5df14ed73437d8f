"""A store folder <-> what it is of, and which partial aggregates make it up.

STORE/manifest.json names the model, the method, the quantum and the partials; it is replaced as a whole, so a reader
sees the store before or after a change, never between. STORE/partials/<id>/ is immutable once the manifest names it;
.draft-<id> folders are work that a killed run left and the next one takes up.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from atlas.errors import InputError, StoreError
from atlas.shards import write_whole

FORMAT = 1
MANIFEST = "manifest.json"
DONE = "_DONE.json"
REJECTED = "rejected.json"
QUANTUM = -44


@dataclass(frozen=True)
class StoreFacts:
    """What every row of a store is of; fixed when the store is made."""

    model: str
    layers: int
    width: int  # neurons, or features, of a layer
    edge_method: str  # relp_direct, relp_total, transcoder_direct, weight_graph, derived or unknown
    unit_type: str = "mlp_neuron"
    revision: str | None = None  # fingerprint of the model's files, where they were at hand
    quantum: int = QUANTUM  # weights are multiples of 2^quantum in the sums
    format: int = FORMAT
    half: int | None = None  # 1 or 2: of every graph that is added only those of this half are taken; None takes all

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a store of all graphs says nothing of halves, as stores before there were any."""
        return {name: value for name, value in asdict(self).items() if name != "half" or value is not None}

    def ranges(self) -> list[tuple[int, int]]:
        """Source-layer ranges [first, last] that files are partitioned by: at most 64, of equal length."""
        step = -(-self.layers // 64)
        return [(a, min(a + step, self.layers) - 1) for a in range(0, self.layers, step)]


@dataclass(frozen=True)
class Partial:
    """One partial aggregate: sorted files in a folder of this id."""

    id: str
    observations: int
    edges: int  # rows of its edge files; a key may be in several files
    sources: int
    graphs: int
    runs: int  # sorted files that overlap
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The store at one instant."""

    facts: StoreFacts
    partials: tuple[Partial, ...] = ()
    counts_graphs: bool = True  # whether n_graphs is known for every source

    @property
    def observations(self) -> int:
        """Observations of all partials."""
        return sum(one.observations for one in self.partials)


@dataclass(frozen=True)
class Store:
    """The folder of a store; `manifest` was read when it was opened."""

    path: Path
    manifest: Manifest = field(compare=False)

    @property
    def facts(self) -> StoreFacts:
        """What the store is of."""
        return self.manifest.facts

    def folder(self, partial: Partial | str) -> Path:
        """Where a partial lies."""
        return self.path / "partials" / (partial if isinstance(partial, str) else partial.id)

    def draft(self, name: str) -> Path:
        """Where a partial is being made."""
        return self.path / "partials" / f".draft-{name}"

    def files(self, table: str) -> list[Path]:
        """All files of one table over all partials, in a fixed order."""
        return [path for one in self.manifest.partials for path in partial_files(self.folder(one), table)]

    def rejected(self) -> dict[str, str]:
        """Path and reason of everything that was left out and has not been added since."""
        try:
            found: dict[str, str] = json.loads((self.path / REJECTED).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StoreError(f"{self.path / REJECTED} is damaged ({error}); delete it") from error
        return found

    def rejection(self) -> tuple[int, str | None]:
        """How many files were left out, and the first with its reason."""
        left = sorted((Path(path).name, reason) for path, reason in self.rejected().items())
        return len(left), f"files left out, first {left[0][0]}: {left[0][1]}" if left else None

    def with_manifest(self, **changes: Any) -> Store:
        """Write a changed manifest; the store as it then is."""
        manifest = replace(self.manifest, **changes)
        content = {**asdict(manifest), "facts": manifest.facts.as_dict()}
        write_whole(self.path / MANIFEST, json.dumps(content, indent=1))
        return replace(self, manifest=manifest)


def open_store(path: Path) -> Store:
    """Read a store's manifest; InputError where there is no store, StoreError for one that cannot be read."""
    file = path / MANIFEST
    if not file.is_file():
        raise InputError(f'no edge store at {path}; make one with "atlas edges add {path} FILES..."')
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["facts"]["format"] > FORMAT:
            raise StoreError(
                f"{path} has store format {content['facts']['format']}, this atlas reads {FORMAT}; upgrade"
            )
        partials = tuple(Partial(**one) for one in content["partials"])
        facts = StoreFacts(**content["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is damaged ({error}); restore it from a backup or make the store again") from error
    return Store(path, Manifest(facts, partials, content["counts_graphs"]))


def create_store(path: Path, facts: StoreFacts) -> Store:
    """Make an empty store."""
    refuse_other_folder(path)
    (path / "partials").mkdir(parents=True, exist_ok=True)
    return Store(path, Manifest(facts)).with_manifest()


def refuse_other_folder(path: Path) -> None:
    """Refuse to make a store of a file or of a folder that holds something else, before a lock is left in it."""
    if (path / MANIFEST).is_file() or not path.exists():
        return
    if not path.is_dir() or not all(map(_is_begun, path.iterdir())):
        raise InputError(f"{path} is there and is no edge store; the store comes first, then the files to add")


def _is_begun(path: Path) -> bool:
    """Whether this is what a run leaves that is killed before the first manifest is there."""
    if path.name == "partials" and path.is_dir():
        return not any(path.iterdir())
    return path.name == "lock" or path.name.startswith(f".{MANIFEST}.")


def require_whole(store: Store) -> None:
    """Refuse a store of which files are missing or cut short, for example a copy that was stopped; reads none."""
    for one in store.manifest.partials:
        folder, size = store.folder(one), 0
        try:
            for name in json.loads((folder / DONE).read_text(encoding="utf-8"))["sha256"]:
                size += (folder / name).stat().st_size
        except (OSError, ValueError, KeyError) as error:
            missing = error.filename if isinstance(error, OSError) else folder / DONE
            raise StoreError(f"{missing} is missing or damaged; copy the store again, or make it anew") from error
        if size != one.bytes:
            raise StoreError(
                f"{folder} holds {size} bytes, expected {one.bytes}; copy the store again, or make it anew "
                "(atlas edges verify names the files)"
            )


def read_facts(path: Path) -> StoreFacts:
    """What a store is of."""
    return open_store(path).facts


def content_key(path: Path) -> str:
    """A hash that changes when the content of the store does; compaction does not change it."""
    manifest = open_store(path).manifest
    known = sorted(sha for one in manifest.partials for sha in source_hashes(path / "partials" / one.id))
    return hashlib.sha256(json.dumps([manifest.facts.as_dict(), known]).encode()).hexdigest()[:32]


def source_hashes(folder: Path) -> list[str]:
    """Hashes of the sources that are in a partial."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for path in partial_files(folder, "sources"):
        rows = pq.read_table(path, columns=["sha256", "status"])
        found += [sha for sha, status in zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True)
                  if status == "in"]  # fmt: skip
    return found


def partial_files(folder: Path, table: str) -> list[Path]:
    """The files of one table of a partial."""
    return sorted(path for path in folder.glob(f"{table}-*.parquet"))


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Exclude a second writer (or, shared, any writer) of a store; the lock goes with the process, however it ends."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = path / "lock"
        lock = file.open("r" if shared and file.exists() else "a+")  # a store to read may be on a read-only disk
    except OSError as error:
        raise StoreError(f"cannot write in {path} ({error.strerror}); mend that, or give another folder") from error
    with lock as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"{path} is in use by another process; wait for it or stop it first") from error
        yield
