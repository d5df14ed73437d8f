"""A selection, or every module of a level -> the words that its neurons' labels hold more often than chance, with FDR.

The background is matched by layer: of N labelled neurons of a layer K have the word and n are in the module, so the
hits are hypergeometric under the null; the statistics over layers are those of Cochran, Mantel and Haenszel. The sum
over layers has no closed tail: a binomial of equal mean and variance stands for it (such a sum is one of
independent unequal coins), and where that finds p < 0.05 and the hits are few, or many for that binomial (over 1/8 of
its trials), the layers are convolved exactly. What stays binomial by that rule is off by 0.1% at p = 1e-20 and 10% at
1e-100. Only what is shown needs it: the smallest p are convolved, at least twice the limit and 1,000, at most 20,000
(of them 1,000 one by one, on tiny layers); behind these a binomial p below 0.05 may be off by orders of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.selector import Selection, select

if TYPE_CHECKING:
    import duckdb
    import pyarrow

    from atlas.query.atlas import Atlas

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
FIELDS = ("label", "description", "input_label", "output_label", "type", "source")
HEADLINE = ("module", "word", "hits", "labelled", "expected", "odds_ratio", "p", "fdr", "repeated")
FEW_HITS = 20  # convolved whatever the layers hold; all hits to 64 take 10 times as long on 352 top modules
SOME_HITS, SOME_SUPPORT = 64, 200  # or these, where the layers have room for few hits (modules of some 40 neurons)
_LOOKED_AT = 0.05  # a larger p of the binomial is left as it is: it is right to a percent or so there
_ALONE, _ALONE_WORK = 1000, 30_000_000  # one by one at most so many, the first ones; and of hits x support
_LEAST_EXACT, _MOST_EXACT = 1000, 20_000  # tests of smallest p whose p is made exact where the binomial is not enough
_NOTHING = 1e-290  # a smaller p prints as 0 or nearly so whatever its last digits
_AT_ONCE = 20_000  # tests: 64 layers of them as doubles take 10 MB
_FEW_BEYOND, _BEYOND = 10, 40  # terms of a tail past its first, mean < 1 or more: the rest is below 1e-8 of them
_SMALL = 1e-3  # above it, 1 - (the terms below) has lost at most 3 digits of 13


@dataclass(frozen=True)
class Computed:
    """A table in memory as the source of an answer."""

    name: str
    con: duckdb.DuckDBPyConnection

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor of its own."""
        return self.con.cursor()


class Enrichment(Answer):
    """Rows whose counts are of SQL and whose chances are of numpy: `sql` is the macro that gives the counts."""

    counted_by: str = ""

    @property
    def sql(self) -> str:
        """The statement that gave the counts: it runs in any DuckDB shell on the atlas file."""
        return self.counted_by

    @property
    def statement(self) -> str:
        """The same: its values are in place."""
        return self.counted_by


@dataclass(frozen=True)
class Counts:
    """Tests by layer. hits, members, words: [tests, layers]; labelled: [layers]."""

    hits: Array
    members: Array
    words: Array
    labelled: Array


