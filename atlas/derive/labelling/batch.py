"""Questions -> the request file of a batch API, and its answer file -> the ledger.

A batch API takes one file of requests and gives one of answers, a day later and cheaper. Lines are in the form that
OpenAI and compatible servers take: custom_id is the request's key. What each key stands for is kept beside the ledger
(batches.jsonl), so answers can be taken in without the atlas; answers to requests that were never written are refused.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from atlas.derive.labelling.answers import CLUSTER, INPUT, OUTPUT, Form
from atlas.derive.labelling.client import judge
from atlas.derive.labelling.dispatch import Desk, asked_of
from atlas.derive.labelling.ledger import Entry, Ledger, Row, ledger_file
from atlas.derive.labelling.request import API_ERROR, Reply, Request
from atlas.errors import InputError

_FORMS = {form.name: form for form in (OUTPUT, INPUT, CLUSTER)}
_URL = "/v1/chat/completions"
_AT_ONCE = 1000
_Place = tuple[str, int]  # pass and wave


@dataclass
class Batch:
    """A request file that is being written: what was written, and what did not fit the limits of the run."""

    file: Path
    folder: Path
    lines: int = 0
    held: int = 0  # not written: the limit was reached
    written: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Taken:
    """What came of an answer file."""

    statuses: dict[str, int]
    unknown: int  # lines that answer no request of ours
    damaged: int  # lines that are no JSON object with a custom_id
    already: int  # answered before


def write_requests(
    batch: Batch, requests: Iterable[Request], ledger: Ledger, where: tuple[str, int], desk: Desk
) -> None:
    """Append the requests that the ledger does not answer, and note what they are. `where`: the pass and the wave."""
    noted = batch.folder / "batches.jsonl"
    noted.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lines, notes = (stack.enter_context(path.open("a", encoding="utf-8")) for path in (batch.file, noted))
        for request in requests:
            asked = asked_of(request, ledger, desk)
            if asked is None or asked.key in batch.written:
                continue
            if not desk.budget.reserve(asked):
                batch.held += 1
                continue
            batch.written.add(asked.key)
            batch.lines += 1
            lines.write(_line({"custom_id": asked.key, "method": "POST", "url": _URL, "body": asked.body}))
            notes.write(_line(_note(asked, where)))


def take_answers(file: Path, folder: Path, run: str) -> Taken:
    """Put the answers of a batch into the ledgers of `folder`; what is answered already stays as it is.

    Requests and answers are sorted by ledger on the disk first, so memory is one layer's, and 200 bytes a request.
    """
    if not file.is_file():
        raise InputError(f"no answers at {file}; give the output file of the batch (JSON lines)")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix=".batch-", dir=folder if folder.is_dir() else None) as work:
        notes, answers = _Sorted(Path(work) / "notes"), _Sorted(Path(work) / "answers")
        with notes, answers:
            places = _known(folder, notes)
            with file.open("rb") as lines:
                for line in filter(bytes.strip, lines):
                    found = _parsed(line)
                    place = places.get(found["custom_id"]) if found else None
                    if place is None:
                        counts["damaged" if found is None else "unknown"] += 1
                    else:
                        answers.write(place, line)
        del places
        for place in answers.names:
            counts += _take(ledger_file(folder, *place), notes.lines(place), answers.lines(place), run)
    statuses = {name[7:]: count for name, count in sorted(counts.items()) if name.startswith("status ")}
    return Taken(statuses, counts["unknown"], counts["damaged"], counts["already"])


def _take(place: Path, notes: Iterable[bytes], answers: Iterable[bytes], run: str) -> Counter[str]:
    """Put the answers of one ledger into it; how many of each status, and how many were there."""
    ledger, counts, waiting = Ledger(place), Counter[str](), []
    known = {row["key"]: row for row in map(json.loads, notes)}
    for found in map(json.loads, answers):
        request = _request(known[found["custom_id"]])
        before = ledger.find(request)
        if before is not None and before["key"] == request.key and before["status"] == "ok":
            counts["already"] += 1
            continue
        reply = _reply(request, found)
        counts[f"status {reply.status}"] += 1
        waiting.append(Entry(request, reply, run))
        if len(waiting) >= _AT_ONCE:
            ledger.append(waiting)
            waiting = []
    if waiting:
        ledger.append(waiting)
    return counts


class _Sorted:
    """Lines on the disk, by the pass and wave that they belong to; written within `with`, read after it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder, self._stack = folder, ExitStack()
        self._files: dict[_Place, IO[bytes]] = {}

    def __enter__(self) -> _Sorted:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def names(self) -> list[_Place]:
        """The passes and waves that have a line, in order."""
        return sorted(self._files)

    def write(self, place: _Place, line: bytes) -> None:
        """Add a line."""
        if place not in self._files:
            self._files[place] = self._stack.enter_context(self._file(place).open("wb"))
        self._files[place].write(line if line.endswith(b"\n") else line + b"\n")

    def lines(self, place: _Place) -> Iterator[bytes]:
        """The lines of one pass and wave, in the order they came."""
        with self._file(place).open("rb") as lines:
            yield from lines

    def _file(self, place: _Place) -> Path:
        return self._folder / f"{place[0]}-{place[1]}"


def _note(request: Request, where: tuple[str, int]) -> Row:
    return {
        "key": request.key, "basis": request.basis, "subject": request.subject, "form": request.form.name,
        "prompt": request.prompt, "origin": request.origin, "pass": where[0], "wave": where[1],
        "model": request.body["model"], "limit": request.answer_limit,
    }  # fmt: skip


def _known(folder: Path, notes: _Sorted) -> dict[str, _Place]:
    """Where the answer of each request goes, by its key; what is noted of it goes to `notes`."""
    noted = folder / "batches.jsonl"
    if not noted.is_file():
        raise InputError(f"no batch was written for this atlas (no {noted}); write one with --write-batch FILE first")
    places: dict[str, _Place] = {}
    shared: dict[_Place, _Place] = {}  # one tuple for all requests of a wave
    with noted.open("rb") as lines:
        for line in lines:
            if row := _parsed(line, key="key"):
                place = (row["pass"], row["wave"])
                places[row["key"]] = shared.setdefault(place, place)
                notes.write(place, line)
    return places


def _request(note: Row) -> Request:
    """What of a request the ledger needs; its messages are not kept."""
    body = {"model": note["model"], "messages": [], "max_tokens": note["limit"]}
    form: Form = _FORMS[note["form"]]
    return Request(note["subject"], body, note["key"], note["basis"], form, note["prompt"], note["origin"])


def _reply(request: Request, found: Row) -> Reply:
    response = found.get("response") or {}
    body = response.get("body") or {}
    try:
        choice = body["choices"][0]
        message = choice["message"]
    except (KeyError, IndexError, TypeError):
        told = found.get("error") or body.get("error") or response.get("status_code")
        return Reply(API_ERROR, detail=f"batch: {told}"[:300])
    usage = body.get("usage") or {}
    facts: dict[str, Any] = {
        "tokens_in": usage.get("prompt_tokens"), "tokens_out": usage.get("completion_tokens"),
        "model": body.get("model"),
    }  # fmt: skip
    return judge(request, message, choice.get("finish_reason"), facts)


def _parsed(line: bytes, *, key: str = "custom_id") -> Row | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get(key), str) else None


def _line(value: Row) -> str:
    return json.dumps(value, ensure_ascii=True) + "\n"
