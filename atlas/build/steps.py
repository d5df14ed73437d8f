"""The build as a list of functions one can read: first measuring steps (model -> shards), then table steps.

A step's key hashes its version, its SQL, its parameters and the keys of what it needs; a step whose key is already in
the ledger (tables) or on disk (shards) is not run again. Raise `version` when a step's Python changes its output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atlas.build.context import Context, key_of
from atlas.build.recipe import Recipe
from atlas.neuron import parse_neuron
from atlas.shards import Shard
from atlas.store.sqlfiles import sql_files, sql_text

SHORTEST_PROMPT = 4  # a prompt shorter than this many tokens says nothing about circuits


@dataclass(frozen=True)
class Step:
    """One step: what it needs, what it depends on, and the function that does it."""

    name: str
    title: str
    kind: Literal["measure", "table"]
    run: Callable[..., int | None]  # measure: (context, root, shard); table: (context) -> rows written
    needs: tuple[str, ...] = ()
    parameters: Callable[[Recipe], Any] = lambda _: None
    wanted: Callable[[Recipe], bool] = lambda _: True
    shards: Callable[[Recipe], int] = lambda _: 1
    sql: tuple[str, ...] = ()  # files of sql/ingest that it runs
    rejected: str | None = None  # fact of the shards that counts what was refused
    reason: str | None = None  # why it was
    version: int = 1


# -- measuring: torch, shards -------------------------------------------------------------------------------------


def measure_activations(context: Context, root: Path, shard: Shard) -> None:
    """Corpus -> statistics, exemplars, token statistics, calibration means."""
    from atlas.measure.activations import ActivationOptions, measure

    section = context.recipe.activations
    options = ActivationOptions(
        context_length=context.context_length,
        batch_tokens=section.batch_tokens,
        top=section.exemplars,
        strata=section.strata,
        per_stratum=section.per_stratum,
        window=section.window,
        fire_quantile=section.fire_quantile,
        calibration_tokens=section.calibration_tokens,
    )
    measure(
        context.adapter,
        context.corpus,
        root,
        shard=shard,
        options=options,
        progress=context.progress,
        workers=context.batch_workers,
    )


def measure_gradients(context: Context, root: Path, shard: Shard) -> None:
    """Calibration documents -> gradient sums for pruning."""
    from atlas.measure.gradients import GradientOptions, measure

    section = context.recipe.gradients
    options = GradientOptions(
        context_length=section.context_length or context.context_length, batch_tokens=section.batch_tokens
    )
    corpus = context.calibration_corpus
    measure(
        context.adapter,
        corpus,
        root,
        shard=shard,
        options=options,
        progress=context.progress,
        workers=context.batch_workers,
    )


def measure_logit_lens(context: Context, root: Path, shard: Shard) -> None:
    """Output directions -> promoted and suppressed tokens; tokenizer -> vocab."""
    from atlas.measure.logit_lens import measure

    measure(context.adapter, root, shard=shard, top=context.recipe.logit_lens.top, progress=context.progress)


def measure_weights(context: Context, root: Path, shard: Shard) -> None:
    """Weight files -> weight analysis and per-neuron norms."""
    from atlas.measure.weights import measure
    from atlas.models.folder import find_folder

    folder = find_folder(context.model_source)
    measure(context.adapter, folder, root, shard=shard, progress=context.progress)


def measure_wiring(context: Context, root: Path, shard: Shard) -> None:
    """Weights and calibration means -> strongest connections of every neuron."""
    from atlas.measure.wiring import measure, read_calibration
    from atlas.models.tensors import in_files

    measure(
        in_files(context.model_source, device=context.device),
        read_calibration(context.root("activations")),
        root,
        shard=shard,
        top=context.recipe.wiring.top,
        progress=context.progress,
    )


def measure_relp(context: Context, root: Path, shard: Shard) -> None:
    """Prompts -> attribution graphs."""
    from atlas.measure.relp import RelpOptions, measure

    section, spec = context.recipe.relp, context.spec
    options = RelpOptions(
        tau=section.tau,
        top_k=section.top_k,
        metric=section.metric,
        max_nodes=section.max_nodes,
        max_nodes_per_layer=section.max_nodes_per_layer,
        always_on=tuple(parse_neuron(one, layers=spec.layers, d_mlp=spec.d_mlp) for one in section.always_on),
        max_tokens=section.tokens,
    )
    measure(
        context.adapter,
        prompts(context),
        root,
        shard=shard,
        options=options,
        workers=context.batch_workers,
        progress=context.progress,
    )


def prompts(context: Context) -> list[tuple[int, str, list[int]]]:
    """(document, text, token ids) of the prompts: evenly spaced documents, the first `relp.tokens` tokens of each.

    A corpus with fewer documents than graphs gives several evenly spaced stretches of each document.
    """
    from atlas.measure.corpus import contexts

    wanted, length = context.recipe.relp.graphs, min(context.recipe.relp.tokens, context.spec.context)
    documents, tokenizer = context.corpus.documents, context.adapter.tokenizer
    quota = Counter(i * len(documents) // wanted for i in range(wanted))
    found = []
    for index, stretches in sorted(quota.items()):
        cut = contexts([documents[index]], tokenizer, first=index, length=length)
        usable = [list(c.token_ids) for c in cut if len(c.token_ids) >= SHORTEST_PROMPT]
        for place in sorted({i * len(usable) // stretches for i in range(stretches)}) if usable else ():
            text = tokenizer.decode(usable[place], skip_special_tokens=True)
            found.append((index, text, usable[place]))
    return found


# -- tables: DuckDB, no torch ---------------------------------------------------------------------------------------


def table_model(context: Context) -> int:
    """Facts about the model and the tokens -> metadata, vocab."""
    from atlas.ingest.activations import ingest_vocab
    from atlas.store.ledger import set_metadata

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
    """Attribution-graph shards -> graphs, edges; without graphs the wiring's downstream lists."""
    from atlas.ingest.edges import edges_from_wiring, ingest_edges, ingest_graphs

    con, spec = context.con, context.spec
    if "relp" not in context.keys:
        for table in ("graphs", "neuron_graphs"):
            con.execute(f"DELETE FROM {table}")
        return edges_from_wiring(con, d_mlp=spec.d_mlp, top=context.recipe.wiring.top)
    relp = context.root("relp")
    rows = ingest_graphs(con, relp=relp)
    return rows + ingest_edges(
        con, relp=relp, layers=spec.layers, d_mlp=spec.d_mlp, min_count=context.recipe.edges.min_count
    )