@dataclass(frozen=True)
class Every:
    """All tests: hits [tests], places in n [modules, layers] and k [words, layers], and the layers of their hits."""

    hits: Ints
    module: Ints
    word: Ints
    n: Array
    k: Array
    labelled: Array
    offsets: Ints
    layers: pyarrow.ListArray

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance of all tests as `moments` has them, by products of what depends on one side only."""
        live = self.labelled > 0
        size = self.labelled[live]
        n, k = self.n[:, live], self.k[:, live]
        sides = ((n / size, k), (n * (size - n) / size, k * (size - k) / (size * np.maximum(size - 1, 1))))
        mean, variance = np.zeros((2, len(self.hits)))
        for at in range(0, len(self.hits), _AT_ONCE):
            rows = slice(at, at + _AT_ONCE)
            for result, (left, right) in zip((mean, variance), sides, strict=True):
                result[rows] = np.einsum("ij,ij->i", left[self.module[rows]], right[self.word[rows]])
        return mean, variance

    def counts(self, rows: Ints) -> Counts:
        """The tests at `rows` by layer."""
        live = self.labelled > 0
        at = self.layers.take(rows)
        row = np.repeat(np.arange(len(rows)), np.diff(self.offsets)[rows])
        cell = row * len(live) + at.flatten().to_numpy()
        hits = np.bincount(cell, minlength=len(rows) * len(live)).reshape(len(rows), len(live)).astype(float)
        n, k = self.n[self.module[rows]], self.k[self.word[rows]]
        return Counts(hits[:, live], n[:, live], k[:, live], self.labelled[live])


def enrich(
    atlas: Atlas,
    selection: Selection | None = None,
    *,
    level: int = 1,
    field: str = "label",
    min_hits: int = 2,
    limit: int | None = 50,
) -> Answer:
    """Words of labels, most significant first, of one selection or (None) of every module of a level.

    Columns: module, word, hits, size (labelled members with or without it: `labelled`), background (neurons with the
    word), expected (mean hits by layer), odds_ratio (Mantel-Haenszel; every cell + 1/2 where one of its sums is 0), z
    (CMH, no continuity correction), p (P(hits or more)), fdr (Benjamini-Hochberg over every pair of a module and a word
    that could have reached min_hits: pairs with fewer hits count as p = 1, so leaving them out flatters nothing), exact
    (p is a convolution; else the binomial), repeated (all hits share one label verbatim: no independent evidence).
    Raises InputError for an unknown field, an empty selection or a min_hits below 1.
    """
    if field not in FIELDS:
        raise InputError(f"no field {field!r} of labels; choose among {', '.join(FIELDS)}")
    if min_hits < 1:
        raise InputError(f"min_hits is at least 1, not {min_hits}")
    warnings = atlas.require("labels") if field in ("type", "source") else ()
    if selection is None:
        warnings += _some_modules(atlas, level)
    ids = None if selection is None else select(atlas, selection)
    asked = {"of_ids": ids, "of_level": level, "of_field": field}
    sizes = atlas.ask("enrich_layers", asked).arrow()
    counts = atlas.ask("enrich_counts", {**asked, "at_least": min_hits})
    found, tests = _tests(sizes, counts.arrow(), min_hits, limit)
    if not tests:
        warnings += (f"nothing to test: no word of {field} is on {min_hits} labelled neurons of a module",)
    else:
        warnings += (f"FDR over {tests:,} tests; background matched by layer",)
    answer = _answer(atlas, found, limit, warnings)
    answer.counted_by = counts.sql
    return answer


def upper_tail(counts: Counts) -> tuple[Array, NDArray[np.bool_]]:
    """P(hits or more) under independent hypergeometric layers [tests], and whether it is exact.

    Of tests on tiny layers only the first 1,000 are convolved: give those of smallest p first.
    """
    total = counts.hits.sum(axis=1)
    mean, variance = moments(counts)
    p = _binomial(total, mean, variance)
    few, alone = _convolvable(counts, p, mean**2 / np.maximum(mean - variance, 1e-12 * mean))
    for hits in np.unique(total[few]):
        rows = np.flatnonzero(few & (total == hits))
        p[rows] = _few_hits(int(hits), counts.members[rows], counts.words[rows], counts.labelled)
    for row in np.flatnonzero(alone):
        p[row] = _convolved(int(total[row]), counts.members[row], counts.words[row], counts.labelled)
    return np.clip(p, 0.0, 1.0), few | alone


def moments(counts: Counts) -> tuple[Array, Array]:
    """Mean and variance of the hits under the null [tests]."""
    n, k, size = counts.members, counts.words, counts.labelled
    mean = n * k / size
    spread = (size - n) * (size - k) / (size * np.maximum(size - 1, 1))
    return mean.sum(axis=1), (mean * spread).sum(axis=1)


def odds_ratio(counts: Counts) -> Array:
    """Mantel-Haenszel odds ratio [tests]; with 1/2 added to every cell of the layers where a sum would be 0."""
    plain, top, bottom = _odds(counts, 0.0)
    mended = _odds(counts, 0.5)[0]
    return np.where((top > 0) & (bottom > 0), plain, mended)


def false_discovery(p: Array, tests: int) -> Array:
    """Benjamini-Hochberg adjusted p [len(p)] when `tests` were made and those not given had p = 1."""
    order = np.argsort(p, kind="stable")
    scaled = p[order] * tests / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def _some_modules(atlas: Atlas, level: int) -> tuple[str, ...]:
    from atlas.query.clusters import require_modules

    return require_modules(atlas, level)


def _tests(
    sizes: pyarrow.Table, counted: pyarrow.Table, min_hits: int, limit: int | None
) -> tuple[dict[str, Any], int]:
    """Columns of every test with min_hits, and how many tests there were."""
    import pyarrow.compute as pc

    tests = counted.filter(pc.is_valid(counted["module"]))
    by_layer = counted.filter(pc.is_null(counted["module"]))
    layers = 1 + int(max(sizes["layer"].to_pylist(), default=0))
    words, k = _grid(by_layer, "word", "hits", layers)
    own = sizes.filter(pc.is_valid(sizes["module"]))
    modules, n = _grid(own, "module", "n", layers)
    labelled = np.zeros(layers)
    whole = sizes.filter(pc.is_null(sizes["module"]))
    labelled[whole["layer"].to_numpy()] = whole["n"].to_numpy()
    at_module = pc.index_in(tests["module"], modules).to_numpy()
    at_word = pc.index_in(tests["word"], words).to_numpy()
    family = int((n.sum(axis=1) >= min_hits).sum()) * int((k.sum(axis=1) >= min_hits).sum())
    lists = tests["at"].combine_chunks()
    every = Every(tests["hits"].to_numpy(), at_module, at_word, n, k, labelled, lists.offsets.to_numpy(), lists)
    columns = _measure(every, limit)
    columns["fdr"] = false_discovery(columns["p"], family)
    kept = {name: tests[name] for name in ("module", "word", "hits", "repeated")}
    return {**kept, **columns}, family


def _grid(table: pyarrow.Table, key: str, value: str, layers: int) -> tuple[pyarrow.Array, Array]:
    """Distinct keys and their values by layer [keys, layers]."""
    encoded = table[key].combine_chunks().dictionary_encode()
    grid = np.zeros((len(encoded.dictionary), layers))
    grid[encoded.indices.to_numpy(), table["layer"].to_numpy()] = table[value].to_numpy()
    return encoded.dictionary, grid


def _measure(every: Every, limit: int | None) -> dict[str, Any]:
    """Columns of all tests; exact p and odds where they will be shown."""
    total = every.hits.astype(float)
    mean, variance = every.moments()
    z = np.full(len(total), np.nan)
    np.divide(total - mean, np.sqrt(variance), out=z, where=variance > 0)
    p = np.clip(_binomial(total, mean, variance), 0.0, 1.0)
    exact, tried = np.zeros((2, len(p)), bool)
    shown = len(p) if limit is None else limit
    first = min(max(2 * shown, _LEAST_EXACT), _MOST_EXACT)
    for _ in range(3):  # a p made exact may move behind others
        order = np.lexsort((-z, p))
        rows = order[:first][~tried[order[:first]]]
        if not len(rows) or tried[order[: min(shown, first)]].all():
            break
        p[rows], exact[rows] = upper_tail(every.counts(rows))
        tried[rows] = True
    odds = np.full(len(p), np.nan)
    order = np.lexsort((-z, p))[: shown + 100]  # and some, for ties
    for at in range(0, len(order), _AT_ONCE):
        rows = order[at : at + _AT_ONCE]
        odds[rows] = odds_ratio(every.counts(rows))
    return {
        "labelled": every.n.sum(axis=1).astype(int)[every.module],
        "background": every.k.sum(axis=1).astype(int)[every.word],
        "expected": mean, "odds_ratio": odds, "z": z, "p": p, "exact": exact,
    }  # fmt: skip


def _odds(counts: Counts, add: float) -> tuple[Array, Array, Array]:
    live = (counts.members > 0) & (counts.words > 0)
    a = counts.hits + add
    b = counts.members - counts.hits + add
    c = counts.words - counts.hits + add
    d = counts.labelled - counts.members - counts.words + counts.hits + add
    top = (a * d / (a + b + c + d) * live).sum(axis=1)
    bottom = (b * c / (a + b + c + d) * live).sum(axis=1)
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0), top, bottom


def _convolvable(counts: Counts, p: Array, trials: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tests to convolve exactly: together as their hits or supports are few, or one by one as they must be."""
    total = counts.hits.sum(axis=1)
    shared = np.minimum(counts.members, counts.words)
    crowded = (counts.members + counts.words > counts.labelled).any(axis=1)
    support = shared.sum(axis=1)
    light = (total <= FEW_HITS) | ((total <= SOME_HITS) & (support <= SOME_SUPPORT))
    few = (p < _LOOKED_AT) & light & ~crowded
    strained = ((shared > 0).sum(axis=1) == 1) | (total > trials / 8) | (light & crowded)
    alone = (p < _LOOKED_AT) & (p > _NOTHING) & strained & ~few & (total * support < _ALONE_WORK)
    return few, alone & (np.cumsum(alone) <= _ALONE)


