"""An atlas and its model -> a folder of the same model without some neurons, and what that cost on held-out text.

The loss before and after is that of the two folders as they load; KL and flips are measured by ablation in the model
before (the two agree but for rounding). The folder is written beside its place and renamed into it when it is whole.

>>> import atlas
>>> from atlas.build.impacts import HeldOutText
>>> from atlas.build.prune_apply import Applying, apply
>>> from atlas.query.removal import Wanted
>>> text = HeldOutText(corpus="data/demo/corpus.json", skip_calibration=True)  # none that the scores were made on
>>> demo = atlas.open("data/demo.duckdb")                                      # doctest: +SKIP
>>> report = apply(demo, "data/demo/model", Path("small"), wanted=Wanted(share=20), applying=Applying(text=text))
... # doctest: +SKIP
>>> report["held_out"]["delta_nll"], report["bytes"]                           # doctest: +SKIP
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.build.impacts import HeldOutText, ablation_of, read_held_out
from atlas.build.measurement import explain
from atlas.build.prune_report import card
from atlas.errors import InputError, ResourceError
from atlas.measure.impact import Impact, impacts
from atlas.progress import Progress, Quiet
from atlas.query.removal import Choice, Wanted, choose

if TYPE_CHECKING:
    from atlas.measure.ablation import HeldOut
    from atlas.models.pruned import Plan
    from atlas.query.atlas import Atlas

KEPT, REPORT = "kept_neurons.json", "pruning_report.json"
_COPIED = {".json", ".jinja", ".model", ".txt", ".tiktoken"}
_LEGAL = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
_OURS = {"config.json", "README.md", KEPT, REPORT}


@dataclass(frozen=True)
class Applying:
    """How the model is made and loaded; without `text` its loss is not measured."""

    compensation: bool = True
    force: bool = False  # replace a model folder that is there
    text: HeldOutText | None = None
    dtype: str = "float32"  # that it is measured in; the files keep theirs
    device: str = "auto"


@dataclass(frozen=True)
class _Before:
    """What is measured of the whole model, and needed to compare the smaller one with it."""

    held: HeldOut
    losses: Any  # [documents]
    impact: Impact
    damages: Any
    ids: list[int]
    notes: tuple[str, ...]


def apply(
    atlas: Atlas,
    model: str | Path,
    out: Path,
    *,
    wanted: Wanted,
    applying: Applying | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the smaller model into the folder `out` and return the report, which the folder holds too.

    Raises InputError for the choice of neurons, the text, a model that is not the atlas's and a folder that is in the
    way; ModelError for models that cannot be pruned; StoreError for an atlas without what is asked of it;
    ResourceError for a full disk, which leaves nothing behind.
    """
    from atlas.models.folder import find_folder
    from atlas.models.pruned import Removal, plan_pruned

    how, shown, folder = applying or Applying(), progress or Quiet(), find_folder(model)
    _check_target(out, folder, how.force)
    revision = _check_model(atlas, folder)
    choice = choose(atlas, wanted)
    means = ablation_of(atlas)[0].means if how.compensation else None
    plan = plan_pruned(folder, Removal(choice.removed, means))
    _check_disk(out, plan)
    before = _measure_before(atlas, folder, plan, how, shown)
    facts = {
        "model": atlas.metadata.get("model") or folder.resolve().name,
        "revision": revision,
        "atlas": atlas.name,
        **_choice_facts(choice, atlas),
    }
    with _put_in_place(out) as part:
        report = facts | _write(plan, folder, part, facts=facts, progress=shown)
        report["held_out"] = None if before is None else _measure_after(part, before, how, shown)
        _write_json(part / REPORT, report)
        (part / "README.md").write_text(card(report, _license(folder)), encoding="utf-8")
    return report


# -- before anything is written ----------------------------------------------------------------------------------------


