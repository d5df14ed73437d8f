"""The table steps of a build: shards, edge stores and files of other tools -> tables of the atlas (DuckDB, no torch).

Each function fills its tables inside the transaction that the executor opened, and returns the rows written.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.build.context import Context, key_of
from atlas.store.sqlfiles import sql_files

if TYPE_CHECKING:
    from atlas.ingest.labels import Imported


def table_model(context: Context) -> int:
    """Facts about the model and the tokens -> metadata, vocab."""
    from atlas.ingest.activations import ingest_vocab
    from atlas.store.ledger import set_metadata

    if context.recipe.is_assembly:
        return _assembly_facts(context)
    spec = context.spec
    set_metadata(
        context.con,
        {
            "model": context.recipe.model_name or spec.name,
            "revision": spec.revision,
            "architecture": spec.architecture,
            "num_layers": spec.layers,
            "neurons_per_layer": spec.d_mlp,
            "d_model": spec.d_model,
            "vocab_size": spec.vocab,
            "context_length": context.context_length,
            "gated": str(spec.gated).lower(),
            "norm_placement": spec.norm_placement,
            "bos_policy": "every context starts with BOS" if context.bos_token_id is not None else "no BOS token",
            "dtype": context.recipe.dtype,
            "name": context.recipe.name,
            "description": context.recipe.description or None,
        },
    )
    return ingest_vocab(context.con, lens=context.root("logit_lens"), activations=context.root("activations"))


def _assembly_facts(context: Context) -> int:
    """What a recipe says of a model that is not at hand -> metadata."""
    from atlas.store.ledger import set_metadata

    recipe = context.recipe
    facts = {"model": recipe.model_name or recipe.name, "num_layers": context.layers}
    facts |= {"neurons_per_layer": context.d_mlp, "name": recipe.name, "description": recipe.description or None}
    set_metadata(context.con, facts)
    return 0


def table_statistics(context: Context) -> int:
    """Activation and gradient shards -> neuron_stats; what was counted and left out -> metadata."""
    from atlas.ingest.activations import ingest_statistics
    from atlas.shards import shard_facts
    from atlas.store.ledger import set_metadata

    facts = shard_facts(context.root("activations"))
    set_metadata(
        context.con,
        {
            "corpora": context.corpus.name,
            "corpus_sha256": context.corpus.sha256,
            "corpus_documents": facts.get("documents"),
            "corpus_documents_empty": facts.get("documents_empty"),
            "corpus_tokens": facts.get("tokens"),
            "excluded_positions": facts.get("excluded_positions"),
            "token_firings_dropped": facts.get("token_firings_dropped"),
        },
    )
    gradients = context.root("gradients") if "gradients" in context.keys else None
    return ingest_statistics(context.con, activations=context.root("activations"), gradients=gradients)


def table_exemplars(context: Context) -> int:
    """Activation shards -> exemplars, contexts, token_stats."""
    from atlas.ingest.activations import ingest_exemplars, ingest_token_statistics

    root = context.root("activations")
    rows = ingest_exemplars(context.con, activations=root, corpus=context.corpus.name)
    return rows + ingest_token_statistics(context.con, activations=root, keep=context.recipe.activations.tokens_kept)


def table_logit_lens(context: Context) -> int:
    """Logit-lens shards -> logit_lens."""
    from atlas.ingest.activations import ingest_logit_lens

    return ingest_logit_lens(context.con, lens=context.root("logit_lens"))


def table_read_tokens(context: Context) -> int:
    """Read-token shards -> read_tokens."""
    from atlas.ingest.activations import ingest_read_tokens

    return ingest_read_tokens(context.con, reads=context.root("read_tokens"))


def table_wiring(context: Context) -> int:
    """Wiring shards -> wiring."""
    from atlas.ingest.activations import ingest_wiring
    from atlas.store.ledger import set_metadata

    set_metadata(
        context.con,
        {"wiring_top": context.recipe.wiring.top, "wiring_scope": "residual path at the same token, no attention path"},
    )
    return ingest_wiring(context.con, wiring=context.root("wiring"))


def table_edges(context: Context) -> int:
    """An edge store, or attribution-graph shards -> graphs, edges; without either the wiring's downstream lists."""
    from atlas.ingest.edges import edges_from_wiring, ingest_edges, ingest_graphs
    from atlas.ingest.neurons import count_appearances

    con, recipe = context.con, context.recipe
    con.execute("DELETE FROM ingests WHERE step LIKE 'edges:%'")
    if recipe.store_folder:
        return _project(context, recipe.store_folder)
    if "relp" not in context.keys:
        for table in ("graphs", "neuron_graphs", "appearances"):
            con.execute(f"DELETE FROM {table}")
        return edges_from_wiring(con, d_mlp=context.d_mlp, top=recipe.wiring.top)
    relp = context.root("relp")
    rows = ingest_graphs(con, relp=relp) + count_appearances(con)
    return rows + ingest_edges(
        con, relp=relp, sizes=(context.layers, context.d_mlp), min_count=recipe.edges.min_count, folder=context.folder
    )


def _project(context: Context, store: Path) -> int:
    """An edge store -> the edge tables, and its row in the ledger."""
    from atlas.ingest.edge_store.facts import locked, open_store
    from atlas.ingest.projection import ProjectOptions, project
    from atlas.store.ledger import Ingested, now, record

    started, section = now(), context.recipe.edges
    options = ProjectOptions(min_count=section.min_count, neuron_graphs=section.neuron_graphs)
    with locked(store, shared=True):
        rows = project(context.con, store, options=options, progress=context.progress)
    found, key = open_store(store), context.inputs["table:edges/store"]
    left, reason = found.rejection()
    # no size: that of a store depends on the paths its sources had, which its content does not
    done = Ingested(f"edges:{store.name}", key, rows, found.manifest.observations, left, reason, store.name, None, key)
    record(context.con, done, started=started)
    return rows


