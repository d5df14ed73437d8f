"""A folder of atlases, edge stores and packages -> ARTIFACTS.md, the registry of what builds and exports produced.

Everything comes from the files: dates from their metadata, so that two runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb

from atlas.errors import AtlasError, InputError
from atlas.export.artifact_facts import AtlasFacts, Identity, read_facts, read_identity, reason
from atlas.export.artifact_folders import FolderFacts, PackageFacts, read_folders
from atlas.export.artifact_page import Registry, Superseded, page
from atlas.export.artifact_sections import package_name
from atlas.export.folder import replace_text
from atlas.progress import Progress, Quiet
from atlas.store.schema import newest_version

Unreadable = tuple[str, str]  # path as shown, reason


def artifacts_text(root: Path, *, progress: Progress | None = None) -> str:
    """Describe everything below `root` (unfinished builds and hidden folders left out), in order of path.

    Atlases (*.duckdb), edge stores, packages and report folders that atlas wrote, shards. Every current atlas is
    read once in full (its content hash). Raises InputError when `root` is no folder.
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
    gone = [Superseded(i.shown, i.metadata.get("model", "unknown"), i.created or "unknown", i.size, w) for i, w in old]
    folders, made_from, stale = _placed(read_folders(root, shown), current, [item for item, _ in old])
    bad = sorted([*bad, *folders.bad])
    return page(shown, Registry(current, folders, made_from, [*gone, *stale], bad))


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


def _placed(
    found: FolderFacts, current: list[AtlasFacts], old: list[Identity]
) -> tuple[FolderFacts, dict[str, str], list[Superseded]]:
    """Packages whose atlas is here with what is said of it, the others as superseded; shards that no atlas lists."""
    made_from, stale = {}, []
    for one in (*found.packages, *found.reports):
        told = _origin(one, current)
        if told is not None:
            made_from[one.shown] = told
            continue
        why = f"{package_name(one)}, {_lost(one, old)}" if one in found.packages else f"Reports, {_lost(one, old)}"
        created = str(one.atlas.get("created") or "unknown")
        stale.append(Superseded(one.shown, str(one.about.get("model", "unknown")), created, one.size, why))
    listed = {facts.shards.shown for facts in current if facts.shards}
    kept = replace(
        found,
        packages=tuple(one for one in found.packages if one.shown in made_from),
        reports=tuple(one for one in found.reports if one.shown in made_from),
        shards=tuple(one for one in found.shards if one.shown not in listed),
    )
    return kept, made_from, stale


def _origin(one: PackageFacts, current: list[AtlasFacts]) -> str | None:
    """The atlas that a package is of, in words; None when it is not here. Reports may be of several of one model."""
    known, model = one.atlas, (one.about.get("model"), one.about.get("revision"))
    alike = [facts for facts in current if model == tuple(map(facts.identity.metadata.get, ("model", "revision")))]
    same = [facts for facts in alike if known.get("created") and known["created"] == facts.identity.created]
    if exact := [facts for facts in current if known.get("fingerprint") == facts.content_hash]:
        return f"made from `{exact[0].identity.shown}`"
    if same:
        before = "an earlier state of " if known.get("fingerprint") else ""
        return f"made from {before}`{same[0].identity.shown}`"
    return f"of the model of `{alike[0].identity.shown}`" if alike and "reports" in one.about else None


def _lost(one: PackageFacts, old: list[Identity]) -> str:
    created = one.atlas.get("created")
    for item in old:
        if created and created == item.created and one.about.get("model") == item.metadata.get("model"):
            return f"made from `{item.shown}`, which is superseded"
    return "made from an atlas that is no longer here"


def _same(a: Identity, b: Identity) -> bool:
    keys = ("model", "revision", "name")
    return "revision" in a.metadata and all(a.metadata.get(key) == b.metadata.get(key) for key in keys)


def _read(identity: Identity, current: list[AtlasFacts], bad: list[Unreadable]) -> None:
    try:
        current.append(read_facts(identity))
    except (AtlasError, duckdb.Error) as error:
        bad.append((identity.shown, reason(error, identity.file)))
