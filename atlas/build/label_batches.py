"""An atlas -> the request file of a batch API, wave by wave; its answers -> the ledger and the atlas.

One file holds the requests of the first wave that is not answered whole: the next wave's prompts show its labels. With
`at_once` all waves are written now, with the labels of neighbours that are known today.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from atlas.build.labelling import Choice, Labelled, Sending, folder_of, label_atlas, make_desk, make_plan
from atlas.derive.labelling.batch import Batch, Taken, take_answers, write_requests
from atlas.derive.labelling.dispatch import settled
from atlas.derive.labelling.evidence import Asking
from atlas.derive.labelling.ledger import Ledger, ledger_file, locked
from atlas.derive.labelling.request import OK, Setting
from atlas.errors import InputError
from atlas.progress import Progress, Quiet
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits


@dataclass(frozen=True)
class BatchFile:
    """What was written."""

    file: str
    requests: int
    waves: list[int]  # layers, or levels of modules, that it asks about
    left: int  # waves that come after
    held: int  # requests that the limits of the run left out


def write_batch(
    file: Path,
    which: str,
    out: Path,
    *,
    asked: tuple[Setting, Sending, Choice],
    at_once: bool = False,
    progress: Progress | None = None,
) -> BatchFile:
    """Write the requests that are to be answered next; none when everything is. `out` must be new."""
    if out.exists():
        raise InputError(f"{out} exists; give --write-batch another name")
    setting, sending, choice = asked
    shown, folder, desk = progress or Quiet(), folder_of(file), make_desk(sending)
    batch, names, waves = Batch(out, folder), dict[object, str](), Counter[int]()
    with locked(folder), Atlas(file, limits=Limits("1GiB", 1)) as atlas:
        plan = make_plan(atlas, which, choice, shown)
        asking = Asking(atlas, setting, names, choice.everyone, choice.at_least)
        for wave in plan.waves:
            ledger = Ledger(ledger_file(folder, which, wave))
            found = (q.request for q in plan.which.questions(asking, wave, plan.of(wave)) if q.request)
            before = batch.lines
            write_requests(batch, found, ledger, (which, wave), desk)
            waves[wave] = batch.lines - before
            if not at_once and (waves[wave] or batch.held):
                break
            for question in plan.which.questions(asking, wave, plan.of(wave)):
                row = question.request and settled(ledger, question.request, desk)
                if row and row["status"] == OK:
                    names[plan.key(wave, question.neuron, atlas.d_mlp)] = row["answer"]["label"]
    written = [wave for wave, lines in waves.items() if lines]
    return BatchFile(str(out), batch.lines, written, len(plan.waves) - len(waves), batch.held)


def read_batch(
    file: Path,
    which: str,
    answers: Path,
    *,
    asked: tuple[Setting, Sending, Choice],
    progress: Progress | None = None,
) -> tuple[Taken, Labelled]:
    """Take the answers of a batch in, and write the labels that are there now into the atlas. Nothing is sent."""
    setting, sending, choice = asked
    with locked(folder_of(file)):
        taken = take_answers(answers, folder_of(file), make_desk(sending).run)
    return taken, label_atlas(file, which, setting=setting, sending=sending, choice=choice, progress=progress)
