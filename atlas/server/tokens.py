"""Bearer tokens: made once and shown once, kept as hashes.

A token is 256 random bits, so that one SHA-256 without salt is as good as a slow hash: there is nothing to guess.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from atlas.errors import InputError, StoreError
from atlas.export.folder import replace_bytes

_NAME = re.compile(r"[\w.@-]{1,64}")


@dataclass(frozen=True)
class Token:
    """What is kept of a token."""

    name: str
    sha256: str
    created: str


class Tokens:
    """The tokens of one server folder; the file is read again when it has changed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.json"
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[str, str] = {}

    def owner(self, secret: str) -> str | None:
        """The name of a token; None for an unknown one."""
        self._refresh()
        return self._names.get(_digest(secret))

    def any(self) -> bool:
        """Whether there are tokens at all."""
        self._refresh()
        return bool(self._names)

    def known(self) -> list[Token]:
        """All of them, oldest first; StoreError for a damaged file."""
        try:
            return [Token(**one) for one in json.loads(self.file.read_text(encoding="utf-8"))["tokens"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.file} is no list of tokens ({error}); remove it and add the tokens anew"
            ) from error

    def add(self, name: str) -> str:
        """Make a token; the secret is only here, the file has its hash. InputError for a name in use."""
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name for a token; use up to 64 letters, digits, . _ @ -")
        secret = "atlas_" + secrets.token_urlsafe(32)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        with self._changing() as known:
            if name in {token.name for token in known}:
                told = f"there is a token {name!r}; remove it first (atlas token remove {name}) or use another name"
                raise InputError(told)
            known.append(Token(name, _digest(secret), created))
        return secret

    def remove(self, name: str) -> None:
        """Forget a token; a running server refuses it from then on."""
        with self._changing() as known:
            if name not in {token.name for token in known}:
                raise InputError(f"no token {name!r}; atlas token list shows them")
            known[:] = [token for token in known if token.name != name]

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens, to be changed in place and written; one process at a time, so that none is lost."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.file.with_suffix(".lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self.known()
            yield known
            self._write(known)

    def _write(self, tokens: list[Token]) -> None:
        text = json.dumps({"tokens": [asdict(token) for token in tokens]}, indent=1) + "\n"
        replace_bytes(self.file, text.encode())
        os.chmod(self.file, 0o600)

    def _refresh(self) -> None:
        try:
            found = self.file.stat()
        except FileNotFoundError:
            self._seen, self._names = None, {}
            return
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._names = {token.sha256: token.name for token in self.known()}
            self._seen = seen


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