def table_cooccurrence(context: Context) -> int:
    """Graphs that neurons share -> cooccurrence."""
    from atlas.ingest.edges import ingest_cooccurrence

    return ingest_cooccurrence(context.con, layers=context.spec.layers, keep=context.recipe.cooccurrence.top)


def table_pruning(context: Context) -> int:
    """Weights and sums -> weight_stats, pruning."""
    from atlas.ingest.activations import ingest_weight_stats
    from atlas.ingest.neurons import score_pruning
    from atlas.store.ledger import set_metadata

    spec, gradients = context.spec, context.recipe.gradients
    eval_id = key_of(spec.revision, context.recipe.dtype, context.keys.get("gradients", context.keys["activations"]))
    root = context.root("weights")
    rows = ingest_weight_stats(context.con, weights=root)
    rows += score_pruning(context.con, weights=root, eval_id=eval_id[:16])
    split = "one document in ten, by content hash, is held out" if context.has_heldout else "none: too few documents"
    documents = len(context.calibration_corpus.documents) if gradients.documents else None
    set_metadata(context.con, {"calibration_documents": documents, "heldout_split": split})
    return rows


def table_infomap(context: Context) -> int:
    """Edges -> partitions (Infomap)."""
    from atlas.derive.clustering.infomap import InfomapOptions, cluster
    from atlas.store.ledger import set_metadata

    section = context.recipe.cluster
    options = InfomapOptions(min_count=section.min_count, seed=section.seed, trials=section.trials)
    if "relp" not in context.keys:
        options = InfomapOptions(min_count=1, seed=section.seed, trials=section.trials)
    method = f"infomap, multi-level, directed, weight = mean_abs_weight^2, count >= {options.min_count}"
    rows = cluster(context.con, options=options, d_mlp=context.spec.d_mlp)
    ends = "SELECT src FROM edges WHERE count >= $1 UNION SELECT tgt FROM edges WHERE count >= $1"
    linked = context.con.execute(f"SELECT count(*) FROM ({ends})", [options.min_count]).fetchall()[0][0]
    facts = {"seeds": f"infomap {section.seed}", "cluster_method": method, "cluster_singletons": linked - rows}
    set_metadata(context.con, facts)
    return rows


def table_labels(context: Context) -> int:
    """Token statistics, logit lens and edges -> rule labels."""
    from atlas.derive.labelling.rules import label_by_rules

    return label_by_rules(context.con)


def table_neurons(context: Context) -> int:
    """Everything of a neuron -> neurons; modules -> clusters."""
    from atlas.ingest.neurons import assemble_clusters, assemble_neurons

    return assemble_neurons(context.con) + assemble_clusters(context.con)


def table_macros(context: Context) -> int:
    """The questions of sql/queries -> macros stored in the file."""
    from atlas.store.schema import store_macros

    store_macros(context.con)
    return len(sql_files("queries"))


def _relp(recipe: Recipe) -> bool:
    return recipe.relp.graphs > 0


