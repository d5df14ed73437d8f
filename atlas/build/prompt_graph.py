"""One prompt -> its attribution graph: nodes with labels, strongest first, and the JSON file that graph tools read.

The graph is measured into a temporary shard exactly as a build measures its graphs, and read back from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from atlas.build.same_model import require_same_model
from atlas.errors import InputError, ModelError
from atlas.export.graph_form import Names
from atlas.export.graph_json import export_graph_json, labels_of
from atlas.export.graph_shards import GraphRows, read_graphs
from atlas.progress import Quiet
from atlas.shards import Shard

if TYPE_CHECKING:
    from atlas.models.adapter import Adapter
    from atlas.models.attribution import RelpOptions
    from atlas.query.atlas import Atlas

COLUMNS = (
    "layer", "neuron", "position", "token", "label", "activation", "relevance", "share", "direct", "explained",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A prompt, and the metric whose graph is asked for: named target tokens, or the `top_k` highest logits."""

    prompt: str
    targets: tuple[str, ...] = ()  # texts of one token each; the metric is the sum of their logits
    against: tuple[str, ...] = ()  # whose logits are subtracted
    position: int | None = None  # of the targets; None: the last token
    top_k: int | None = None  # without targets; None: 5
    tau: float = 0.005
    max_nodes: int | None = 400

    def __post_init__(self) -> None:
        if self.targets and self.top_k is not None:
            raise InputError("top_k is for graphs without targets; give one of --target and --top-k")
        alone = "--against" if self.against else "--position" if self.position is not None else ""
        if alone and not self.targets:
            raise InputError(f"{alone} needs a target; add --target TEXT")
        named = [*self.targets, *self.against]
        twice = next((text for text in named if named.count(text) > 1), None)
        if twice is not None:
            raise InputError(f"token {twice!r} is named twice; name every target once")


@dataclass(frozen=True)
class PromptGraph:
    """A measured graph: its row of table graphs, texts of its tokens by id, its nodes, and the files written.

    A node is a dict of COLUMNS, by falling |relevance|: `share` = relevance / metric (None where that is 0), `label`
    is None without an atlas, the rest as in graph_nodes of tables.SHARDS.
    """

    row: dict[str, Any]
    tokens: dict[int, str]
    nodes: list[dict[str, Any]]
    files: list[tuple[Path, int]] = field(default_factory=list)


def prompt_graph(
    adapter: Adapter, question: Question, *, atlas: Atlas | None = None, output: Path | None = None
) -> PromptGraph:
    """Measure the graph of one prompt, labelled by an atlas of the same model; write its JSON into the folder `output`.

    Raises InputError for the prompt (empty, longer than the context), a target that is not one token, an atlas of
    another model, a foreign folder; ModelError, naming the layer, where activations are not finite.
    """
    from atlas.measure.prompts import prompt_tokens

    if atlas is not None:
        require_same_model(atlas, adapter.spec, then="give the atlas of this model")
    ids, options = list(prompt_tokens(adapter, question.prompt)), _options(adapter, question)
    with TemporaryDirectory(prefix="atlas-graph-") as folder:
        root = Path(folder)
        rows = _measured(adapter, (question.prompt, ids), root, options)
        names = _names(rows, adapter, atlas)
        files = [] if output is None else export_graph_json(root, output, names=names).files
    written = [(output / name, size) for name, size in files] if output is not None else []
    return PromptGraph(rows.row, names.tokens, _nodes(rows, names), written)


def _options(adapter: Adapter, question: Question) -> RelpOptions:
    from atlas.models.attribution import RelpOptions, Targets

    at = -1 if question.position is None else question.position
    positive, negative = (_ids(adapter, texts) for texts in (question.targets, question.against))
    return RelpOptions(
        tau=question.tau,
        top_k=5 if question.top_k is None else question.top_k,
        max_nodes=question.max_nodes,
        max_tokens=adapter.spec.context,
        targets=Targets(positive, negative, at) if positive else None,
    )


def _ids(adapter: Adapter, texts: Sequence[str]) -> tuple[int, ...]:
    from atlas.models.tokens import token_id

    return tuple(token_id(adapter.tokenizer, text) for text in texts)


class _Notes(Quiet):
    """Keeps what a measurement notes: why it left a prompt out."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def _measured(adapter: Adapter, prompt: tuple[str, list[int]], root: Path, options: RelpOptions) -> GraphRows:
    from atlas.measure.relp import measure

    notes = _Notes()
    measure(adapter, [(0, *prompt)], root, shard=Shard("prompt"), options=options, workers=1, progress=notes)
    found = next(read_graphs(root, [0]), None)
    if found is None:
        raise ModelError("; ".join(notes.texts))
    return found


def _names(rows: GraphRows, adapter: Adapter, atlas: Atlas | None) -> Names:
    from atlas.models.tokens import token_texts

    spec, texts = adapter.spec, token_texts(adapter.tokenizer, adapter.spec.vocab)
    tokens = {i: texts[i] for i in (*rows.row["token_ids"], *rows.row["targets"])}
    if atlas is None:
        return Names(spec.name, spec.layers, {}, tokens, "tokens of the model's tokenizer, no labels")
    labels = labels_of(atlas, *(rows.nodes[name].to_pylist() for name in ("layer", "neuron")))
    return Names(atlas.metadata.get("model") or spec.name, spec.layers, labels, tokens, atlas.name)


def _nodes(rows: GraphRows, names: Names) -> list[dict[str, Any]]:
    metric, ids = rows.row["metric_value"], rows.row["token_ids"]
    found = []
    for node in rows.nodes.to_pylist():
        more = {
            "token": names.token(ids[node["position"]]),
            "label": names.labels.get((node["layer"], node["neuron"])),
            "share": node["relevance"] / metric if metric and math.isfinite(metric) else None,
        }
        found.append({name: (node | more)[name] for name in COLUMNS})
    return sorted(found, key=lambda n: (-abs(n["relevance"]), n["layer"], n["neuron"], n["position"]))
