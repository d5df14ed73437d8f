"""Names of files in the server's data folder -> their paths; nothing outside the folder is ever reached."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from starlette.responses import Response, StreamingResponse

from atlas.errors import StoreError
from atlas.server.errors import Refusal

NAME = r"^\w[\w.-]{0,199}$"  # of a file: no separator, no leading dot
JSON_NAME = r"^\w[\w.-]{0,194}\.json$"  # which no module path is
CHECKED = 64 << 20  # bytes of a file that is read as a whole and checked; larger ones are sent as they are
_CHUNK = 1 << 20


def file_names(folder: Path, suffix: str = ".json") -> list[str]:
    """The files of a folder, sorted; hidden ones and what a link leads out of the folder are left out."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(suffix) and _inside(folder, path))


def find_file(folder: Path, name: str, *, status: int = 404) -> Path:
    """A file of a folder by its bare name; Refusal with `status` for another one."""
    path = folder / name
    if not re.match(NAME, name) or not _inside(folder, path):
        raise Refusal(status, f"no file {name!r} in {folder.name}/ of the server's data folder")
    return path


def json_file(path: Path, *, envelope: bool) -> Response:
    """The JSON of a file as an answer, in bounded memory; StoreError for one that is no JSON (up to CHECKED bytes)."""
    head, tail = (b'{"status":"success","data":', b',"message":null}') if envelope else (b"", b"")
    size = path.stat().st_size
    if size <= CHECKED:
        content = path.read_bytes()
        check_json(content, path.name)
        return Response(head + content.strip() + tail, media_type="application/json")
    length = {"content-length": str(len(head) + size + len(tail))}
    return StreamingResponse(_streamed(path, head, tail), media_type="application/json", headers=length)


def check_json(content: bytes, name: str) -> Any:
    """The value of a text of JSON; StoreError that names the file."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise StoreError(f"{name} is not whole JSON ({error}); make it anew") from error


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Only one thread or process at a time changes a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _inside(folder: Path, path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file() and path.resolve().parent == folder.resolve()


def _streamed(path: Path, head: bytes, tail: bytes) -> Iterator[bytes]:
    yield head
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            yield chunk
    yield tail
