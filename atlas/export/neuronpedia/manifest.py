"""A finished export -> its metadata.json and README.md: what it holds, of what, and what was altered or left out."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from atlas.export.neuronpedia.draft import FORM
from atlas.export.neuronpedia.plan import HELD, bins_note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from atlas.export.neuronpedia.files import File
    from atlas.export.neuronpedia.layout import Job
    from atlas.export.neuronpedia.tally import Tally


def metadata(job: Job, total: Tally, layers: list[int], fingerprint: str, files: Mapping[str, File]) -> dict[str, Any]:
    """metadata.json; its `files` are all others of the package."""
    known, plan = job.facts.metadata, job.plan
    counts = total.document()
    made: dict[str, Any] = {"schema": FORM, "layout": plan.layout}
    if plan.layout == "prd":
        made |= _of_the_document(job, layers, fingerprint)
    return made | {
        "model": known.get("model"), "revision": known.get("revision"), "model_id": job.names.model_id,
        "model_name": known.get("model"), "export_date": known.get("created"),
        "atlas": {
            "fingerprint": fingerprint, "name": known.get("name"), "schema_version": known.get("schema_version"),
            "code_version": known.get("code_version"), "created": known.get("created"),
        },
        "layers": layers, "feature_count": counts["counts"].get("features", 0), "counts": counts["counts"],
        "includes": includes(job, total), "altered": counts["altered"], "left_out": counts["left_out"],
        "notes": notes(job), "options": plan.options() | {"model": plan.model is not None},
        "files": {name: files[name].sha256 for name in sorted(files)},
    }  # fmt: skip


def includes(job: Job, total: Tally) -> dict[str, bool]:
    """What the package really holds, by the names of the export document."""
    held = {
        "logit_lens": "features with a logit lens", "histograms": "features with a histogram",
        "top_tokens": "features with top tokens", "explanations": "explanations",
    }  # fmt: skip
    return {name: total.counts[key] > 0 for name, key in held.items()} | {"saelens_weights": job.plan.model is not None}


def notes(job: Job) -> list[str]:
    """What a reader has to know to read the numbers rightly."""
    plan = job.plan
    told = [
        "Features are MLP neurons: inputs of the down projection (mlp.hook_post). Activations are in the model's "
        "units, as float32.",
        "Tokens and values of an exemplar are those of the stored window around its position, which is "
        "qualifyingTokenIndex where the layout has that field; maxValue, minValue and maxValueTokenIndex are of the "
        "window.",
        "An exemplar's interval (binMin, binMax, binContains; quantileMin, quantileMax, quantileFraction; bin_min, "
        "bin_max, bin_contains) is the range of activations it lies in, beyond or within the firing threshold of its "
        "sign, and the share of positions in that range.",
        _signs(plan.signs),
        "Density (frac_nonzero, activation_frequency) is the share of positions with an activation above 0; -1 where "
        "nothing was measured. Half of all activations of gated MLPs are negative.",
    ]
    if plan.wants("logit_lens"):
        told.append(
            "Promoted and suppressed tokens: logit per unit of positive activation, the final norm's weight folded in, "
            "its scale left out."
        )
    if plan.wants("histograms"):
        told.append(f"Over all positions, {bins_note(plan.bins)}.")
    if plan.wants("explanations"):
        told.append("Explanations are all labels of the atlas; notes hold their source, pass, sign and score as JSON.")
    nowhere = [part.replace("_", " ") for part in HELD["prd"] if part not in HELD[plan.layout]]
    if nowhere:
        told.append(f"The {plan.layout} layout has no place for {' and '.join(nowhere)}.")
    return told


def _signs(signs: tuple[int, ...]) -> str:
    if signs == (1,):
        return "Exemplars, top tokens and labels of negative activations are left out (--sign both takes them in)."
    marks = 'dataSource ends with "(negative exemplar)" and ids with their own ranks'
    only = (
        "Only exemplars of negative activations" if signs == (-1,) else "Exemplars of both signs, positive ones first,"
    )
    return (
        f"{only} are in: a negative one has negative values, {marks}; its peak is the smallest value, so maxValue "
        'is of another token. Labels of negative activations begin with "when negative:".'
    )


def _of_the_document(job: Job, layers: list[int], fingerprint: str) -> dict[str, Any]:
    """The document's fields; d_in is the width at mlp.hook_post, d_sae counts all feature indices.

    `layer` is -1 where there are several.
    """
    name = f"{job.names.model_id}-mlp-neurons"
    return {
        "sae_id": str(uuid.uuid5(uuid.NAMESPACE_OID, fingerprint)),
        "sae_name": f"{name}-layer{layers[0]}" if len(layers) == 1 else name,
        "d_in": job.facts.d_mlp, "d_model": job.facts.number("d_model"), "d_sae": job.facts.layers * job.facts.d_mlp,
        "neurons_per_layer": job.facts.d_mlp, "architecture": "mlp_neurons",
        "feature_index": "layer * neurons_per_layer + neuron", "layer": layers[0] if len(layers) == 1 else -1,
    }  # fmt: skip


def readme(told: dict[str, Any], job: Job) -> str:
    """README.md of the package."""
    parts = [
        f"# MLP neurons of {told['model']}, {job.plan.layout} layout\n",
        _USE[job.plan.layout](job),
        "\n## Holds\n",
    ]
    parts += [f"- {count:,} {what}" for what, count in told["counts"].items() if count]
    parts += [f"- {name.replace('_', ' ')}: {'yes' if there else 'no'}" for name, there in told["includes"].items()]
    for title, name in (("Altered", "altered"), ("Left out", "left_out")):
        parts += [f"\n## {title}\n"] + ([f"- {count:,} {what}" for what, count in told[name].items()] or ["- nothing"])
    parts += ["\n## How to read it\n"] + [f"- {note}" for note in told["notes"]]
    atlas = told["atlas"]
    parts.append(
        f"\nMade from atlas {atlas['name'] or ''} (content {atlas['fingerprint']}) of model {told['model']}, revision "
        f"{told['revision']}, {atlas['created']}. metadata.json has the sha256 of every other file.\n"
    )
    return "\n".join(parts)


def _use_bulk(job: Job) -> str:
    return (
        f"Copy `{job.names.model_id}/` to the datasets folder of a Neuronpedia and import each source "
        f"(`{job.names.model_id}/LAYER`) on its admin page. Everything is {job.names.visibility.lower()} until its "
        f"visibility is changed there. Users: creator {job.names.creator_id}, author of explanations "
        f"{job.names.author_id}; both must exist. Importing again changes nothing: ids are made from content."
    )


def _use_upload(job: Job) -> str:
    return (
        "Each JSON file is the body of one request. The model and the sources must exist. Uploading twice gives "
        "everything twice.\n\n```sh\nfor body in */batch-*.json; do\n"
        '  curl -X POST "$NEURONPEDIA/api/feature/upload-batch" -H "x-api-key: $KEY" \\\n'
        '    -H "Content-Type: application/json" --data-binary "@$body"\ndone\n```'
    )


def _use_prd(job: Job) -> str:
    return (
        "`features/N.json` is one neuron: N = feature_index = layer * neurons_per_layer + neuron. "
        "metadata.json's layer is -1 where there are several; its layers lists them. "
        "`explanations/explanations.json` holds all labels; `saelens/`, where it is included, loads in sae-lens."
    )


def _use_dashboard(job: Job) -> str:
    return (
        "`SOURCE/batch-N.json` are batches as SAEDashboard writes them, floats to 5 places; bins are -1 where the "
        "interval of an exemplar is not known."
    )


_USE = {"bulk": _use_bulk, "upload": _use_upload, "prd": _use_prd, "sae-dashboard": _use_dashboard}