def _few_hits(hits: int, n: Array, k: Array, size: Array) -> Array:
    """P(X >= hits) of equal hits: 1 - the terms below, or where that is small the terms themselves."""
    p: Array = 1.0 - _mass(hits, n, k, size).sum(axis=1)
    mean = (n * k / size).sum(axis=1)
    for beyond, rows in ((_FEW_BEYOND, (p < _SMALL) & (mean < 1)), (_BEYOND, (p < _SMALL) & (mean >= 1))):
        if rows.any():
            p[rows] = _mass(hits + beyond, n[rows], k[rows], size)[:, hits:].sum(axis=1)
    return p


def _mass(width: int, n: Array, k: Array, size: Array) -> Array:
    """P(X = 0 ... width - 1) of the sum over layers [tests, width]; needs n + k <= size everywhere."""
    total = np.zeros((len(n), width))
    total[:, :1] = 1.0
    logs = _log_factorials(int(size.max(initial=0)))
    for layer in range(len(size)):
        rows = np.flatnonzero((n[:, layer] > 0) & (k[:, layer] > 0))
        if len(rows) and width:
            total[rows] = _add_layer(total[rows], n[rows, layer], k[rows, layer], size[layer], logs)
    return total


def _add_layer(total: Array, n: Array, k: Array, size: float, logs: Array) -> Array:
    """Convolve the sums so far with a hypergeometric: P(j + 1) = P(j) (n - j)(k - j) / (j + 1)(N - n - k + j + 1)."""
    whole, small, large = int(size), n.astype(int), k.astype(int)
    term = np.exp(logs[whole - small] + logs[whole - large] - logs[whole] - logs[whole - small - large])
    width = total.shape[1]
    result: Array = term[:, None] * total
    for j in range(min(width - 1, int(np.minimum(n, k).max()))):
        term = term * (n - j) * (k - j) / ((j + 1) * (size - n - k + j + 1))
        result[:, j + 1 :] += term[:, None] * total[:, : width - j - 1]
    return result


