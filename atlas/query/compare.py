"""Two atlases of one architecture -> what differs: edges beyond sampling noise, labels, modules, tokens, or a summary.

Neurons are matched by id, so a model and its fine-tune, or two builds of one model, can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atlas.errors import InputError
from atlas.query.answer import Answer, macro_call
from atlas.query.atlas import Atlas
from atlas.query.edge_changes import ANSWER, CHANGES, HEADLINE, EdgeChanges, Survey
from atlas.query.pair import Pair, require_same_size
from atlas.store.connection import Limits

What = Literal["summary", "edges", "labels", "clusters", "tokens"]
WHAT: tuple[What, ...] = ("summary", "edges", "labels", "clusters", "tokens")
_NEEDS = {"labels": "neurons WHERE label IS NOT NULL", "clusters": "neurons WHERE cluster_path IS NOT NULL",
          "tokens": "token_stats"}  # fmt: skip
_TO_GET = {"labels": "both need labels", "clusters": "both need atlas cluster run", "tokens": "both need activations"}
_TOKENS = "FROM shown_tokens ORDER BY cosine, layer, neuron LIMIT $max_rows"
_SUMMARY = "SELECT part, measure, value, value_text, noise, noise_text, note FROM summary ORDER BY place"
_NOTES = {
    "compared": "in either atlas", "gained": "only in b", "lost": "only in a", "flipped": "other sign of the mean",
    "changed": "same sign", "gained or lost by the cut": "possibly", "share in one only": "of the edges compared",
    "weight correlation": "Pearson, mean weights in both", "median |z|": "0.67 for equal, independent samples",
    "median |delta|": "of mean weights in both",
}  # fmt: skip
Fact = tuple[str, str, float | None, float | None, str | None]  # part, measure, value, between halves, note


@dataclass(frozen=True)
class DiffOptions:
    """What counts as a difference, and how much the comparison may use."""

    quantile: float = 0.99  # of |score| between two halves: 1 - quantile of equal edges are listed
    rate: float = 0.05  # false discovery rate where there are no halves
    level: int | None = None  # of modules; None = finest
    limits: Limits | None = None  # None: those of the first atlas


class Diff(Answer):
    """Rows that differ; `facts` are the numbers of the whole comparison.

    `sql` of edges, tokens and the summary reads tables of the comparison's memory, so it runs nowhere else.
    """

    facts: dict[str, Any]


def diff(
    a: Atlas,
    b: Atlas | str | Path,
    *,
    what: What = "summary",
    noise: tuple[str | Path, str | Path] | None = None,
    everything: bool = False,
    limit: int | None = 50,
    options: DiffOptions | None = None,
) -> Diff:
    """Compare b with a. Edges: columns of diff_edges with labels and q, the most beyond their floor first.

    noise: two halves of the same graphs (`atlas edges halves`), whose differences are sampling alone; without them
    floors are those of independent observations. everything: also rows within the noise, or equal. Raises InputError
    for models of other sizes, edges of two methods, halves of another model, and what one of the atlases lacks.
    """
    chosen = options or DiffOptions()
    if what not in WHAT:
        raise InputError(f"cannot compare {what!r}; use {', '.join(WHAT)}")
    if not 0.5 <= chosen.quantile < 1:
        raise InputError(
            f"the quantile of the noise is {chosen.quantile}; it must be from 0.5 to below 1, such as 0.99"
        )
    if noise and what not in ("edges", "summary"):
        raise InputError(f"noise is of edges, not of {what}; leave it out")
    pair = _pair(a, b, chosen)
    if what in _NEEDS:
        _require(pair, what)
    halves = _halves(pair, noise) if noise else None
    if what == "summary":
        return _summary(pair, halves, chosen)
    if what == "edges":
        return _edges(pair, halves, everything=everything, limit=limit, options=chosen)
    return _ANSWERS[what](pair, everything, limit, chosen)


def _pair(a: Atlas, b: Atlas | str | Path, options: DiffOptions) -> Pair:
    other = b if isinstance(b, Atlas) else Atlas(b)
    return Pair(a, other, options.limits or _limits(a))


def _limits(atlas: Atlas) -> Limits:
    row = atlas.cursor().execute("SELECT current_setting('memory_limit'), current_setting('threads')").fetchall()[0]
    return Limits(memory=str(row[0]), threads=int(row[1]))


# -- edges -----------------------------------------------------------------------------------------------------------


def _edges(pair: Pair, halves: Pair | None, *, everything: bool, limit: int | None, options: DiffOptions) -> Diff:
    from atlas.query.noise import BINS_PER_UNIT, SCORE_BINS, STRATA

    changes = EdgeChanges(pair, halves, quantile=options.quantile, rate=options.rate)
    total = changes.keep(everything=everything, limit=limit)
    bound = {"max_rows": limit, "strata": STRATA, "bins_per_unit": BINS_PER_UNIT, "score_bins": SCORE_BINS}
    warnings = (*_about(pair), *_on_edges(pair, changes, everything), *(_on_halves(pair, halves) if halves else ()))
    answer = Diff(pair, ANSWER, bound, warnings=warnings, headline=HEADLINE)
    answer._total = total
    answer.facts = {row[1]: row[2] for row in _edge_facts(changes)} | {"floors": changes.floors.bound()}
    return answer


def _on_edges(pair: Pair, changes: EdgeChanges, everything: bool) -> Iterator[str]:
    survey, quantile = changes.survey, changes.quantile
    listed = "all edges are listed" if everything else "listed are edges beyond it"
    if survey.count("same") == survey.compared:
        yield f"identical: all {survey.compared:,} edges have the same statistics"
    elif changes.noise is None:
        yield (
            f"noise floor |score| {changes.floors.weight[0]:.2f} (normal {quantile:.2%}, false discovery rate "
            f"{changes.rate:.0%}), {listed}; it takes observations as independent, those inside one graph are not, so "
            "real noise is larger: atlas edges halves GRAPHS -o DIR, then --noise DIR/half-1.duckdb DIR/half-2.duckdb"
        )
    else:
        yield (
            f"noise floor: the {quantile:.2%} quantile of |score| between the halves at as many observations "
            f"({_span(changes)}), {listed}; sampling alone would list about {1 - quantile:.2%} of the "
            f"{survey.levels.judged:,} edges with a score, q says how many of the rows down to each that is"
        )
    yield from _on_scores(survey, judged=changes.noise is not None)
    for one in (pair.a, pair.b):
        yield from (f"{one.name}: {warning}" for warning in one.truncation())


def _span(changes: EdgeChanges) -> str:
    """The floors in the strata that edges are in."""
    rows = changes.survey.levels.scores["weight"].any(axis=1)
    floors = changes.floors.weight[rows]
    return f"{floors.min():.2f} to {floors.max():.2f}" if len(floors) else "no edge is in both"


def _on_scores(survey: Survey, *, judged: bool) -> Iterator[str]:
    exposure, one_sided = survey.exposure, survey.count("gained", "lost") > 0
    if one_sided and exposure.both is None:
        yield "gained and lost edges are not judged: neither graphs nor observations were counted on both sides"
    elif one_sided and exposure.by_count:
        yield "graphs were not counted on both sides: rates are of observations, which depend on one another"
    if survey.below_cut:
        yield (
            f"{survey.below_cut:,} gained or lost edges may only have fallen below the other side's cut "
            f"(min_edge_count {exposure.cut_a} and {exposure.cut_b}), which rate_z allows for"
        )
    if without := sum(n for (change, *_, null), n in survey.kinds.items() if null and change in ("changed", "flipped")):
        how = "judged by |delta| against the halves" if judged else "not judged without halves"
        yield f"{without:,} edges have no z (one observation on each side, or squares not known): {how}"


def _about(pair: Pair) -> Iterator[str]:
    a, b = pair.a, pair.b
    if a.path.samefile(b.path):
        yield f"identical: {a.name} and {b.name} are one file"
        return
    names = [(one.metadata.get("model", "unknown"), one.metadata.get("revision")) for one in (a, b)]
    revisions = [revision for _, revision in names]
    if names[0] != names[1] and (None in revisions or revisions[0] != revisions[1]):
        said = [f"{model} (revision {revision})" if revision else model for model, revision in names]
        yield f"two models are compared, neuron by neuron: a is {said[0]}, b is {said[1]}"


def _halves(pair: Pair, noise: tuple[str | Path, str | Path]) -> Pair:
    first, second = Atlas(noise[0]), Atlas(noise[1])
    if first.path.samefile(second.path):
        raise InputError(f"{first.name} is given as both halves; give the two files of atlas edges halves")
    require_same_size(pair.a, first)
    halves = Pair(first, second, pair.limits)
    parts = [one.metadata.get("edge_half") for one in (first, second)]
    if parts[0] and parts[0] == parts[1]:
        raise InputError(f"{first.name} and {second.name} are both half {parts[0]}; give the two halves of one set")
    methods = [one.metadata.get("edge_method", "unknown") for one in (pair.a, first)]
    if methods[0] != methods[1]:
        raise InputError(f"{first.name} has {methods[1]} edges, {pair.a.name} {methods[0]}; give halves of its graphs")
    for one in (first, second):
        _require_model(pair, one)
    return halves


def _require_model(pair: Pair, half: Atlas) -> None:
    """Refuse a half that is of neither model: by revision where both say one, else by name."""
    for side in (pair.a, pair.b):
        key = "revision" if half.metadata.get("revision") and side.metadata.get("revision") else "model"
        if half.metadata.get(key, "unknown") in ("unknown", side.metadata.get(key, "unknown")):
            return
    raise InputError(
        f"{half.name} is of {half.metadata.get('model')} (revision {half.metadata.get('revision')}), neither of "
        f"{pair.a.name} nor of {pair.b.name}: its noise is not theirs; give halves of the graphs of one of them"
    )


def _on_halves(pair: Pair, halves: Pair) -> Iterator[str]:
    if any("edge_half" not in one.metadata for one in (halves.a, halves.b)):
        yield f"{halves.name} do not say that they are halves (atlas edges halves makes such); taken as they are"
    sides = [int(one.metadata.get("edge_observations", 0)) for one in (pair.a, pair.b, halves.a, halves.b)]
    if all(sides) and sides[2] + sides[3] not in sides[:2]:
        yield (
            f"the halves have {sides[2] + sides[3]:,} observations together, the atlases {sides[0]:,} and "
            f"{sides[1]:,}: they are of other graphs, their noise may differ"
        )


# -- labels, modules, tokens -----------------------------------------------------------------------------------------


def _labels(pair: Pair, everything: bool, limit: int | None, options: DiffOptions) -> Diff:
    headline = ("change", "layer", "neuron", "label_a", "label_b", "similarity")
    answer = _macro(pair, "diff_labels", {"everything": everything, "max_rows": limit}, headline)
    answer.facts = {row[1]: row[2] for row in _label_facts(pair)}
    return answer


def _modules(pair: Pair, everything: bool, limit: int | None, options: DiffOptions) -> Diff:
    headline = ("change", "module_a", "label_a", "size_a", "module_b", "label_b", "size_b", "jaccard", "moved")
    values: dict[str, object] = {"of_level": options.level, "everything": everything, "max_rows": limit}
    answer = _macro(pair, "diff_modules", values, headline)
    facts = _module_facts(pair, options.level)
    answer.facts = {row[1]: row[2] for row in facts}
    answer.warnings += ("; ".join(f"{measure} {_short(value)}" for _, measure, value, *_ in facts),)
    return answer


def _tokens(pair: Pair, everything: bool, limit: int | None, options: DiffOptions) -> Diff:
    headline = ("layer", "neuron", "label_a", "cosine", "jaccard", "gained", "lost", "max_activation_a",
                "max_activation_b")  # fmt: skip
    _fill_tokens(pair, everything=everything)
    answer = Diff(pair, _TOKENS, {"max_rows": limit}, warnings=tuple(_about(pair)), headline=headline)
    answer.facts = {row[1]: row[2] for row in _token_facts(pair)}
    return answer


_ANSWERS = {"labels": _labels, "clusters": _modules, "tokens": _tokens}


def _macro(pair: Pair, macro: str, values: dict[str, object], headline: tuple[str, ...]) -> Diff:
    pair.load(macro)
    return Diff(pair, macro_call(macro, values), values, warnings=tuple(_about(pair)), headline=headline)


def _fill_tokens(pair: Pair, *, everything: bool) -> None:
    other = pair.fetch(
        "SELECT token_id, x.token, y.token FROM a.vocab AS x JOIN b.vocab AS y USING (token_id) "
        "WHERE x.token IS DISTINCT FROM y.token ORDER BY token_id LIMIT 1"
    )
    if other:
        raise InputError(
            f"token {other[0][0]} is {other[0][1]!r} in {pair.a.name}, {other[0][2]!r} in {pair.b.name}: two "
            "vocabularies, whose tokens cannot be compared by id; compare edges, labels or clusters"
        )
    pair.load("diff_tokens")
    pair.fetch("CREATE OR REPLACE TABLE shown_tokens AS FROM diff_tokens() LIMIT 0")
    for first, last in pair.token_ranges:
        pair.fetch(
            "INSERT INTO shown_tokens FROM diff_tokens(of_first_layer := $first, of_last_layer := $last, "
            "everything := $everything)",
            {"first": first, "last": last, "everything": everything},
        )


def _require(pair: Pair, what: str) -> None:
    if lacking := _lacking(pair, what):
        raise InputError(f"{' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no {what}; {_TO_GET[what]}")


def _lacking(pair: Pair, what: str) -> list[str]:
    table = _NEEDS.get(what, what)
    sides = (("a", pair.a), ("b", pair.b))
    return [one.name for side, one in sides if not pair.fetch(f"SELECT 1 FROM {side}.{table} LIMIT 1")]


# -- the numbers of each part ----------------------------------------------------------------------------------------


def _summary(pair: Pair, halves: Pair | None, options: DiffOptions) -> Diff:
    warnings = [*_about(pair)]
    facts: list[Fact] = []
    for part in ("edges", "labels", "clusters", "tokens"):
        if lacking := _lacking(pair, part):
            warnings.append(
                f"{part} are not compared: {' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} none"
            )
        elif part == "edges":
            changes = EdgeChanges(pair, halves, quantile=options.quantile, rate=options.rate)
            facts += _edge_facts(changes)
            warnings += [*_on_edges(pair, changes, False), *(_on_halves(pair, halves) if halves else ())]
        elif part == "labels":
            facts += _label_facts(pair)
        elif part == "clusters":
            facts += _module_facts(pair, options.level)
        else:
            _fill_tokens(pair, everything=True)
            facts += _token_facts(pair)
    _write_summary(pair, facts)
    answer = Diff(
        pair, _SUMMARY, {}, warnings=tuple(warnings), headline=("part", "measure", "value_text", "noise_text", "note")
    )
    answer.facts = {f"{part}: {measure}": value for part, measure, value, *_ in facts}
    return answer


def _write_summary(pair: Pair, facts: list[Fact]) -> None:
    pair.fetch(
        "CREATE OR REPLACE TABLE summary(place INTEGER, part VARCHAR, measure VARCHAR, value DOUBLE, "
        "value_text VARCHAR, noise DOUBLE, noise_text VARCHAR, note VARCHAR)"
    )
    for place, (part, measure, value, noise, note) in enumerate(facts):  # some thirty rows
        row = [place, part, measure, value, _short(value), noise, _short(noise), note]
        pair.fetch("INSERT INTO summary VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", row)


def _edge_facts(changes: EdgeChanges) -> list[Fact]:
    """Numbers of edges; beside them what they are between the halves, as numbers of those."""
    own, theirs = _numbers(changes.survey), _numbers(changes.noise) if changes.noise else {}
    rows: list[Fact] = [("edges", name, value, theirs.get(name), _NOTES.get(name)) for name, value in own.items()]
    beyond = ("gained", "lost", "flipped", "changed")
    return rows + [("edges", f"{change} beyond noise", changes.beyond[change], None, None) for change in beyond]


def _numbers(survey: Survey) -> dict[str, float | None]:
    from atlas.query.noise import median_delta, median_score

    return {
        "compared": survey.compared,
        **{change: survey.count(change) for change in CHANGES},
        "gained or lost by the cut": survey.below_cut,
        "share in one only": survey.count("gained", "lost") / max(survey.compared, 1),
        "weight correlation": survey.correlation,
        "median |z|": median_score(survey.levels.scores["weight"]),
        "median |delta|": median_delta(survey.levels.deltas),
    }


def _label_facts(pair: Pair) -> list[Fact]:
    pair.load("diff_labels")
    counted = pair.fetch(
        "SELECT change, count(*), avg(similarity) FROM diff_labels(everything := true) GROUP BY change"
    )
    found = {str(change): (int(n), float(mean)) for change, n, mean in counted}
    rows: list[Fact] = [
        ("labels", change, found.get(change, (0, 0.0))[0], None, None)
        for change in ("gained", "lost", "changed", "same")
    ]
    mean = found["changed"][1] if "changed" in found else None
    return [*rows, ("labels", "mean similarity of changed", mean, None, "shared words / all words")]


def _module_facts(pair: Pair, level: int | None) -> list[Fact]:
    from atlas.query.agreement import agreement_of_overlaps

    for macro in ("diff_module_overlaps", "diff_modules"):
        pair.load(macro)
    rows = pair.fetch("FROM diff_module_overlaps(of_level := $level)", {"level": level})
    both = [row for row in rows if row[0] is not None and row[1] is not None]
    first, second = (np.unique([str(row[side]) for row in both], return_inverse=True)[1] for side in (0, 1))
    found = agreement_of_overlaps(first, second, np.array([row[2] for row in both], np.int64))
    ami, apart = found.adjusted_mutual_information, found.variation_of_information
    moved = pair.fetch(
        "SELECT coalesce(sum(moved), 0)::BIGINT, avg(jaccard) "
        "FROM diff_modules(of_level := $level, everything := true) WHERE change <> 'new'",
        {"level": level},
    )[0]
    modules = [len({row[side] for row in rows if row[side] is not None}) for side in (0, 1)]
    alone = sum(row[2] for row in rows if row[0] is None or row[1] is None)
    return [
        ("clusters", "modules in a", modules[0], None, None),
        ("clusters", "modules in b", modules[1], None, None),
        ("clusters", "neurons in modules of both", found.neurons_in_both, None, None),
        ("clusters", "neurons in modules of one", alone, None, None),
        ("clusters", "AMI", _rounded(ami), None, "1 = the same modules, 0 = by chance"),
        ("clusters", "variation of information", _rounded(apart), None, "bits; 0 = the same"),
        ("clusters", "moved neurons", moved[0], None, "not in the best match of their module"),
        ("clusters", "mean Jaccard of modules", _rounded(moved[1]), None, "with their best match"),
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _token_facts(pair: Pair) -> list[Fact]:
    row = pair.fetch(
        "SELECT count(*), count(*) FILTER (gained IS NOT NULL OR lost IS NOT NULL), median(cosine), median(jaccard), "
        "median(abs(max_change)) FROM shown_tokens"
    )[0]
    return [
        ("tokens", "neurons", row[0], None, "that fire strongly in either atlas"),
        ("tokens", "neurons with other tokens", row[1], None, None),
        ("tokens", "median cosine", row[2], None, "of firings by token"),
        ("tokens", "median Jaccard", row[3], None, "of sets of tokens"),
        ("tokens", "median |max_change|", row[4], None, "of the largest activation"),
    ]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