def _check_target(out: Path, folder: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the smaller model")
    if out.resolve() == folder.resolve():
        raise InputError(f"{out} is the model itself; give another folder")
    if not any(out.iterdir()):
        return
    if not force:
        raise InputError(f"{out} is not empty; give another folder, or --force to replace it")
    if not (out / "config.json").exists():
        raise InputError(
            f"{out} is no model folder (no config.json), so --force does not replace it; remove it by hand"
        )


def _check_model(atlas: Atlas, folder: Path) -> str:
    """The revision of the model; InputError unless the atlas is of this model."""
    from atlas.models.folder import check_folder, revision
    from atlas.models.tensors import in_files

    check_folder(folder)
    tensors, found, known = in_files(folder, device="cpu"), revision(folder), atlas.metadata.get("revision")
    if (atlas.layers, atlas.d_mlp) != (tensors.layers, tensors.shape[0]):
        raise InputError(
            f"{atlas.name} has {atlas.layers} layers of {atlas.d_mlp} neurons, {folder} {tensors.layers} of "
            f"{tensors.shape[0]}; give the model of this atlas"
        )
    if known and known != found:
        raise InputError(
            f"{atlas.name} is of model revision {known}, {folder} is {found}; give the model of this atlas"
        )
    return found


def _check_disk(out: Path, plan: Plan) -> None:
    place = next(folder for folder in out.resolve().parents if folder.exists())
    free = shutil.disk_usage(place).free
    if free < plan.bytes:
        raise ResourceError(
            f"the smaller model takes {plan.bytes / 1e9:,.2f} GB, {place} has {free / 1e9:,.2f} GB free; free space or "
            "give another folder"
        )


def _choice_facts(choice: Choice, atlas: Atlas) -> dict[str, Any]:
    return {
        "chosen": choice.how,
        "score_method": choice.method,
        "eval_id": choice.eval_id,
        "neurons_before": atlas.layers * atlas.d_mlp,
        "neurons_removed": sum(map(len, choice.removed)),
        "layers": [
            {"layer_index": layer, "removed": len(gone), "kept": atlas.d_mlp - len(gone), "neurons": gone.tolist()}
            for layer, gone in enumerate(choice.removed)
        ],
    }


# -- the folder --------------------------------------------------------------------------------------------------------


@contextmanager
def _put_in_place(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which becomes `out` at the end; after an error nothing is left of it."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
            part = Path(work) / out.name
            part.mkdir()
            yield part
            if out.exists():
                out.rename(Path(work) / "replaced")
            part.rename(out)
    except OSError as error:
        raise explain(error, out) from error


def _write(plan: Plan, folder: Path, part: Path, *, facts: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from atlas.models.folder import revision
    from atlas.models.pruned import kept, write_pruned

    _copy_others(folder, part)
    written = write_pruned(plan, part, progress=progress)
    pruned = revision(part)
    d_mlp = facts["layers"][0]["kept"] + facts["layers"][0]["removed"]
    stay = [kept(gone, d_mlp).tolist() for gone in plan.removal.removed]
    named = {name: facts[name] for name in ("model", "revision")} | {"pruned_revision": pruned}
    old = stay if plan.width is not None else [list(range(d_mlp))] * len(stay)
    _write_json(part / KEPT, named | {"d_mlp": d_mlp, "pruned_d_mlp": plan.width or d_mlp, "kept": old}, indent=None)
    return {
        "pruned_revision": pruned,
        "form": "smaller" if plan.width is not None else "masked",
        "d_mlp": [d_mlp, plan.width or d_mlp],
        "compensation": {"applied": plan.compensation, "why_not": plan.why_not, "rounding": plan.rounding},
        "parameters": list(plan.parameters),
        "bytes": [plan.bytes_before, written],
    }


def _copy_others(folder: Path, part: Path) -> None:
    """Tokenizer, generation settings, chat template, licence: every small text file that is not about the weights."""
    for path in sorted(folder.iterdir()):
        wanted = path.suffix in _COPIED or path.name.upper().startswith(_LEGAL)
        if path.is_file() and wanted and path.name not in _OURS and not path.name.endswith(".index.json"):
            shutil.copyfile(path, part / path.name)


def _license(folder: Path) -> str | None:
    """The line `license: ...` at the head of the model's own card."""
    path = folder / "README.md"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[:50] if path.is_file() else []
    return next((line for line in lines if line.startswith("license:")), None)


def _write_json(path: Path, found: dict[str, Any], indent: int | None = 2) -> None:
    path.write_text(json.dumps(found, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


# -- the loss ----------------------------------------------------------------------------------------------------------


def _measure_before(atlas: Atlas, folder: Path, plan: Plan, how: Applying, progress: Progress) -> _Before | None:
    """Loss of the whole model, and what ablating the neurons changes: to their means where those are compensated."""
    if how.text is None:
        return None
    from atlas.measure.ablation import Ablation, Ablator
    from atlas.measure.loss import losses
    from atlas.models.adapter import load_model

    adapter = load_model(folder, dtype=how.dtype, device=how.device)
    held, notes = read_held_out(atlas, adapter, how.text)
    ids = [layer * atlas.d_mlp + int(i) for layer, gone in enumerate(plan.removal.removed) for i in gone]
    ablation = Ablation("zero") if plan.compensation == "none" else Ablation("mean", plan.removal.means)
    with Ablator(adapter, held, ablation) as ablator:
        damages = ablator.measure([ids], progress=progress)
    return _Before(held, losses(adapter, held, progress=progress), impacts(damages, [ids])[0], damages, ids, notes)


def _measure_after(part: Path, before: _Before, how: Applying, progress: Progress) -> dict[str, Any]:
    """What the smaller model loses, as its files load."""
    from atlas.measure.loss import losses
    from atlas.models.adapter import load_model

    after = losses(load_model(part, dtype=how.dtype, device=how.device), before.held, progress=progress)
    found = impacts(replace(before.damages, nll=(after - before.losses)[None]), [before.ids])[0]
    tokens = before.held.tokens
    nats = [float(before.losses.sum()) / tokens, float(after.sum()) / tokens]
    told = {name: value for name, value in asdict(found).items() if name != "neurons"}
    return {
        "loss": nats,
        "perplexity": [float(np.exp(one)) for one in nats],
        **told,
        "delta_nll_by_ablation": before.impact.delta_nll,
        "context_length": before.held.context_length,
        "dtype": how.dtype,
        "notes": list(before.notes),
    }
