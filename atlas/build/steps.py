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
from atlas.build.table_steps import (
    table_assignments,
    table_cooccurrence,
    table_edges,
    table_exemplars,
    table_infomap,
    table_labels,
    table_logit_lens,
    table_macros,
    table_model,
    table_neurons,
    table_pruning,
    table_read_tokens,
    table_search,
    table_statistics,
    table_wiring,
)
from atlas.derive.labelling.rules import RULE_FILES
from atlas.ingest.edge_sides import DERIVED
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


def measure_read_tokens(context: Context, root: Path, shard: Shard) -> None:
    """Input rows and token embeddings -> the tokens that the rows read."""
    from atlas.measure.read_tokens import measure

    measure(context.adapter, root, shard=shard, top=context.recipe.read_tokens.top, progress=context.progress)


def measure_weights(context: Context, root: Path, shard: Shard) -> None:
    """Weight files -> weight analysis and per-neuron norms."""
    from atlas.measure.weights import measure
    from atlas.models.folder import find_folder
    from atlas.models.tensors import in_files

    folder = find_folder(context.model_source)
    measure(in_files(folder, device="cpu"), folder, root, shard=shard, progress=context.progress)


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


def _measured(recipe: Recipe) -> bool:
    return not recipe.is_assembly


def _relp(recipe: Recipe) -> bool:
    return _measured(recipe) and recipe.relp.graphs > 0 and recipe.edges.store is None


def _gradients(recipe: Recipe) -> bool:
    return _measured(recipe) and recipe.gradients.documents > 0


def _read_tokens(recipe: Recipe) -> bool:
    return _measured(recipe) and recipe.read_tokens.top > 0


def _edges(recipe: Recipe) -> bool:
    return _measured(recipe) or recipe.edges.store is not None


def _infomap(recipe: Recipe) -> bool:
    return _edges(recipe) and recipe.cluster.assignments is None


def _model_facts(recipe: Recipe) -> list[Any]:
    told = [recipe.name, recipe.description, Path(recipe.model).name, recipe.model_name, recipe.dtype]
    return [*told, vars(recipe.sizes)] if recipe.is_assembly else told


def _without(section: Any, *names: str) -> dict[str, Any]:
    """A section's parameters without those that cannot change a step's output."""
    return {key: value for key, value in vars(section).items() if key not in names}


_STORE = ("store_graphs", "store_neuron_graphs", "store_appearances", "store_counts")
_SEARCH = tuple(path.stem for path in sql_files("ingest") if path.stem.startswith("search_"))

STEPS: tuple[Step, ...] = (
    Step(
        "model",
        "model facts",
        "measure",
        lambda c, r, s: c.measure_model(r, s),
        parameters=lambda r: r.dtype,
        wanted=_measured,
        version=2,
    ),
    Step(
        "activations",
        "activations",
        "measure",
        measure_activations,
        ("model",),
        lambda r: _without(r.activations, "tokens_kept", "shards"),
        _measured,
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
        version=3,
    ),
    Step(
        "logit_lens", "logit lens", "measure", measure_logit_lens, ("model",), lambda r: vars(r.logit_lens), _measured
    ),
    Step(
        "read_tokens",
        "read tokens",
        "measure",
        measure_read_tokens,
        ("model",),
        lambda r: vars(r.read_tokens),
        _read_tokens,
    ),
    Step("weights", "weights", "measure", measure_weights, ("model",), wanted=_measured, version=2),
    Step("wiring", "wiring", "measure", measure_wiring, ("activations",), lambda r: vars(r.wiring), _measured),
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
        _model_facts,
        sql=("vocab",),
    ),
    Step(
        "table:statistics",
        "neuron statistics",
        "table",
        table_statistics,
        ("activations", "gradients"),
        wanted=_measured,
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
        _measured,
        sql=("exemplars", "contexts", "token_stats"),
    ),
    Step("table:logit_lens", "logit lens", "table", table_logit_lens, ("logit_lens",), wanted=_measured),
    Step("table:read_tokens", "read tokens", "table", table_read_tokens, ("read_tokens",), wanted=_read_tokens),
    Step("table:wiring", "wiring", "table", table_wiring, ("wiring",), wanted=_measured),
    Step(
        "table:edges",
        "edges",
        "table",
        table_edges,
        ("relp", "table:wiring"),
        lambda r: _without(r.edges, "store", *([] if r.edges.store else ["neuron_graphs"])),
        _edges,
        sql=("graphs", "neuron_graphs", "edges", "token_edges", *DERIVED, "wiring_edges", "appearances", *_STORE),
        rejected="graphs_rejected",
        reason="activations of the prompt are not finite",
        version=2,
    ),
    Step(
        "table:cooccurrence",
        "co-occurrence",
        "table",
        table_cooccurrence,
        ("table:edges",),
        lambda r: vars(r.cooccurrence),
        _edges,
    ),
    Step(
        "table:pruning",
        "pruning scores",
        "table",
        table_pruning,
        ("weights", "table:statistics"),
        wanted=_measured,
        sql=("pruning",),
        version=2,
    ),
    Step(
        "table:infomap",
        "modules (Infomap)",
        "table",
        table_infomap,
        ("table:edges",),
        lambda r: _without(r.cluster, "assignments", "strict"),
        _infomap,
        sql=("clusterings",),
        version=4,
    ),
    Step(
        "table:assignments",
        "modules (imported)",
        "table",
        table_assignments,
        ("table:model",),
        wanted=lambda r: r.cluster.assignments is not None,
        sql=("assignment_lines", "assignment_paths", "assignments", "clusterings"),
    ),
    Step(
        "table:labels",
        "labels",
        "table",
        table_labels,
        ("table:model", "table:statistics", "table:exemplars", "table:logit_lens", "table:edges"),
        wanted=lambda r: _measured(r) or bool(r.labels.files),
        sql=RULE_FILES,
        version=3,
    ),
    Step(
        "table:neurons",
        "neurons and modules",
        "table",
        table_neurons,
        (
            "table:model",
            "table:pruning",
            "table:infomap",
            "table:assignments",
            "table:labels",
            "table:exemplars",
            "table:edges",
            "table:cooccurrence",
        ),
        lambda r: list(r.labels.precedence) or None,
        sql=("neurons", "label_ranks", "label_choice", "clusters"),
    ),
    Step("table:search", "word index", "table", table_search, ("table:neurons",), sql=_SEARCH),
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
    """The key of every wanted step; `inputs` are content hashes (preflight): a table step's own are "<step>/<name>"."""
    keys: dict[str, str] = {}
    for step in wanted_steps(recipe):
        below = {name: keys[name] for name in step.needs if name in keys}
        own = step.parameters(recipe)
        content = _inputs_of(step, inputs)
        text = [sql_text("ingest", name) for name in step.sql]
        keys[step.name] = key_of(step.name, step.version, own, below, content, text)
    return keys


def _inputs_of(step: Step, inputs: Mapping[str, str]) -> dict[str, str] | None:
    if step.kind == "measure":
        return {name: value for name, value in inputs.items() if not name.startswith("table:")}
    return {name: value for name, value in inputs.items() if name.startswith(f"{step.name}/")} or None
