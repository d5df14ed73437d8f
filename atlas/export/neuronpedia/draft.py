"""A hidden folder beside the target -> the target, whole or not at all; a rerun of the same plan goes on in it.

`.NAME.partial/` holds package/ (what will be the target), plan.json (the key: plan and content of the atlas) and
done.jsonl, one line for every unit that is finished, with the hashes of its files. A unit that was cut is written anew.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, ResourceError
from atlas.export.neuronpedia.files import LEVEL, File, Folder

if TYPE_CHECKING:
    from atlas.export.neuronpedia.layout import Job
    from atlas.progress import Progress, Task

FORM = "atlas-neuronpedia/1"
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can hold


class Draft:
    """The package being written; `done` are the units that an earlier run finished, `made` their files."""

    def __init__(self, root: Path, done: list[dict[str, Any]]) -> None:
        self.root, self.done = root, done
        self.files = Folder(root / "package")
        self.made: dict[str, File] = {
            name: File(**one) for unit in done for name, one in unit["files"].items()
        }  # fmt: skip

    @property
    def content(self) -> Path:
        """The folder that becomes the target."""
        return self.root / "package"

    def finished(self, unit: int, job: Job) -> None:
        """Note that a unit is whole, with its counts and where the numbers of files stand."""
        files = {name: asdict(file) for name, file in self.files.made.items()}
        told = {"unit": unit, "files": files, "tally": job.tally.document(), "next_file": job.next_file}
        with (self.root / "done.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(told) + "\n")
        self.made |= self.files.made
        self.files.made = {}


@contextmanager
def begun(target: Path, key: dict[str, Any], progress: Progress) -> Iterator[Draft]:
    """Open the draft of a target, that of an earlier run where its key is the same; it stays when the block fails.

    Raises InputError when another export writes the same target, ResourceError when the disk is full.
    """
    root = _partial(target)
    try:
        (root / "package").mkdir(parents=True, exist_ok=True)
        with (root / "lock").open("w") as lock:
            _lock(lock.fileno(), target)
            made = Draft(root, _earlier(root, key, progress))
            try:
                yield made
            finally:
                made.files.abandon()
    except OSError as error:
        raise _explained(error, target, root) from error


def publish(made: Draft, target: Path, progress: Progress, *, packed: bool) -> int:
    """Rename the package, or a zip file of it, to the target and remove the draft; returns the target's bytes."""
    names = sorted(made.made)
    with progress.task("packing", len(names), "files") as task:
        ready = _zipped(made, names, task) if packed else made.content
        if not packed:
            task.advance(len(names), free=True)
    size = ready.stat().st_size if packed else sum(file.size for file in made.made.values())
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.old"
    if os.path.lexists(target):
        target.rename(aside)
    ready.rename(target)
    remove(aside)
    shutil.rmtree(made.root)
    return size


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_target(target: Path, *, force: bool) -> None:
    """Raise InputError for a target that is there, unless `force` and it is a package, or an empty folder."""
    if not os.path.lexists(target) or (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
        return
    if not force:
        raise InputError(f"{target} is there already; give another -o TARGET, or --force to replace it")
    if not _is_package(target):
        raise InputError(
            f"{target} is no package of atlas export neuronpedia and is not replaced; give another -o TARGET"
        )


def check_space(target: Path, needed: int) -> None:
    """Raise ResourceError when the disk has less free; what an earlier run of this target wrote counts as free."""
    folder = next(path for path in target.absolute().parents if path.is_dir())
    root = _partial(target)
    there = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) if root.is_dir() else 0
    free = shutil.disk_usage(folder).free + there
    if needed > free:
        raise ResourceError(
            f"{target} needs about {needed / 1e9:.3f} GB while it is written, {folder} has {free / 1e9:.3f} GB free; "
            "free some, give another -o TARGET, or leave parts out"
        )


def _partial(target: Path) -> Path:
    return target.parent / f".{target.name}.partial"


def _is_package(target: Path) -> bool:
    try:
        if target.is_dir():
            text = (target / "metadata.json").read_bytes()
        else:
            with zipfile.ZipFile(target) as packed:
                text = packed.read("metadata.json")
        found = json.loads(text)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False
    return isinstance(found, dict) and found.get("schema") == FORM


def _earlier(root: Path, key: dict[str, Any], progress: Progress) -> list[dict[str, Any]]:
    """Units that an earlier run of the same key finished; of another key nothing is kept."""
    path = root / "plan.json"
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == key
    except (FileNotFoundError, ValueError):
        same = False
    done = _read_log(root) if same else []
    if done:
        progress.note(f"going on after {len(done):,} finished batches in {root}")
        return done
    if path.exists():
        progress.note(f"{root} is of another plan or atlas, or has nothing finished: starting anew")
    for old in ("package", "parts", "done.jsonl"):
        remove(root / old)
    (root / "package").mkdir()
    path.write_text(json.dumps(key), encoding="utf-8")
    return []


def _read_log(root: Path) -> list[dict[str, Any]]:
    """Finished units up to the first whose line or files are not whole."""
    found: list[dict[str, Any]] = []
    try:
        lines = (root / "done.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    for text in lines:
        if not text.endswith("\n"):
            break
        unit = json.loads(text)
        paths = {root / "package" / name: file["size"] for name, file in unit["files"].items()}
        if any(not path.is_file() or path.stat().st_size != size for path, size in paths.items()):
            break
        found.append(unit)
    if len(found) < len(lines):
        (root / "done.jsonl").write_text("".join(lines[: len(found)]), encoding="utf-8")
    return found


def _zipped(made: Draft, names: list[str], task: Task) -> Path:
    """A zip file of the package: sorted names, one date, the same rights, so the same bytes every time."""
    path = made.root / "package.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as out:
        for name in names:
            member = zipfile.ZipInfo(name, _DATE)
            member.compress_type, member.external_attr, member.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            file = made.content / name
            member.file_size = file.stat().st_size
            with out.open(member, "w") as packed, file.open("rb") as plain:
                shutil.copyfileobj(plain, packed, 1 << 20)
            task.advance()
    return path


def _lock(handle: int, target: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another export is writing {target}; wait for it, or give another -o TARGET") from None


def _explained(error: OSError, target: Path, root: Path) -> InputError | ResourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(
            f"disk full while writing {target} ({error.strerror}): {target} is untouched; free space and run it "
            f"again to go on, or remove {root}"
        )
    return InputError(f"cannot write {target}: {error.strerror or error}; give another -o TARGET")
