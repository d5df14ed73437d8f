"""The label formats that are known -> how an entry of each becomes records: flat dicts, see records.py.

Foreign formats are described by what their tools write: Neuronpedia's exports
of explanations, EleutherAI's Delphi, OpenAI's automated-interpretability, Transluce's neuron descriptions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.ingest.label_formats.records import Fault

Records = list[dict[str, Any]]
_FAILED = "explanation could not be parsed"  # what Delphi writes in place of an explanation
_ALIASES = {
    "layer_index": "layer", "layer_idx": "layer",
    "neuron_index": "neuron", "neuron_idx": "neuron", "index": "neuron",
    "function_label": "output_label",
    "function_description": "output_function", "output_description": "output_function",
    "function_type": "type", "output_type": "type",
    "output_interpretability": "interpretability", "output_confidence": "confidence",
    "input_description": "input_function", "explanation": "label", "text": "label",
    "explanationmodelname": "model", "created_at": "created",
}  # fmt: skip
_FALLBACKS = {  # labels that a combined file has beside its own: other name -> sign
    "transluce_label_positive": 1, "transluce_label_negative": -1, "neurondb_label": 0, "max_act_label": 0,
}  # fmt: skip
DELPHI = re.compile(r"^(?P<module>.*?)[._-]*(?:latent|feature|neuron)_?(?P<neuron>\d+)$")


@dataclass(frozen=True)
class Format:
    """One known format: its name, what it looks like, and how an entry becomes records."""

    name: str
    looks: str
    records: Callable[[Any, Path], Records]


def is_failed(text: str) -> bool:
    """Whether it is what Delphi writes in place of an explanation."""
    return text.strip().lower().startswith(_FAILED)


def _plain(value: Any, file: Path) -> Records:
    if not isinstance(value, dict):
        raise Fault("not a JSON object")
    return [value]


def _two_pass(value: Any, file: Path) -> Records:
    """{"L31/N0": {...}}: the member's main text is its output label."""
    key, said = _member(value)
    known = {} if key is None or said.get("neuron_id") is not None else {"neuron_id": key}
    return [{"pass": "output", **known, **said}]


def _combined(value: Any, file: Path) -> Records:
    """Two-pass labels under other names, and fallbacks (Transluce, NeuronDB) as autointerp labels of their signs."""
    key, said = _member(value)
    named = _renamed({name: told for name, told in said.items() if name not in _FALLBACKS})
    ids = {name: named[name] for name in ("layer", "neuron", "neuron_id", "feature_id") if named.get(name) is not None}
    if not ids and key is not None:
        ids = {"neuron_id": key}
    spare: dict[int, Any] = {}  # the first of each sign
    for name, sign in _FALLBACKS.items():
        if said.get(name):
            spare.setdefault(sign, said[name])
    if named.get("autointerp_label"):
        spare.pop(0, None)
    own = [{**named, **ids, "pass": named.get("pass") or "output"}] if _says(named) else []
    others = [{**ids, "pass": "autointerp", "polarity": sign, "label": text} for sign, text in spare.items()]
    return own + others or [ids]


def _member(value: Any) -> tuple[str | None, dict[str, Any]]:
    key, said = value if isinstance(value, tuple) else (None, value)
    if not isinstance(said, dict):
        raise Fault("not a JSON object")
    return key, said


def _renamed(record: dict[str, Any]) -> dict[str, Any]:
    """The record under our names; a name of ours that it already has is kept."""
    found = {name.strip().lower(): told for name, told in record.items()}
    others = {_ALIASES[name]: told for name, told in found.items() if name in _ALIASES}
    return {**others, **{name: told for name, told in found.items() if name not in _ALIASES}}


def _says(record: dict[str, Any]) -> bool:
    return any(record.get(key) for key in ("label", "output_label", "input_label", "autointerp_label"))


def _neuronpedia(value: Any, file: Path) -> Records:
    """{"modelId", "layer": "6", "index": "12", "description", ...}: layer is a number for neurons, a name for SAEs."""
    if not isinstance(value, dict):
        raise Fault("not a JSON object")
    source = str(value.get("layer", "")).strip()
    if not re.fullmatch(r"\d+(-neurons|-mlp)?", source):
        raise Fault("of a dictionary's feature (its layer names a source), not of a neuron")
    scores = [one.get("value") for one in value.get("scores") or [] if isinstance(one, dict)]
    return [
        {"layer": source.partition("-")[0], "neuron": value.get("index"), "label": value.get("description"),
         "model": value.get("explanationModelName"), "run": value.get("typeName"), "created": value.get("createdAt"),
         "score": next(iter(scores), None)}
    ]  # fmt: skip


