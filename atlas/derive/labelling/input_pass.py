"""A layer -> questions about what makes its neurons fire: texts, tokens, read tokens, edges in, an existing label.

Layers are asked from the first to the last, so that the neurons that feed a neuron have input labels already. Texts are
those of the half of the documents that labels are made from (atlas.derive.labelling.split).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from atlas.derive.labelling.answers import INPUT
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
from atlas.derive.labelling.prompts import marked, quoted, safe, template
from atlas.query.atlas import Atlas

NAME, FORM, TABLE, UNIT = "input", INPUT, "labels", "neurons"
EVIDENCE = {
    "exemplars": "texts that fire it", "token_stats": "tokens that fire it", "read_tokens": "tokens its weights read",
    "token_edges": "token edges", "edges": "edges", "wiring": "wiring",
}  # fmt: skip
_SIGNS = {1: "positive", -1: "negative"}
_READS = {
    ("gate", 1): "Read tokens that open its gate:",
    ("up", 1): "Read tokens that push it towards positive activation:",
    ("up", -1): "Read tokens that push it towards negative activation:",
}
_EDGES = {
    "edges": "Its strongest edges from earlier neurons (mean flow, negative = it is held back) and what fires these:",
    "wiring": "Its strongest connections by weight from earlier neurons (negative = inhibiting) and what fires these:",
}


def order(layers: Collection[int]) -> list[int]:
    """The first layer first."""
    return sorted(layers)


def possible(atlas: Atlas) -> list[str]:
    """The tables of evidence that this atlas has, of EVIDENCE."""
    return [table for table in EVIDENCE if has(atlas, table)]


def questions(asking: Asking, layer: int, wanted: Collection[int] | None) -> Iterator[Question]:
    """One question for each wanted neuron (None: all) of a layer, in order."""
    kind, edges = edges_or_wiring(asking, layer, "upstream")
    asked, at = asking.atlas.ask, {"of_layer": layer}
    streams = Streams({
        "texts": asked("layer_exemplars", {**at, "of_half": "labels", "max_rows": 8, "max_weaker": 1}),
        "tokens": asked("layer_top_tokens", at),
        "reads": asked("layer_read_tokens", at),
        "embeddings": asked("layer_token_edges", {**at, "of_kind": "embedding"}),
        "edges": edges,
    })  # fmt: skip
    vocab = _vocab(asking.atlas)
    for row in neurons_of(asking, layer, wanted):
        found = streams.of(row["neuron"])
        if row["settled"] and not asking.everyone:
            yield Question(row["neuron"], unasked=SETTLED)
        elif not any(found.values()):
            yield Question(row["neuron"], unasked=NO_EVIDENCE)
        else:
            own = _own(row, found, vocab)
            said = tuple("\n".join(own + _edges(found["edges"], kind, names)) for names in (asking.names, None))
            yield question(asking, layer, row, (said[0], said[1]), (template(NAME), FORM))


def _own(row: Row, found: dict[str, list[Row]], vocab: dict[int, str]) -> list[str]:
    lines: list[str] = []
    for sign in (1, -1):
        lines += _texts([r for r in found["texts"] if r["polarity"] == sign], row, sign, vocab)
        tokens = [r for r in found["tokens"] if r["polarity"] == sign]
        if tokens:
            lines += [f"Tokens on which it is most {_SIGNS[sign]} (share of the token's occurrences):", _shares(tokens)]
    for read in found["reads"]:
        pairs = zip(read["tokens"], read["token_values"], strict=True)
        told = ", ".join(f"{quoted(token)} {number(value)}" for token, value in pairs)
        lines += [_READS[read["part"], read["polarity"]], told]
    if found["embeddings"]:
        lines += ["Tokens whose embeddings drove it most directly (mean flow):", token_lines(found["embeddings"])]
    if row["autointerp"]:
        lines += ["Another tool called it:", f'"{safe(row["autointerp"], most=300)}"']
    return lines


def _texts(rows: list[Row], neuron: Row, sign: int, vocab: dict[int, str]) -> list[str]:
    """The texts of one sign with their activations in tenths of the largest, which is named."""
    if not rows:
        return []
    measured = neuron["highest"] if sign > 0 else neuron["lowest"]
    extreme = measured if measured is not None else max((r["activation"] for r in rows), key=abs)
    of = "of the corpus" if measured is not None else "of these"
    lines = [f"Texts with {_SIGNS[sign]} activation (10 = {extreme:.3g}, the strongest {of}):"]
    strongest = [row for row in rows if row["stratum"] == 0]
    weaker = sorted((row for row in rows if row["stratum"] > 0), key=lambda row: -row["stratum"])
    for place, row in enumerate(strongest, start=1):
        lines.append(f"{place}. {_shown(row, extreme, vocab)}")
    if weaker:
        lines.append("weaker:")
    return lines + [f"- {_shown(row, extreme, vocab)}" for row in weaker]


def _shown(row: Row, extreme: float, vocab: dict[int, str]) -> str:
    tokens = [vocab.get(token, f"<{token}>") for token in row["token_ids"]]
    return marked(tokens, row["activations"][: len(tokens)], extreme)


def _shares(rows: list[Row]) -> str:
    shares = (f" {100 * row['share']:.0f}%" if row["share"] is not None else "" for row in rows)
    return ", ".join(f"{quoted(row['token'] or '')}{share}" for row, share in zip(rows, shares, strict=True))


def _edges(rows: list[Row], kind: str, names: Names | None) -> list[str]:
    return [_EDGES[kind], *edge_lines(rows, names)] if rows else []


def _vocab(atlas: Atlas) -> dict[int, str]:
    return dict(atlas.sql("SELECT token_id, token FROM vocab WHERE token IS NOT NULL").fetchall())
