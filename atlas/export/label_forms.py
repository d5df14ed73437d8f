"""The labels of one neuron -> what each format holds of them, as the format has it.

A format first chooses among the labels (which come in the order of the atlas' precedence), then gives those a shape.
Whatever a format holds is read again by "atlas label import" as it was; FORMS says of each what it has no room for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from atlas.ingest.label_formats.formats import is_failed
from atlas.neuron import NeuronId

Label = dict[str, Any]  # a row of the table labels
Piece = tuple[str, Any]  # name of a member or a file, and its content
Layout = Literal["object", "lines", "folder", "csv", "parquet"]
COLUMNS = (
    "layer", "neuron", "pass", "polarity", "label", "short_label", "description", "type", "interpretability",
    "confidence", "source", "model", "prompt_version", "prompt_hash", "run", "score", "created",
)  # fmt: skip
_MADE = ("model", "prompt_version", "prompt_hash", "run", "score", "created")
_KIND = ("type", "interpretability", "confidence")


class About(NamedTuple):
    """Of the model that the atlas is of."""

    model: str
    d_mlp: int


@dataclass(frozen=True)
class Form:
    """A format that labels are written in: where it puts them, what it holds, and how."""

    name: str
    layout: Layout
    holds: str  # labels of a neuron
    lacks: str  # what it has no room for; the source never comes back, it is the file's name
    choose: Callable[[list[Label]], list[Label]]
    shape: Callable[[list[Label], About], list[Piece]]

    @property
    def text(self) -> str:
        """Say what it holds: "csv: one a pass and sign, every field"."""
        return f"{self.name}: {self.holds}, {f'without {self.lacks}' if self.lacks else 'every field'}"


def _all(labels: list[Label]) -> list[Label]:
    return sorted(labels, key=lambda one: (one["pass"], one["polarity"]))


def _shown(labels: list[Label]) -> list[Label]:
    return labels[:1]


def _not_failed(labels: list[Label]) -> list[Label]:
    return [one for one in labels if not is_failed(one["label"])][:1]


def _a_sign(labels: list[Label]) -> list[Label]:
    return _firsts(labels, lambda one: one["polarity"])


def _a_pass(labels: list[Label]) -> list[Label]:
    return _firsts([one for one in labels if one["pass"] != "manual"], lambda one: one["pass"])


def _with_fallbacks(labels: list[Label]) -> list[Label]:
    """One a pass, and of autointerp labels one a sign."""
    known = [one for one in labels if one["pass"] != "manual"]
    return _firsts(known, lambda one: (one["pass"], one["polarity"] if one["pass"] == "autointerp" else 0))


def _firsts(labels: list[Label], key: Callable[[Label], object]) -> list[Label]:
    best: dict[object, Label] = {}
    for one in labels:
        best.setdefault(key(one), one)
    return list(best.values())


def _two_pass(labels: list[Label], about: About) -> list[Piece]:
    """A member of the object: "L31/N0": {...}."""
    best = {one["pass"]: one for one in labels}
    said: Label = {}
    if one := best.get("output"):
        said |= {"label": one["label"], "short_label": one["short_label"], "output_function": one["description"]}
        said |= {name: one[name] for name in _KIND}
    if one := best.get("input"):
        said |= {"input_label": one["label"], "input_function": one["description"]}
        said |= {f"input_{name}": one[name] for name in _KIND}
    if one := best.get("autointerp"):
        said["autointerp_label"] = one["label"]
    return [(_name(labels[0]), _known(said | _shared(labels)))]


def _combined(labels: list[Label], about: About) -> list[Piece]:
    """The same under other names; autointerp labels of a sign stand beside it as Transluce's."""
    spare = [one for one in labels if one["pass"] == "autointerp" and one["polarity"]]
    own = [one for one in labels if one not in spare]
    said = dict(_two_pass(own, about)[0][1]) if own else {}
    names = {"label": "function_label", "output_function": "function_description", "type": "function_type",
             "input_function": "input_description"}  # fmt: skip
    place = {"neuron_id": _name(labels[0]), "layer": labels[0]["layer"], "neuron_idx": labels[0]["neuron"]}
    signs = {f"transluce_label_{_sign(one)}": one["label"] for one in spare}
    return [(_name(labels[0]), place | {names.get(name, name): told for name, told in said.items()} | signs)]


def _shared(labels: list[Label]) -> Label:
    """What an entry can say once of all its labels: only what is the same for them."""
    first = labels[0]
    said = {name: first[name] for name in _MADE if all(one[name] == first[name] for one in labels)}
    signed = first["polarity"] and all(one["polarity"] == first["polarity"] for one in labels)
    return said | ({"polarity": first["polarity"]} if signed else {})


