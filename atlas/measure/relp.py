"""Prompts -> shards of RelP attribution graphs: graphs, nodes, edges, and edges from and to tokens.

Prompts are read in blocks of BLOCK consecutive ones, and inside a block those of similar length are worked on together
(models/attribution.py), by one thread on one core. A shard owns whole blocks, so the rows are the same, bit for bit,
for any number of shards and workers. Rows are written in the order of the prompts, 32 graphs to a row group.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.measure.batches import work_in_order
from atlas.models.adapter import Adapter
from atlas.models.attribution import Engine, RelpOptions, Targets
from atlas.models.graph import Graph, Nodes, NotFiniteError
from atlas.models.replacement import replacement
from atlas.models.threads import one_core
from atlas.progress import Progress, Quiet
from atlas.shards import Shard, ShardDraft, new_shard
from atlas.tables import SHARDS

__all__ = ["METHOD", "Graph", "NotFiniteError", "RelpOptions", "Targets", "attribute", "measure", "shard_prompts"]

METHOD = "relp_direct"
_TABLES = ("graphs", "graph_nodes", "graph_edges", "graph_token_edges")
BLOCK = 16  # prompts; what a batch gives depends, in its last bits, on nothing outside its block
BATCH_TOKENS = 512  # padded tokens worked on together
_FLUSH = 32  # graphs per row group: about 50 MB of edges at 400 nodes

_Prompt = tuple[int, str, list[int]]  # document id, text, token ids
_DEFAULT = RelpOptions()


def attribute(adapter: Adapter, token_ids: list[int], *, options: RelpOptions = _DEFAULT) -> Graph:
    """Make one graph.

    Raises InputError for an empty or too long prompt and for bad targets, NotFiniteError where activations are not
    numbers.
    """
    with replacement(adapter) as model:
        return Engine(adapter, model, options).graph(token_ids)


def measure(
    adapter: Adapter,
    prompts: list[_Prompt],
    root: Path,
    *,
    shard: Shard,
    options: RelpOptions = _DEFAULT,
    workers: int = 2,
    progress: Progress | None = None,
) -> None:
    """Write the graphs of this shard's blocks of `prompts` (document id, text, token ids; the whole run's list).

    graph_id is the prompt's index in the whole list. A prompt whose activations are not finite is noted, counted in
    the marker (`graphs_rejected`) and left out; an empty or too long one raises InputError before anything is made.
    Memory: by worker the activations of BATCH_TOKENS tokens and five matrices of 32 MB, and the tables of 32 graphs.
    """
    span, shown = shard_prompts(len(prompts), shard), progress or Quiet()
    with ExitStack() as stack:
        engine = Engine(adapter, stack.enter_context(replacement(adapter)), options)
        for index in span:
            engine.check(prompts[index][2])
        draft = stack.enter_context(new_shard(root, shard))
        writer = stack.enter_context(_writing(draft, options, adapter))
        stack.enter_context(one_core())
        task = stack.enter_context(shown.task("attribution graphs", len(span), "graphs"))
        draft.facts.update(graphs=0, graphs_rejected=0)
        for index, found in _found(engine, prompts, span, workers):
            if isinstance(found, Graph):
                writer.add(index, prompts[index], found)
            else:
                shown.note(f"prompt {index} left out: {found}")
            draft.facts["graphs" if isinstance(found, Graph) else "graphs_rejected"] += 1
            task.advance()


def shard_prompts(total: int, shard: Shard) -> range:
    """The prompts of a shard: a contiguous range of whole blocks."""
    blocks = shard.span(-(-total // BLOCK))
    return range(min(blocks.start * BLOCK, total), min(blocks.stop * BLOCK, total))


def _found(
    engine: Engine, prompts: list[_Prompt], span: range, workers: int
) -> Iterator[tuple[int, Graph | NotFiniteError]]:
    """Every prompt's index and graph, in the order of the prompts."""
    waiting: dict[int, Graph | NotFiniteError] = {}
    due = span.start
    batches = (batch for first in span[::BLOCK] for batch in _batches(prompts, span, first))
    work = work_in_order(batches, lambda batch: engine.graphs([prompts[i][2] for i in batch]), workers=workers)
    for batch, graphs in work:
        waiting.update(zip(batch, graphs, strict=True))
        while due in waiting:
            yield due, waiting.pop(due)
            due += 1


def _batches(prompts: list[_Prompt], span: range, first: int) -> Iterator[list[int]]:
    """One block's prompts, longest first, in batches of at most BATCH_TOKENS padded tokens."""
    group: list[int] = []
    for index in sorted(range(first, min(first + BLOCK, span.stop)), key=lambda i: (-len(prompts[i][2]), i)):
        if group and (len(group) + 1) * len(prompts[group[0]][2]) > BATCH_TOKENS:
            yield group
            group = []
        group.append(index)
    yield group