def _openai(value: Any, file: Path) -> Records:
    """{"neuron_id": {"layer_index", "neuron_index"}, "scored_explanations": [...]}: the best scored explanation."""
    told = value.get("neuron_id") if isinstance(value, dict) else None
    if not isinstance(told, dict):
        raise Fault("without a neuron id")
    listed = [one for one in value.get("scored_explanations") or [] if isinstance(one, dict)]
    scored = [(_openai_score(one), one) for one in listed]
    score, best = max(scored, key=lambda pair: -2.0 if pair[0] is None else pair[0], default=(None, {}))
    return [
        {"layer": told.get("layer_index"), "neuron": told.get("neuron_index"), "label": best.get("explanation"),
         "score": score}
    ]  # fmt: skip


def _openai_score(one: dict[str, Any]) -> float | None:
    told = one.get("scored_simulation")
    score = told.get("ev_correlation_score") if isinstance(told, dict) else None
    return score if isinstance(score, (int, float)) else None


def _transluce(value: Any, file: Path) -> Records:
    """Rows with layer, neuron, polarity, description; or a file <layer>/<neuron>.json with explanations by sign."""
    if not isinstance(value, dict):
        raise Fault("not a JSON object")
    by_sign = value.get("explanations")
    if isinstance(by_sign, dict):
        place = {"layer": value.get("layer", file.parent.name), "neuron": value.get("neuron", file.stem)}
        return [
            {**place, "polarity": sign, "label": one[0].get("explanation"), "score": one[0].get("score")}
            for sign, one in by_sign.items()
            if isinstance(one, list) and one and isinstance(one[0], dict)
        ] or [place]
    told = value.get("description_metadata")
    score = told.get("score") if isinstance(told, dict) else value.get("score")
    text = value.get("label") or value.get("description") or value.get("explanation")
    return [
        {"layer": value.get("layer"), "neuron": value.get("neuron"), "polarity": value.get("polarity"), "label": text,
         "short_label": value.get("summary"), "score": score, "run": value.get("version")}
    ]  # fmt: skip


def _delphi(value: Any, file: Path) -> Records:
    """One file a neuron, "layers.5.mlp_latent12.txt": its content is the explanation."""
    name = DELPHI.match(file.name.removesuffix(".txt"))
    layer = re.search(r"\d+", name["module"]) if name else None
    if name is None or layer is None:
        raise Fault("without a neuron id in the name of the file")
    text = value.get("explanation") if isinstance(value, dict) else value
    if isinstance(text, str) and is_failed(text):
        raise Fault("of an explanation that failed")
    return [{"layer": layer[0], "neuron": name["neuron"], "label": text}]


def _table(value: Any, file: Path) -> Records:
    """Columns of any order: layer and neuron (or an id), label, and whatever else the table labels has."""
    row = _renamed(value)
    if not _says(row) and row.get("description"):
        row["label"] = row.pop("description")
    return [row]


_ALL = (
    Format("two-pass", 'a JSON object {"L31/N0": {"label", "output_function", "input_label", ...}}', _two_pass),
    Format(
        "combined", 'a JSON object {"neurons": {"L31/N0": {"function_label", ...}}} or {"profiles": [...]}', _combined
    ),
    Format("autointerp", 'JSON lines {"feature_id", "labels": [{"label"}], ...} or {"neuron_id", "label"}', _plain),
    Format("neuronpedia", 'JSON lines {"modelId", "layer", "index", "description"}, batch-N.jsonl.gz', _neuronpedia),
    Format("openai", 'JSON {"neuron_id": {"layer_index", "neuron_index"}, "scored_explanations": [...]}', _openai),
    Format("transluce", 'JSON rows {"layer", "neuron", "polarity", "description"}', _transluce),
    Format("delphi", "a text file a neuron, layers.5.mlp_latent12.txt, holding its explanation", _delphi),
    Format("csv", "a table with columns layer, neuron, label", _table),
    Format("parquet", "a Parquet file with columns layer, neuron, label", _table),
)
FORMATS = {one.name: one for one in _ALL}