def _gradients(recipe: Recipe) -> bool:
    return recipe.gradients.documents > 0


def _without(section: Any, *names: str) -> dict[str, Any]:
    """A section's parameters without those that cannot change a step's output."""
    return {key: value for key, value in vars(section).items() if key not in names}


STEPS: tuple[Step, ...] = (
    Step(
        "model",
        "model facts",
        "measure",
        lambda c, r, s: c.measure_model(r, s),
        parameters=lambda r: r.dtype,
        version=2,
    ),
    Step(
        "activations",
        "activations",
        "measure",
        measure_activations,
        ("model",),
        lambda r: _without(r.activations, "tokens_kept", "shards"),
        shards=lambda r: r.activations.shards,
        version=2,
    ),
    Step(
        "gradients",
        "gradients",
        "measure",
        measure_gradients,
        ("model",),
        lambda r: [vars(r.gradients), r.activations.documents, r.activations.context_length],
        _gradients,
        version=2,
    ),
    Step("logit_lens", "logit lens", "measure", measure_logit_lens, ("model",), lambda r: vars(r.logit_lens)),
    Step("weights", "weights", "measure", measure_weights, ("model",)),
    Step("wiring", "wiring", "measure", measure_wiring, ("activations",), lambda r: vars(r.wiring)),
    Step(
        "relp",
        "attribution graphs",
        "measure",
        measure_relp,
        ("model",),
        lambda r: [_without(r.relp, "shards"), r.activations.documents],
        _relp,
        shards=lambda r: r.relp.shards,
        version=2,
    ),
    Step(
        "table:model",
        "tokens",
        "table",
        table_model,
        ("logit_lens", "activations"),
        lambda r: [r.name, r.description, Path(r.model).name, r.model_name, r.dtype],
        sql=("vocab",),
    ),
    Step(
        "table:statistics",
        "neuron statistics",
        "table",
        table_statistics,
        ("activations", "gradients"),
        sql=("neuron_stats",),
        rejected="documents_empty",
        reason="documents without a token",
    ),
    Step(
        "table:exemplars",
        "exemplars",
        "table",
        table_exemplars,
        ("activations",),
        lambda r: r.activations.tokens_kept,
        sql=("exemplars", "contexts", "token_stats"),
    ),
    Step("table:logit_lens", "logit lens", "table", table_logit_lens, ("logit_lens",)),
    Step("table:wiring", "wiring", "table", table_wiring, ("wiring",)),
    Step(
        "table:edges",
        "edges",
        "table",
        table_edges,
        ("relp", "table:wiring"),
        lambda r: vars(r.edges),
        sql=("graphs", "neuron_graphs", "edges", "token_edges", "edges_top", "wiring_edges"),
        rejected="graphs_rejected",
        reason="activations of the prompt are not finite",
    ),
    Step(
        "table:cooccurrence",
        "co-occurrence",
        "table",
        table_cooccurrence,
        ("table:edges",),
        lambda r: vars(r.cooccurrence),
        sql=("cooccurrence",),
    ),
    Step("table:pruning", "pruning scores", "table", table_pruning, ("weights", "table:statistics"), sql=("pruning",)),
    Step(
        "table:infomap",
        "modules (Infomap)",
        "table",
        table_infomap,
        ("table:edges",),
        lambda r: vars(r.cluster),
        version=2,
    ),
    Step(
        "table:labels",
        "labels by rule",
        "table",
        table_labels,
        ("table:model", "table:statistics", "table:exemplars", "table:logit_lens", "table:edges"),
        sql=("rule_input", "rule_output", "rule_edges"),
    ),
    Step(
        "table:neurons",
        "neurons and modules",
        "table",
        table_neurons,
        ("table:pruning", "table:infomap", "table:labels", "table:exemplars", "table:edges", "table:cooccurrence"),
        sql=("neurons", "clusters"),
    ),
    Step(
        "table:macros",
        "macros",
        "table",
        table_macros,
        parameters=lambda _: [path.read_text(encoding="utf-8") for path in sql_files("queries")],
    ),
)


def wanted_steps(recipe: Recipe) -> list[Step]:
    """The steps that this recipe asks for, in order."""
    return [step for step in STEPS if step.wanted(recipe)]


def step_keys(recipe: Recipe, inputs: Mapping[str, str]) -> dict[str, str]:
    """The key of every wanted step; `inputs` are the content hashes of model and corpus."""
    keys: dict[str, str] = {}
    for step in wanted_steps(recipe):
        below = {name: keys[name] for name in step.needs if name in keys}
        own = step.parameters(recipe)
        content = inputs if step.kind == "measure" else None
        text = [sql_text("ingest", name) for name in step.sql]
        keys[step.name] = key_of(step.name, step.version, own, below, content, text)
    return keys
