"""An atlas and a plan -> a package of one layout, whole or not at all, with the same bytes every time.

Units of up to 1,024 neurons of a layer are written one after the other, 200 neurons in memory at a time; a finished
unit is never written again, so a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from atlas.errors import InputError
from atlas.export.neuronpedia.draft import FORM, Draft, begun, check_target, publish, remove
from atlas.export.neuronpedia.files import Files, Scale, document
from atlas.export.neuronpedia.layout import Facts, Job, Layout, Unit, units
from atlas.export.neuronpedia.manifest import metadata, readme
from atlas.export.neuronpedia.plan import NeuronpediaPlan, check_plan, missing_tables, names, possible_layouts
from atlas.export.neuronpedia.records import CHUNK, Neuron, Reader
from atlas.export.neuronpedia.tally import Tally
from atlas.progress import Progress, Quiet

if TYPE_CHECKING:
    from atlas.progress import Task
    from atlas.query.atlas import Atlas

_SAMPLE = 128  # neurons that an estimate is made from
_WEIGHTS = -1  # the unit of the model's weights
Weights = Callable[[Path], None]  # writes a folder that is not there yet


@dataclass(frozen=True)
class Package:
    """What was written; `sha256` is over the sorted (path, sha256) of its files, packed or not."""

    path: Path
    layout: str
    features: int
    files: int
    size_bytes: int
    sha256: str
    notes: tuple[str, ...]  # what the atlas lacks, what was altered and left out


@dataclass(frozen=True)
class Estimate:
    """What an export would write, from the records of `sampled` neurons; weights are in `weight_bytes`."""

    layout: str
    features: int
    files: int
    size_bytes: int  # of the package, weights included
    sampled: int
    weight_bytes: int
    disk_bytes: int  # needed while it is written: a zip file and what goes into it are there together
    notes: tuple[str, ...]
    layouts: tuple[str, ...]  # that this atlas can be exported in


def export_neuronpedia(
    atlas: Atlas,
    target: Path,
    plan: NeuronpediaPlan,
    *,
    progress: Progress | None = None,
    weights: Weights | None = None,
) -> Package:
    """Write the package of a plan to `target`, a folder, or a zip file in the prd layout.

    Nothing is at `target` before all of it is: an error or Ctrl-C leaves only a hidden folder beside it, in which the
    same plan on the same atlas goes on. Raises InputError for a plan or target that is refused, StoreError for an
    atlas that lacks what the layout needs, ResourceError when the disk is full.
    """
    shown = progress or Quiet()
    lacking = check_plan(atlas, plan)
    if plan.model is not None and weights is None:
        raise InputError("weights are written by atlas.build.neuronpedia.export_neuronpedia; use that function")
    check_target(target, force=plan.force)
    fingerprint = _fingerprint(atlas, shown)
    job = _job(atlas, plan)
    with begun(target, _key(plan, fingerprint, job), shown) as made:
        job.files = made.files
        total, layers = _write_units(atlas, job, made, shown, weights)
        _finish(job, made, layers, total, fingerprint)
        size = publish(made, target, shown, packed=_packed(plan))
    return Package(
        target, plan.layout, total.counts["features"], len(made.made), size, _sha256(made), (*lacking, *_told(total))
    )


def estimate(atlas: Atlas, plan: NeuronpediaPlan) -> Estimate:
    """Size of a package without writing it, from the real records of up to 128 neurons spread over the selection."""
    lacking = check_plan(atlas, plan)
    layout, job, scale = _layout(plan), _job(atlas, plan), Scale(_packed(plan))
    job.files = scale
    ids = sorted(set(plan.neurons))
    some = [ids[i * len(ids) // _SAMPLE] for i in range(_SAMPLE)] if len(ids) > _SAMPLE else ids
    reader = Reader(atlas, plan)
    for unit in units(some, atlas.d_mlp, layout.PER_UNIT):
        layout.write_unit(job, unit, reader.chunks(unit.layer, unit.neurons, job.tally))
    size, sampled = scale.size, len(scale.names)
    layers = sorted({one // atlas.d_mlp for one in ids})
    layout.finish(job, layers)
    parts, of_sample = len(units(ids, atlas.d_mlp, layout.PER_UNIT)), len(units(some, atlas.d_mlp, layout.PER_UNIT))
    files = (len(ids) if plan.layout == "prd" else round(sampled * parts / of_sample)) + len(scale.names) - sampled + 2
    whole = round(size * len(ids) / len(some)) + scale.size - size + 110 * files + 5_000
    disk = whole + (round(scale.plain * len(ids) / len(some)) if scale.packed else 0)
    possible = tuple(possible_layouts(missing_tables(atlas)))
    return Estimate(plan.layout, len(ids), files, whole, len(some), 0, disk, lacking, possible)


def _write_units(
    atlas: Atlas, job: Job, made: Draft, progress: Progress, weights: Weights | None
) -> tuple[Tally, list[int]]:
    total, done = Tally(), {unit["unit"]: unit for unit in made.done}
    if weights and _WEIGHTS not in done:
        _write_weights(job, made, weights)
    layout, reader = _layout(job.plan), Reader(atlas, job.plan)
    parts = units(job.plan.neurons, atlas.d_mlp, layout.PER_UNIT)
    for earlier in made.done:
        total.add(earlier["tally"])
        job.next_file = earlier["next_file"]
    with progress.task("features", sum(len(unit.neurons) for unit in parts), "neurons") as task:
        for unit in parts:
            if unit.index in done:
                task.advance(len(unit.neurons), free=True)
                continue
            job.tally = Tally()
            layout.write_unit(job, unit, _told_chunks(reader, unit, job.tally, task))
            made.finished(unit.index, job)
            total.add(job.tally.document())
    return total, sorted({unit.layer for unit in parts})


def _told_chunks(reader: Reader, unit: Unit, tally: Tally, task: Task) -> Iterator[list[Neuron]]:
    """Chunks of a unit; each is told as done when the next is asked for."""
    left = len(unit.neurons)
    for chunk in reader.chunks(unit.layer, unit.neurons, tally):
        yield chunk
        asked = min(CHUNK, left)  # more than there are where the atlas has no row of a neuron
        task.advance(asked)
        left -= asked


def _write_weights(job: Job, made: Draft, weights: Weights) -> None:
    draft, folder = made.root / "saelens", made.content / "saelens"
    for left in (draft, folder):  # of a run that was killed
        remove(left)
    weights(draft)
    draft.rename(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            made.files.adopt(path.relative_to(made.content).as_posix())
    made.finished(_WEIGHTS, job)


def _finish(job: Job, made: Draft, layers: list[int], total: Tally, fingerprint: str) -> None:
    job.tally = Tally()
    _layout(job.plan).finish(job, layers)
    total.add(job.tally.document())
    told = metadata(job, total, layers, fingerprint, made.made | made.files.made)
    made.files.write("README.md", readme(told, job).encode("utf-8", "replace"))
    told["files"] = dict(sorted({**told["files"], "README.md": made.files.made["README.md"].sha256}.items()))
    made.files.write("metadata.json", document(told))
    made.made |= made.files.made


def _fingerprint(atlas: Atlas, progress: Progress) -> str:
    with progress.task("content of the atlas", 1, "hash") as task:
        found = atlas.hash()
        task.advance()
    return found


def _key(plan: NeuronpediaPlan, fingerprint: str, job: Job) -> dict[str, object]:
    """What makes two runs write the same bytes."""
    ids = hashlib.sha256(",".join(map(str, sorted(set(plan.neurons)))).encode()).hexdigest()
    made = {"schema": FORM, "atlas": fingerprint, "created": job.facts.metadata.get("created"), "neurons": ids}
    return made | {name: list(value) if isinstance(value, tuple) else value for name, value in plan.options().items()}


def _job(atlas: Atlas, plan: NeuronpediaPlan) -> Job:
    modules: dict[str, str] = {}
    if plan.layout == "prd" and "clusters" not in atlas.missing:
        rows: Sequence[tuple[str, str]] = atlas.free("SELECT cluster_path, label FROM clusters", {}).fetchall()
        modules = {path: label for path, label in rows if label}
    return Job(plan, names(atlas, plan), Facts(atlas.metadata, atlas.layers, atlas.d_mlp, modules), _nowhere(), Tally())


def _nowhere() -> Files:
    return Scale()


def _layout(plan: NeuronpediaPlan) -> Layout:
    return cast(Layout, import_module(f"atlas.export.neuronpedia.{plan.layout.replace('-', '_')}"))


def _packed(plan: NeuronpediaPlan) -> bool:
    return plan.layout == "prd" and plan.zip


def _sha256(made: Draft) -> str:
    lines = "".join(f"{name} {made.made[name].sha256}\n" for name in sorted(made.made))
    return hashlib.sha256(lines.encode()).hexdigest()


def _told(total: Tally) -> tuple[str, ...]:
    found = total.document()
    return tuple(
        f"{title}: {count:,} {what}"
        for title, name in (("altered", "altered"), ("left out", "left_out"))
        for what, count in found[name].items()
    )