class _GraphWriter:
    """Graphs -> the four tables of one shard, in row groups."""

    def __init__(self, draft: ShardDraft, options: RelpOptions, *, dtype: str, always_on: list[int]) -> None:
        self._draft, self._tau, self._dtype = draft, options.tau, dtype
        self._always_on = always_on
        self._waiting: dict[str, list[pa.Table]] = {table: [] for table in _TABLES}
        self._files = {
            table: pq.ParquetWriter(draft.folder / f"{table}.parquet", SHARDS[table], compression="zstd")
            for table in _TABLES
        }
        draft.rows.update(dict.fromkeys(_TABLES, 0))

    def add(self, graph_id: int, prompt: _Prompt, graph: Graph) -> None:
        """Queue one graph."""
        rows = {
            "graphs": [self._row(graph_id, prompt, graph)],
            "graph_nodes": _node_columns(graph),
            "graph_edges": _edge_columns(graph),
            "graph_token_edges": _token_columns(graph),
        }
        for table, data in rows.items():
            self._waiting[table].append(_table(table, graph_id, data))
        if len(self._waiting["graphs"]) == _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write the queued graphs as one row group."""
        for table, waiting in self._waiting.items():
            data = pa.concat_tables([SHARDS[table].empty_table(), *waiting])
            if data.num_rows:
                self._files[table].write_table(data)
            self._draft.rows[table] += data.num_rows
            waiting.clear()

    def close(self) -> None:
        """Finish the files."""
        for file in self._files.values():
            file.close()

    def _row(self, graph_id: int, prompt: _Prompt, graph: Graph) -> dict[str, Any]:
        document, text, _ = prompt
        return {
            "graph_id": graph_id,
            "document": document,
            "prompt": text,
            "token_ids": graph.token_ids,
            "metric": graph.metric,
            "metric_value": graph.metric_value,
            "targets": graph.targets,
            "target_position": graph.target_position,
            "tau": self._tau,
            "n_nodes": len(graph.nodes.layer),
            "n_edges": len(graph.edges.weight),
            "nodes_dropped": graph.nodes_dropped,
            "relevance_dropped": graph.relevance_dropped,
            "explained": None if np.isnan(graph.explained) else graph.explained,
            "remainder": graph.remainder,
            "completeness_residual": graph.completeness_residual,
            "edge_method": METHOD,
            "dtype": self._dtype,
            "always_on": self._always_on,
        }


@contextmanager
def _writing(draft: ShardDraft, options: RelpOptions, adapter: Adapter) -> Iterator[_GraphWriter]:
    silent = sorted(one.feature_id(adapter.spec.d_mlp) for one in options.always_on)
    writer = _GraphWriter(draft, options, dtype=str(adapter.dtype).removeprefix("torch."), always_on=silent)
    try:
        yield writer
        writer.flush()
    finally:
        writer.close()


def _table(table: str, graph_id: int, data: Any) -> pa.Table:
    if isinstance(data, list):
        return pa.Table.from_pylist(data, schema=SHARDS[table])
    rows = len(next(iter(data.values())))
    columns = {"graph_id": np.full(rows, graph_id), **data}
    schema = SHARDS[table]
    return pa.table({name: pa.array(columns[name], from_pandas=True) for name in schema.names}).cast(schema)


def _node_columns(graph: Graph) -> dict[str, Any]:
    nodes = graph.nodes
    return {
        **_place(nodes, slice(None), ""),
        "activation": nodes.activation,
        "gradient": nodes.gradient,
        "relevance": nodes.relevance,
        "direct": nodes.direct,
        "explained": nodes.explained,
    }


def _edge_columns(graph: Graph) -> dict[str, Any]:
    edges = graph.edges
    ends = _place(graph.nodes, edges.source, "src_") | _place(graph.nodes, edges.target, "tgt_")
    return {**ends, "weight": edges.weight}


def _token_columns(graph: Graph) -> dict[str, Any]:
    """Embedding edges (token at its position -> neuron), then logit edges (neuron -> target token)."""
    into, out = graph.embedding, graph.logit
    ends = _place(graph.nodes, np.concatenate([into.target, out.source]), "")
    at_target = np.full(len(out.target), graph.target_position)
    return {
        "kind": ["embedding"] * len(into.source) + ["logit"] * len(out.target),
        "token_id": np.concatenate([np.array(graph.token_ids)[into.source], np.array(graph.targets)[out.target]]),
        "token_position": np.concatenate([into.source, at_target]),
        **ends,
        "weight": np.concatenate([into.weight, out.weight]),
    }


def _place(nodes: Nodes, index: Any, prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": getattr(nodes, name)[index] for name in ("layer", "neuron", "position")}
