"""A selection of neurons and modules -> a folder of pages, their JSON, and an index; a rerun writes what changed.

html/L3_N17.html and json/L3_N17_dashboard.json of each neuron, html/C158.4.html and json/C158.4_dashboard.json of each
module, index.html and index.json over all that the folder holds, also of earlier runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, ResourceError
from atlas.export.folder import replace_bytes
from atlas.export.pictures.svg import picture
from atlas.export.reports.dashboard import dashboard, module_dashboard
from atlas.export.reports.missing import Missing, missing_panels
from atlas.export.reports.page import index_page, module_page, neuron_page, page_name
from atlas.export.reports.panels import panels
from atlas.progress import Progress, Quiet
from atlas.query.module_graph import cluster_subgraph

if TYPE_CHECKING:
    from atlas.progress import Task
    from atlas.query.atlas import Atlas

FORM = "atlas-neuron-reports/1"
_MEMBERS = 200  # of a module's page; all of them are in the atlas


@dataclass(frozen=True)
class ReportPlan:
    """What is reported and how much of it; `rows` of each list, `similar` 0 leaves that panel out."""

    neurons: Sequence[int] = ()  # packed ids
    modules: Sequence[str] = ()  # paths
    rows: int = 10
    similar: int = 5
    force: bool = False  # write into a folder that holds other things


@dataclass(frozen=True)
class Reported:
    """What a run did: pages by what became of them, and bytes of all files of these pages."""

    pages: int
    written: int
    unchanged: int
    size: int
    index: Path
    missing: tuple[Missing, ...] = ()  # what no page of a neuron can show


def write_reports(atlas: Atlas, target: Path, plan: ReportPlan, *, progress: Progress | None = None) -> Reported:
    """Write the pages into `target`; those whose bytes are the same already are left alone.

    Raises InputError for neurons that the atlas does not list, and for a folder that holds something else or reports of
    another model, unless forced, and ResourceError when the disk is full; what was written before stays whole.
    """
    _require_neurons(atlas, plan.neurons)
    old = _read_index(atlas, target, plan.force)
    known = {entry["file"]: entry for entry in old if (target / "html" / f"{entry['file']}.html").is_file()}
    names = {page_name(*divmod(one, atlas.d_mlp)) for one in plan.neurons} | {f"C{path}" for path in plan.modules}
    out = _Folder(target, frozenset(names | known.keys()), atlas.layers)
    try:
        with (progress or Quiet()).task("reports", len(names), "pages") as task:
            known |= {entry["file"]: entry for entry in _modules(atlas, out, plan, task)}
            known |= {entry["file"]: entry for entry in _neurons(atlas, out, plan, task)}
        entries = sorted(known.values(), key=_order)
        title = f"Neurons of {atlas.metadata.get('model', atlas.name)}"
        head: dict[str, Any] = {"schema": FORM, **{key: atlas.metadata.get(key) for key in ("model", "revision")}}
        head |= {"atlas": {key: atlas.metadata.get(key) for key in ("name", "created")}}  # of the last run
        out.index("index.json", _json({**head, "reports": entries}))
        out.index("index.html", index_page(entries, title=title))
    except OSError as error:
        raise ResourceError(f"cannot write {target}: {error.strerror}; free some space, or give another -o") from error
    missing = missing_panels(atlas) if plan.neurons else ()
    return Reported(out.pages, out.written, out.pages - out.written, out.size, target / "index.html", missing)


def _require_neurons(atlas: Atlas, ids: Sequence[int]) -> None:
    found = atlas.free(
        "SELECT id FROM (SELECT unnest($ids) AS id) WHERE id NOT IN (SELECT feature_id FROM neurons) ORDER BY id",
        {"ids": list(ids)},
    )
    if len(found):
        first = "L{}/N{}".format(*divmod(found.fetchall()[0][0], atlas.d_mlp))
        raise InputError(
            f"{len(found):,} of {len(ids):,} neurons are not in {atlas.name}, the first {first}: it lists only some "
            "neurons; choose others"
        )


def _neurons(atlas: Atlas, out: _Folder, plan: ReportPlan, task: Task) -> list[dict[str, Any]]:
    entries, missing = [], missing_panels(atlas) if plan.neurons else ()
    for found in panels(atlas, plan.neurons, k=plan.rows, similar=plan.similar):
        document = dashboard(found, atlas, missing=missing)
        name = page_name(found.id.layer, found.id.neuron)
        out.page(name, document, neuron_page(document, layers=out.layers, pages=out.names))
        entries.append(_neuron_entry(name, document))
        task.advance()
    return entries


def _modules(atlas: Atlas, out: _Folder, plan: ReportPlan, task: Task) -> list[dict[str, Any]]:
    entries = []
    for path in plan.modules:
        card = atlas.cluster(path, k=max(plan.rows, _MEMBERS)).to_dict()
        card |= {
            name: card[name][: plan.rows * 2]
            for name in ("parts_list", "neighbours", "edges", "tokens")
            if name in card
        }
        graph = cluster_subgraph(atlas, path, max_nodes=40, max_links=200)
        document = module_dashboard(
            {"tokens": [], **card}, {"nodes": len(graph.nodes), "links": len(graph.links)}, atlas
        )
        svg = picture(graph) if graph.links else None
        out.page(f"C{path}", document, module_page(document, picture=svg, layers=out.layers, pages=out.names))
        entries.append({
            "kind": "module", "file": f"C{path}", "id": path, "label": document["label"], "size": document["size"],
        })  # fmt: skip
        task.advance()
    return entries


def _neuron_entry(name: str, document: dict[str, Any]) -> dict[str, Any]:
    module, pruning = document["module"], document["pruning"]
    types = [row["type"] for row in document["labels"] if row["label"] == document["label"] and row["type"]]
    return {
        "kind": "neuron", "file": name, **{key: document[key] for key in ("id", "layer", "neuron", "label")},
        "module": module["path"] if module else None, "type": types[0] if types else None,
        "max_activation": document["max_activation"], "appearance_count": document["appearance_count"],
        "pruning_score": pruning[0]["pruning_score"] if pruning else None,
    }  # fmt: skip


class _Folder:
    """The target, and what was written into it."""

    def __init__(self, target: Path, names: frozenset[str], layers: int) -> None:
        self._target, self.names, self.layers = target, names, layers
        self.pages = self.written = self.size = 0

    def page(self, name: str, document: dict[str, Any], html: str) -> None:
        """Write a page and its document where they differ from what is there."""
        changed = self._write(Path("json") / f"{name}_dashboard.json", _json(document))
        changed |= self._write(Path("html") / f"{name}.html", html)
        self.pages += 1
        self.written += changed

    def index(self, name: str, text: str) -> None:
        """Write a file of the index."""
        self._write(Path(name), text)

    def _write(self, name: Path, text: str) -> bool:
        path, content = self._target / name, text.encode("utf-8", "replace")
        self.size += len(content)
        if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
            return False
        replace_bytes(path, content)
        return True


def _read_index(atlas: Atlas, target: Path, force: bool) -> list[dict[str, Any]]:
    """The entries of earlier runs; a folder of something else is refused."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file, expected a folder; give another -o FOLDER")
    try:
        found = json.loads((target / "index.json").read_text(encoding="utf-8"))
        ours = isinstance(found, dict) and found.get("schema") == FORM
    except (FileNotFoundError, ValueError):
        found, ours = {}, False
    if not ours:
        if target.is_dir() and any(target.iterdir()) and not force:
            raise InputError(f"{target} is not empty and holds no reports; give an empty folder, or --force")
        return []
    model, revision = (atlas.metadata.get(key) for key in ("model", "revision"))
    if (found.get("model"), found.get("revision")) != (model, revision):
        if not force:
            raise InputError(
                f"{target} holds reports of {found.get('model')}, this atlas is of {model} ({revision}); give another "
                "-o FOLDER, or --force to start its index anew"
            )
        return []
    entries: list[dict[str, Any]] = found["reports"]
    return entries


def _order(entry: dict[str, Any]) -> tuple[Any, ...]:
    if entry["kind"] == "neuron":
        return (1, entry["layer"], entry["neuron"], ())
    return (0, 0, 0, tuple(int(part) if part.isdigit() else 0 for part in entry["id"].split(".")), entry["id"])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