def _convolved(hits: int, n: Array, k: Array, size: Array) -> float:
    """P(X >= hits) of one test over the whole support of every layer."""
    total = np.ones(1)
    for members, words, whole in zip(n.astype(int), k.astype(int), size.astype(int), strict=True):
        logs = _log_factorials(whole)
        j = np.arange(max(0, members + words - whole), min(members, words) + 1)
        inside = logs[words] - logs[j] - logs[words - j]
        outside = logs[whole - words] - logs[members - j] - logs[whole - words - members + j]
        choices = logs[whole] - logs[members] - logs[whole - members]
        total = np.convolve(total, np.concatenate([np.zeros(j[0]), np.exp(inside + outside - choices)]))
    return float(total[hits:].sum())


def _log_factorials(most: int) -> Array:
    exact = np.cumsum(np.log(np.maximum(np.arange(most + 1), 1).astype(np.longdouble)))
    return exact.astype(np.float64)


def _binomial(hits: Array, mean: Array, variance: Array) -> Array:
    """P(X >= hits) of the binomial with this mean and variance; of the Poisson where they are equal."""
    try:
        from scipy.special import betainc, gammainc
    except ImportError as error:
        raise InputError(
            "enrichment of large modules needs scipy, which is not installed; pip install scipy"
        ) from error
    trials = mean**2 / np.maximum(mean - variance, 1e-12 * mean)
    inside = trials - hits + 1 > 0
    tail = betainc(hits, np.where(inside, trials - hits + 1, 1.0), np.minimum(mean / trials, 1.0))
    p: Array = np.where(inside & (trials < 1e12 * mean), tail, gammainc(hits, mean))
    return p


def _answer(atlas: Atlas, columns: dict[str, Any], limit: int | None, warnings: tuple[str, ...]) -> Enrichment:
    import duckdb
    import pyarrow as pa

    con = duckdb.connect()
    con.register("columns_found", pa.table(columns))
    con.execute("CREATE TABLE found AS FROM columns_found")
    con.unregister("columns_found")
    statement = """SELECT module, word, hits, labelled, background, expected, odds_ratio, z, p, fdr, exact, repeated
        FROM found ORDER BY p, z DESC NULLS LAST, module, word LIMIT $max_rows"""
    source = Computed(atlas.name, con)
    return Enrichment(source, statement, {"max_rows": limit}, warnings=warnings, headline=HEADLINE)
