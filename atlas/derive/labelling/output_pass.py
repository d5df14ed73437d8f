"""A layer -> questions about what its neurons do when they fire: logit lens, edges out, edges to output tokens.

Layers are asked from the last to the first, so that the neurons a neuron acts on have output labels already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from atlas.derive.labelling.answers import OUTPUT
from atlas.derive.labelling.evidence import (
    NO_EVIDENCE,
    SETTLED,
    Asking,
    Names,
    Question,
    Row,
    Streams,
    edge_lines,
    edges_or_wiring,
    has,
    neurons_of,
    number,
    question,
    token_lines,
)
from atlas.derive.labelling.prompts import quoted, template
from atlas.query.atlas import Atlas

NAME, FORM, TABLE, UNIT = "output", OUTPUT, "labels", "neurons"
EVIDENCE = {"logit_lens": "the tokens it promotes", "edges": "edges", "wiring": "wiring", "token_edges": "token edges"}
_LENS = {
    1: "Tokens it promotes when its activation is positive (and suppresses when it is negative), logit per unit:",
    -1: "Tokens it suppresses when its activation is positive (and promotes when it is negative), logit per unit:",
}
_EDGES = {
    "edges": "Its strongest edges to later neurons (mean flow; negative = against the target) and what these do:",
    "wiring": "Its strongest connections by weight to later neurons (negative = inhibiting) and what these do:",
}


def order(layers: Collection[int]) -> list[int]:
    """The last layer first."""
    return sorted(layers, reverse=True)


def possible(atlas: Atlas) -> list[str]:
    """The tables of evidence that this atlas has, of EVIDENCE."""
    return [table for table in EVIDENCE if has(atlas, table)]


def questions(asking: Asking, layer: int, wanted: Collection[int] | None) -> Iterator[Question]:
    """One question for each wanted neuron (None: all) of a layer, in order."""
    kind, edges = edges_or_wiring(asking, layer, "downstream")
    asked = asking.atlas.ask
    streams = Streams({
        "lens": asked("layer_logit_lens", {"of_layer": layer}),
        "edges": edges,
        "logits": asked("layer_token_edges", {"of_layer": layer, "of_kind": "logit"}),
    })  # fmt: skip
    for row in neurons_of(asking, layer, wanted):
        found = streams.of(row["neuron"])
        if row["dead"] and not asking.everyone:
            yield Question(row["neuron"], unasked=SETTLED)
        elif not any(found.values()):
            yield Question(row["neuron"], unasked=NO_EVIDENCE)
        else:
            said = _said(row, found, kind, asking.names), _said(row, found, kind, None)
            yield question(asking, layer, row, said, (template(NAME), FORM))


def _said(row: Row, found: dict[str, list[Row]], kind: str, names: Names | None) -> str:
    lines: list[str] = []
    for lens in found["lens"]:
        pairs = zip(lens["tokens"], lens["token_values"], strict=True)
        lines += [_LENS[lens["polarity"]], ", ".join(f"{quoted(token)} {number(value)}" for token, value in pairs)]
    if row["lowest"] is not None:
        lines.append(f"Its activation over the corpus lies between {row['lowest']:.3g} and {row['highest']:.3g}.")
    if found["logits"]:
        lines += ["Its strongest direct edges to output tokens (mean flow):", token_lines(found["logits"])]
    if found["edges"]:
        lines += [_EDGES[kind], *edge_lines(found["edges"], names)]
    return "\n".join(lines)
