"""Panels of a neuron -> the JSON document that a page is drawn from: one form, described in tests/export/reports.

Numbers that are not finite are null, dates are ISO 8601, tokens are decoded text. Lists of both signs are two lists.
Every text is UTF-8 without NUL: what could break a reader is written visibly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.export.reports.missing import Missing
    from atlas.export.reports.panels import Panels
    from atlas.query.atlas import Atlas

FORM = "atlas-neuron-dashboard/1"
_NAMES = ("label", "description", "input_label", "output_label")
_COUNTS = ("max_activation", "num_exemplars", "appearance_count", "output_norm", "infomap_flow")
_ACTIVATION = (
    "n_tokens", "mean", "std", "skewness", "excess_kurtosis", "density", "fired_pos", "fired_neg", "fire_pos",
    "fire_neg", "min", "max", "quantiles", "hist_lo", "hist_hi", "hist",
)  # fmt: skip
_TEXT = ("rank", "activation", "token", "tokens", "activations", "document", "position", "window_start")
_TOKEN = ("token_id", "token", "n", "share", "mean", "peak", "lift")
_EDGE = (
    "layer", "neuron", "label", "cluster_path", "count", "n_graphs", "mean_weight", "mean_abs_weight", "share",
    "standard_error", "sign_consistency",
)  # fmt: skip
_WIRE = ("polarity", "rank", "layer", "neuron", "label", "strength")
_LABEL = (
    "pass", "polarity", "label", "description", "type", "interpretability", "confidence", "status", "source", "model",
    "score",
)  # fmt: skip
_PROVENANCE = (
    "name", "model", "revision", "architecture", "dtype", "corpora", "corpus_tokens", "edge_method", "edge_weight",
    "edge_truncation", "min_edge_count", "count_graphs", "cluster_method", "label_precedence", "build_command",
    "created", "code_version", "schema_version",
)  # fmt: skip


def dashboard(found: Panels, atlas: Atlas, *, missing: Sequence[Missing] = ()) -> dict[str, Any]:
    """One neuron as a document; panels without data are empty lists or null.

    missing: what the whole atlas lacks (missing_panels). similar is null when it was not asked for.
    """
    about, lists = found.about, found.lists
    document = {
        "schema": FORM,
        "id": str(found.id), "layer": found.id.layer, "neuron": found.id.neuron, "feature_id": about["feature_id"],
        **_take(about, (*_NAMES, *_COUNTS)),
        "labels": [_take(row, _LABEL) for row in lists["labels"]],
        "activation": _take(about, _ACTIVATION) if about["n_tokens"] else None,
        "exemplars": _signed(lists["exemplars"], _TEXT, ("positive", "negative")),
        "tokens": _signed(lists["tokens"], _TOKEN, ("positive", "negative")),
        "logit_lens": _signed(lists["logit_lens"], ("token_id", "token", "value"), ("promoted", "suppressed")),
        "read_tokens": {
            name: [_take(row, ("token_id", "token", "value")) for row in lists["read_tokens"] if _part(row) == name]
            for name in ("gate", "up_positive", "up_negative")
        },
        "edges": {
            "n_in": about["n_edges_in"], "n_out": about["n_edges_out"],
            "in": [_take(row, _EDGE) for row in lists["edges_in"]],
            "out": [_take(row, _EDGE) for row in lists["edges_out"]],
        },
        "module": _module(found),
        "wiring": {
            way: [_take(row, _WIRE) for row in lists["wiring"] if row["direction"] == way]
            for way in ("upstream", "downstream")
        },
        "pruning": lists["pruning"], "impacts": lists["impacts"], "similar": lists.get("similar"),
        "notes": list(atlas.truncation()),
        "missing": [vars(one) for one in missing],
        "provenance": {key: atlas.metadata[key] for key in _PROVENANCE if key in atlas.metadata},
    }  # fmt: skip
    return {key: plain(value) for key, value in document.items()}


def module_dashboard(card: dict[str, Any], subtree: dict[str, Any], atlas: Atlas) -> dict[str, Any]:
    """One module as a document: its row, and the lists of `atlas cluster show`."""
    provenance = {key: atlas.metadata[key] for key in _PROVENANCE if key in atlas.metadata}
    document = {"schema": "atlas-module-dashboard/1", **card, "graph": subtree, "provenance": provenance}
    return {key: plain(value) for key, value in document.items()}


def plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, str):
        return _sound(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_sound(str(key)): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.isoformat() if isinstance(value, date) else value


def _sound(text: str) -> str:
    """Text that is UTF-8 without NUL: both that and half of a surrogate pair are written as their escapes."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _part(row: dict[str, Any]) -> str:
    """The list of a read token: gate, up_positive or up_negative."""
    return "gate" if row["part"] == "gate" else "up_positive" if row["polarity"] > 0 else "up_negative"


def _take(row: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: row.get(name) for name in names}


def _signed(rows: list[dict[str, Any]], names: tuple[str, ...], keys: tuple[str, str]) -> dict[str, Any]:
    return {
        key: [_take(row, names) for row in rows if row["polarity"] == sign]
        for key, sign in zip(keys, (1, -1), strict=True)
    }


def _module(found: Panels) -> dict[str, Any] | None:
    path = found.about["cluster_path"]
    return path and {"path": path, "levels": found.modules, "members_by_layer": found.layers}
