"""A folder of atlases -> ARTIFACTS.md, the registry of what builds produced.

Everything comes from the files: dates from their metadata, so that two runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb

from atlas.errors import AtlasError, InputError
from atlas.export.artifact_facts import AtlasFacts, Identity, read_facts, read_identity, reason
from atlas.export.artifact_page import page
from atlas.export.folder import replace_text
from atlas.progress import Progress, Quiet
from atlas.store.schema import newest_version

Unreadable = tuple[str, str]  # path as shown, reason


def artifacts_text(root: Path, *, progress: Progress | None = None) -> str:
    """Describe every *.duckdb below `root` (unfinished builds and hidden folders left out), in order of path.

    Reads every current atlas once in full (its content hash). Raises InputError when `root` is no folder.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}; give the folder that holds the atlases")
    shown = _shown(root)
    identities, bad = _identify(root, shown)
    old = _superseded(identities)
    chosen = [item for item in identities if item.file not in {other.file for other, _ in old}]
    current: list[AtlasFacts] = []
    with (progress or Quiet()).task("reading atlases", len(chosen), "atlases") as task:
        for identity in chosen:
            _read(identity, current, bad)
            task.advance()
    return page(shown, current, old, sorted(bad))


def write_artifacts(root: Path, output: Path, *, progress: Progress | None = None) -> None:
    """Write the registry to `output`, whole or not at all."""
    replace_text(output, artifacts_text(root, progress=progress))


def check_artifacts(root: Path, output: Path, *, progress: Progress | None = None) -> None:
    """Raise AtlasError (exit code 1) when `output` is not what the atlases under `root` would give."""
    expected = artifacts_text(root, progress=progress)
    if not output.is_file():
        raise AtlasError(f"no {output}; write it with: atlas artifacts {_shown(root)} -o {output}")
    found = output.read_text(encoding="utf-8", errors="replace")
    if found != expected:
        pairs = zip(f"{found}\n".split("\n"), f"{expected}\n".split("\n"), strict=False)
        line = next((i for i, (a, b) in enumerate(pairs, start=1) if a != b), 1)
        raise AtlasError(f"{output} is out of date from line {line}; run: atlas artifacts {_shown(root)} -o {output}")


def _shown(root: Path) -> str:
    return root.resolve().name if root.is_absolute() else root.as_posix()


def _identify(root: Path, shown: str) -> tuple[list[Identity], list[Unreadable]]:
    identities: list[Identity] = []
    bad: list[Unreadable] = []
    for file in _databases(root):
        name = (Path(shown) / file.relative_to(root)).as_posix()
        try:
            identities.append(read_identity(file, name))
        except (AtlasError, duckdb.Error) as error:
            bad.append((name, reason(error, file)))
    return identities, bad


def _databases(root: Path) -> Iterator[Path]:
    for file in sorted(root.rglob("*.duckdb")):
        folders = file.relative_to(root).parts[:-1]
        if file.is_file() and not any(part.endswith(".build") or part.startswith(".") for part in folders):
            yield file


def _superseded(identities: list[Identity]) -> list[tuple[Identity, str]]:
    """Atlases of an older schema, and those with a newer one of the same model, revision and name, with the reason."""
    known, found = newest_version(), []
    for item in identities:
        newer = [other for other in identities if _same(item, other) and other.created > item.created]
        if newer:
            best = max(newer, key=lambda other: (other.created, other.shown))
            found.append((item, f"Superseded by `{best.shown}` ({best.created})"))
        elif item.schema < known:
            found.append((item, f"Schema {item.schema}, this version writes {known}: rebuild it"))
    return found


def _same(a: Identity, b: Identity) -> bool:
    keys = ("model", "revision", "name")
    return "revision" in a.metadata and all(a.metadata.get(key) == b.metadata.get(key) for key in keys)


def _read(identity: Identity, current: list[AtlasFacts], bad: list[Unreadable]) -> None:
    try:
        current.append(read_facts(identity))
    except (AtlasError, duckdb.Error) as error:
        bad.append((identity.shown, reason(error, identity.file)))