def table_cooccurrence(context: Context) -> int:
    """Graphs that neurons share -> cooccurrence."""
    from atlas.derive.cooccurrence import Options, derive_cooccurrence
    from atlas.ingest.projection import members_file

    store = context.recipe.store_folder
    options = Options(keep=context.recipe.cooccurrence.top, threads=context.workers)
    members = members_file(context.con, store) if store else None
    return derive_cooccurrence(context.con, d_mlp=context.d_mlp, members=members, options=options)


def table_pruning(context: Context) -> int:
    """Weights and sums -> weight_stats, pruning; the documents behind them -> calibration_documents."""
    from atlas.ingest.activations import ingest_weight_stats
    from atlas.ingest.calibration import store_documents
    from atlas.ingest.neurons import score_pruning
    from atlas.store.ledger import set_metadata

    spec, gradients = context.spec, context.recipe.gradients
    eval_id = key_of(spec.revision, context.recipe.dtype, context.keys.get("gradients", context.keys["activations"]))
    root = context.root("weights")
    rows = ingest_weight_stats(context.con, weights=root)
    rows += score_pruning(context.con, weights=root, eval_id=eval_id[:16])
    read = {"activations": context.corpus.documents}
    if "gradients" in context.keys:
        read["gradients"] = context.calibration_corpus.documents
    rows += store_documents(context.con, read)
    split = "one document in ten, by content hash, is held out" if context.has_heldout else "none: too few documents"
    documents = len(context.calibration_corpus.documents) if gradients.documents else None
    set_metadata(context.con, {"calibration_documents": documents, "heldout_split": split})
    return rows


def table_infomap(context: Context) -> int:
    """Edges -> partitions by the recipe's method, the primary clustering."""
    from atlas.build.clustering import make_primary
    from atlas.derive.clustering.methods import find, make_options
    from atlas.ingest.partitions import write_clustering

    given = context.recipe.cluster.options()
    if "relp" not in context.keys and context.recipe.store_folder is None and given.get("profile") != "activations":
        given["min_count"] = 1  # edges from weights: each is there once
    method = context.recipe.cluster.method
    run, placed = find(context.con, method, make_options(method, given), d_mlp=context.d_mlp, progress=context.progress)
    rows = write_clustering(context.con, run, placed, d_mlp=context.d_mlp)
    make_primary(context.con, run.name)
    return rows


def table_assignments(context: Context) -> int:
    """An assignment file -> partitions, the primary clustering."""
    from atlas.ingest.clusters import ALONE, import_assignments
    from atlas.ingest.labels import source_of
    from atlas.store.ledger import now, set_metadata

    file, started = context.recipe.assignments_file, now()
    if file is None:
        raise RuntimeError("no assignments in this recipe")
    found = import_assignments(
        context.con, file, layers=context.layers, d_mlp=context.d_mlp, strict=context.recipe.cluster.strict
    )
    _record_file(context, "table:assignments", file, found, started)
    method = source_of(file)
    facts = {"seeds": None, "cluster_method": method, "primary_clustering": method}
    set_metadata(context.con, {**facts, "cluster_singletons": found.notes.get(ALONE, 0)})
    return found.rows_out


def _record_file(context: Context, step: str, file: Path, found: Imported, started: datetime) -> None:
    """A ledger row of a step's input file: "labels:<name>" of the step table:labels."""
    from atlas.store.ledger import Ingested, record

    key = context.inputs[f"{step}/{file.name}"]
    counts = (found.rows_out, found.rows_in, found.rows_rejected, found.reason)
    name = f"{step.removeprefix('table:')}:{file.name}"
    record(context.con, Ingested(name, key, *counts, file.name, file.stat().st_size, key), started=started)
    if found.reason:
        context.progress.note(f"{file.name}: {found.reason}")


def table_labels(context: Context) -> int:
    """Token statistics, logit lens and edges -> rule labels; label files -> imported labels."""
    from atlas.derive.labelling.rules import label_by_rules
    from atlas.ingest.labels import Reading, clear_labels, import_labels
    from atlas.store.ledger import now

    con, recipe = context.con, context.recipe
    clear_labels(con)
    con.execute("DELETE FROM ingests WHERE step LIKE 'labels:%'")
    rows = 0 if recipe.is_assembly else label_by_rules(con, layers=context.layers, d_mlp=context.d_mlp)
    for file in recipe.label_files:
        started = now()
        how = Reading(strict=recipe.labels.strict)
        found = import_labels(con, file, layers=context.layers, d_mlp=context.d_mlp, how=how)
        _record_file(context, "table:labels", file, found, started)
        rows += found.rows_out
    return rows


def table_neurons(context: Context) -> int:
    """Everything of a neuron -> neurons; modules -> clusters."""
    from atlas.ingest.neurons import assemble_clusters, assemble_neurons

    order = context.recipe.labels.precedence
    return assemble_neurons(context.con, layers=context.layers, precedence=order) + assemble_clusters(context.con)


def table_search(context: Context) -> int:
    """What neurons show -> the word index that label_search answers from."""
    from atlas.ingest.search_index import build_index

    return build_index(context.con)


def table_macros(context: Context) -> int:
    """The questions of sql/queries -> macros stored in the file."""
    from atlas.store.schema import store_macros

    store_macros(context.con)
    return len(sql_files("queries"))