def _autointerp(labels: list[Label], about: About) -> list[Piece]:
    """A line; pass and sign stand there where they are not the usual ones."""
    one = labels[0]
    told = {"label": one["label"], "description": one["description"]}
    seen = {name: one[name] for name in ("num_exemplars", "max_activation")}
    line: Label = {
        "feature_id": one["layer"] * about.d_mlp + one["neuron"],
        "labels": [{"label": one["label"], "metadata": {"parsed_response": told}}],
        "feature_metadata": {"layer": one["layer"], "neuron": one["neuron"]} | _known(seen),
    }
    line |= {"pass": one["pass"]} if one["pass"] != "autointerp" else {}
    line |= {"polarity": one["polarity"]} if one["polarity"] else {}
    return [("", line | _known({name: one[name] for name in ("short_label", *_KIND, *_MADE)}))]


def _neuronpedia(labels: list[Label], about: About) -> list[Piece]:
    """A line as in Neuronpedia's exports of explanations: layer and index are texts."""
    one = labels[0]
    line = {
        "modelId": about.model, "layer": str(one["layer"]), "index": str(one["neuron"]), "description": one["label"],
        "typeName": one["run"], "explanationModelName": one["model"], "createdAt": one["created"],
        "scores": None if one["score"] is None else [{"value": one["score"]}],
    }  # fmt: skip
    return [("", _known(line))]


def _transluce(labels: list[Label], about: About) -> list[Piece]:
    """A line a sign."""
    names = {"layer": "layer", "neuron": "neuron", "polarity": "polarity", "label": "description",
             "short_label": "summary", "score": "score", "run": "version"}  # fmt: skip
    return [("", _known({name: one[column] for column, name in names.items()})) for one in labels]


def _openai(labels: list[Label], about: About) -> list[Piece]:
    """A file a neuron in a folder a layer, with one explanation; its simulations are not told."""
    one = labels[0]
    said = {
        "neuron_id": {"layer_index": one["layer"], "neuron_index": one["neuron"]},
        "scored_explanations": [
            {
                "explanation": one["label"],
                "scored_simulation": {"scored_sequence_simulations": [], "ev_correlation_score": one["score"]},
            }
        ],
    }
    return [(f"{one['layer']}/{one['neuron']}.json", said)]


def _delphi(labels: list[Label], about: About) -> list[Piece]:
    """A file a neuron that holds its label as a JSON text, called after the module."""
    return [(f"layers.{one['layer']}.mlp_latent{one['neuron']}.txt", one["label"]) for one in labels]


def _rows(labels: list[Label], about: About) -> list[Piece]:
    return [("", {name: one[name] for name in COLUMNS}) for one in labels]


def _known(told: Label) -> Label:
    return {name: value for name, value in told.items() if value is not None}


def _name(label: Label) -> str:
    return str(NeuronId(label["layer"], label["neuron"]))


def _sign(label: Label) -> str:
    return "positive" if label["polarity"] > 0 else "negative"


_PASSES = (
    "manual labels, other parts of autointerp labels than their text, the short_label of input labels; polarity, "
    "model, prompt, run, score and created are there where all labels of the neuron share them"
)
_TEXTS = "pass, short_label, description, type, interpretability, confidence, model, prompt, run, created, polarity"
_LISTED = (
    Form("two-pass", "object", "one a pass (output, input, autointerp)", _PASSES, _a_pass, _two_pass),
    Form(
        "combined", "object", "one a pass, and autointerp labels of both signs", _PASSES, _with_fallbacks, _combined
    ),
    Form("autointerp", "lines", "the one that it shows", "", _shown, _autointerp),
    Form(
        "neuronpedia", "lines", "the one that it shows",
        "pass, polarity, short_label, description, type, interpretability, confidence, prompt", _shown, _neuronpedia,
    ),
    Form("openai", "folder", "the one that it shows", _TEXTS, _shown, _openai),
    Form(
        "transluce", "lines", "one a sign (+1, -1, none)",
        "pass, description, type, interpretability, confidence, model, prompt, created", _a_sign, _transluce,
    ),
    Form("delphi", "folder", "the one that it shows", f"{_TEXTS}, score", _not_failed, _delphi),
    Form("csv", "csv", "one a pass and sign", "", _all, _rows),
    Form("parquet", "parquet", "one a pass and sign", "", _all, _rows),
)  # fmt: skip
FORMS = {one.name: one for one in _LISTED}
