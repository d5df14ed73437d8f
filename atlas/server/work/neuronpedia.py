"""A request of the export dialog -> one zip file in the job's folder, by `atlas export neuronpedia`."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, StoreError
from atlas.store.connection import Limits

if TYPE_CHECKING:
    from atlas.export.neuronpedia.plan import NeuronpediaPlan
    from atlas.progress import Progress
    from atlas.query.atlas import Atlas
    from atlas.server.jobs.work import Work

SIGNS = {"+": (1,), "-": (-1,), "both": (1, -1)}
_NAMES = ("model_id", "release", "set", "author_id")
_DATE = (1980, 1, 1, 0, 0, 0)  # of every file in the archive: the same request gives the same bytes
_PACKED = (".gz", ".parquet", ".safetensors")  # smaller it does not get
Request = dict[str, Any]


def neuronpedia_export(work: Work, request: Request) -> dict[str, Any]:
    """Write the package; where it is, its size and what it lacks. A run that was stopped goes on."""
    from atlas.build.neuronpedia import export_neuronpedia
    from atlas.query.atlas import Atlas

    ids = ids_of_sql(work.atlas, request["sql"]) if request["selection"] == "sql" else None
    with Atlas(work.atlas) as atlas:
        ids = chosen_ids(atlas, request) if ids is None else ids
        plan = plan_of(request, ids, model=work.model if request["saelens_weights"] else None)
        archive = work.folder / archive_name(atlas, plan)
        target = archive if plan.layout == "prd" else work.folder / "package"
        made = export_neuronpedia(atlas, target, plan, progress=work.progress)
    if target != archive:
        _pack(target, archive, work.progress)
    return {
        "output_path": str(archive),
        "file_size": archive.stat().st_size,  # the name of the seed's channel
        "file_size_bytes": archive.stat().st_size,
        "feature_count": made.features,
        "files": made.files,
        "layout": made.layout,
        "sha256": made.sha256,
        "notes": list(made.notes),
    }


def neuronpedia_estimate(work: Work, request: Request) -> dict[str, Any]:
    """What an export would write: a job where a statement may take long, or weights need torch."""
    from atlas.build.neuronpedia import estimate
    from atlas.query.atlas import Atlas

    ids = ids_of_sql(work.atlas, request["sql"]) if request["selection"] == "sql" else None
    with Atlas(work.atlas) as atlas:
        ids = chosen_ids(atlas, request) if ids is None else ids
        return asdict(estimate(atlas, plan_of(request, ids, model=work.model if request["saelens_weights"] else None)))


def plan_of(request: Request, ids: list[int], *, model: str | None) -> NeuronpediaPlan:
    """The plan of a request for these neurons; `model`: the folder whose weights are included."""
    from atlas.export.neuronpedia.plan import NeuronpediaPlan

    include = {name: request[name] for name in ("logit_lens", "histograms", "top_tokens", "explanations")}
    sizes = {"top_k": request["logit_lens_k"], "bins": request["histogram_bins"], "tokens": request["top_tokens_k"]}
    given = {name: request[name] for name in _NAMES}
    creator = {name: request[name] for name in ("creator", "creator_id") if request[name] is not None}
    return NeuronpediaPlan(
        neurons=ids, layout=request["layout"], activations=request["activations"], signs=SIGNS[request["sign"]],
        visibility=request["visibility"], most_bytes=request["max_bytes"], model=model, force=True,
        **include, **sizes, **given, **creator,
    )  # fmt: skip


def chosen_ids(atlas: Atlas, request: Request) -> list[int]:
    """Packed ids of what was selected, but for a SELECT. InputError, StoreError."""
    from atlas.export.neuronpedia.selection import Choice, chosen

    kind, span = request["selection"], request["range"]
    return chosen(
        atlas,
        Choice(
            neurons=tuple(request["neurons"] or ()) if kind == "neurons" else (),
            everything=kind == "all",
            extracted=kind == "extracted",
            span=f"{span[0]}:{span[1]}" if kind == "range" else None,
        ),
    )


def ids_of_sql(file: Path, sql: str) -> list[int]:
    """Packed ids of a SELECT, on a connection that reaches no file but the atlas. InputError for another statement."""
    from atlas.export.neuronpedia.selection import Choice, chosen
    from atlas.query.atlas import Atlas

    with Atlas(file, limits=Limits("1GiB", 2)) as atlas:
        atlas.con.execute("SET enable_external_access = false")  # cannot be taken back while the connection is open
        try:
            return chosen(atlas, Choice(sql=sql))
        except StoreError as error:
            if "disabled by configuration" not in str(error):
                raise
            raise InputError("the SELECT names a file; it may read the tables and macros of the atlas alone") from error


def archive_name(atlas: Atlas, plan: NeuronpediaPlan) -> str:
    """Name of the zip file."""
    from atlas.export.neuronpedia.plan import names

    return f"{names(atlas, plan).release}-{plan.layout}.zip"


def _pack(folder: Path, archive: Path, progress: Progress) -> None:
    """Put a folder into a zip file, sorted by name, and remove it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    part = archive.with_name(f".{archive.name}.part")
    with progress.task("packing", len(paths), "files") as task, zipfile.ZipFile(part, "w") as out:
        for path in paths:
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
            member.compress_type = zipfile.ZIP_STORED if path.suffix in _PACKED else zipfile.ZIP_DEFLATED
            member.external_attr, member.create_system, member.file_size = 0o644 << 16, 3, path.stat().st_size
            with out.open(member, "w") as packed, path.open("rb") as plain:
                while chunk := plain.read(1 << 20):
                    packed.write(chunk)
            task.advance()
    part.replace(archive)
    shutil.rmtree(folder)
