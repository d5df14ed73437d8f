"""A folder -> the edge stores, packages, report folders and measured shards below it, told by what they say themselves.

A package says by the "schema" of its metadata.json who made it, a folder of reports by that of its index.json, a store
by its manifest.json. Below one of these nothing else is looked for, nor in hidden folders.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError
from atlas.ingest.edge_store.facts import DONE, MANIFEST, Store, open_store, require_whole

BUILD = ".build"  # ending of the folder of shards beside an atlas
_SHARDS = re.compile(r"^(\w+)-[0-9a-f]{12}$")
_LARGEST = 64 << 20  # bytes of a document of facts; a larger one is none of ours


@dataclass(frozen=True)
class StoreFacts:
    """An edge store."""

    shown: str
    size: int
    store: Store
    compact: bool
    left_out: int  # files


@dataclass(frozen=True)
class PackageFacts:
    """A package, or a folder of reports: `about` is its metadata.json or index.json."""

    shown: str
    size: int
    about: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Its schema without the version: atlas-neuronpedia, atlas-saelens, atlas-neuron-reports."""
        return str(self.about["schema"]).partition("/")[0]

    @property
    def atlas(self) -> Mapping[str, Any]:
        """What it says of the atlas it was made from: fingerprint, created, name, as far as it says."""
        told = self.about.get("atlas")
        return told if isinstance(told, dict) else {"created": self.about.get("created")}


@dataclass(frozen=True)
class ShardFacts:
    """A build folder: its steps with whole or begun shards."""

    shown: str
    size: int
    steps: tuple[str, ...]


@dataclass(frozen=True)
class FolderFacts:
    """All of them, each in the order of its path, and what cannot be read with the reason."""

    stores: tuple[StoreFacts, ...] = ()
    packages: tuple[PackageFacts, ...] = ()
    reports: tuple[PackageFacts, ...] = ()
    shards: tuple[ShardFacts, ...] = ()
    bad: tuple[tuple[str, str], ...] = ()


def read_folders(root: Path, shown: str) -> FolderFacts:
    """What lies below `root`; names begin with `shown`. Reads documents of facts, no data."""
    found: dict[str, list[Any]] = {"stores": [], "packages": [], "reports": [], "shards": [], "bad": []}
    for place in _places(root):
        name = (Path(shown) / place.relative_to(root)).as_posix() + ("/" if place.is_dir() else "")
        try:
            kind, facts = _read(place, name)
        except (AtlasError, OSError) as error:
            kind, facts = "bad", (name, _reason(str(error), place))
        if facts is not None:
            found[kind].append(facts)
    return FolderFacts(**{kind: tuple(facts) for kind, facts in found.items()})


def measured_shards(folder: Path, shown: str) -> ShardFacts | None:
    """What a build folder holds; None where it holds no step's shards."""
    found = [path for path in folder.glob("*") if path.is_dir() and _SHARDS.match(path.name)]
    if not found:
        return None
    return ShardFacts(shown, sum(map(size_of, found)), tuple(sorted(path.name.rsplit("-", 1)[0] for path in found)))


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files below a folder; locks are left out."""
    if place.is_file():
        return place.stat().st_size
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and path.name != "lock")


def _places(root: Path) -> Iterator[Path]:
    """Folders and zip files that may be one of these, in the order of their paths."""
    found = []
    for folder, names, files in os.walk(root):
        here = Path(folder)
        known = here.name.endswith(BUILD) or {MANIFEST, "metadata.json", "index.json"} & set(files)
        if known:
            found.append(here)
        ours = here != root and (here.name.endswith(BUILD) or (known and _read(here, "", quick=True)[1] is not None))
        names[:] = [] if ours else sorted(name for name in names if not name.startswith("."))
        found += [here / name for name in files if name.endswith(".zip") and not name.startswith(".")]
    yield from sorted(found)


def _read(place: Path, name: str, *, quick: bool = False) -> tuple[str, Any]:
    """Its kind and facts; None for what is none of ours. quick: only whether it is."""
    if place.name.endswith(BUILD):
        return "shards", measured_shards(place, name)
    if place.is_dir() and _is_store(place):
        return "stores", True if quick else _store(place, name)
    about = _zipped(place) if place.is_file() else _document(place / "metadata.json") or _document(place / "index.json")
    if about is None:
        return "packages", None
    kind = "reports" if "reports" in about else "packages"
    return kind, True if quick else PackageFacts(name, size_of(place), about)


def _is_store(place: Path) -> bool:
    try:
        found = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return (place / MANIFEST).is_file() and (place / "partials").is_dir()  # a damaged one
    return isinstance(found, dict) and {"facts", "partials"} <= found.keys()


def _store(place: Path, name: str) -> StoreFacts:
    from atlas.ingest.edge_store.compact import is_compact

    store = open_store(place)
    require_whole(store)
    size = (place / MANIFEST).stat().st_size
    size += sum(one.bytes + (store.folder(one) / DONE).stat().st_size for one in store.manifest.partials)
    return StoreFacts(name, size, store, is_compact(store), len(store.rejected()))


def _zipped(place: Path) -> dict[str, Any] | None:
    """metadata.json of a zip file, at its top or in its only folder."""
    try:
        with zipfile.ZipFile(place) as packed:
            inner = [one for one in packed.infolist() if re.fullmatch(r"([^/]+/)?metadata\.json", one.filename)]
            return _ours(packed.read(inner[0])) if inner and inner[0].file_size < _LARGEST else None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return None  # encrypted, or no zip at all: none of ours


def _document(file: Path) -> dict[str, Any] | None:
    try:
        return _ours(file.read_bytes()) if file.stat().st_size < _LARGEST else None
    except (OSError, ValueError):
        return None


def _ours(content: bytes) -> dict[str, Any] | None:
    found = json.loads(content)
    known = isinstance(found, dict) and re.fullmatch(r"atlas-[a-z-]+/\d+", str(found.get("schema")))
    return found if known else None


def _reason(text: str, place: Path) -> str:
    """The reason without the paths of this machine."""
    for name in sorted({str(place), str(place.resolve())}, key=len, reverse=True):
        text = text.replace(name, place.name)
    return re.sub(r"(?<![\w.])/(?:[^\s\"':/]+/)+", "", text)
