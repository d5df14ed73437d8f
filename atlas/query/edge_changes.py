"""A pair of atlases, and on request two halves of the same graphs -> the edges that differ beyond sampling.

Two passes over ranges of source layers: the first counts how strongly edges differ (a few thousand numbers, from which
floors and false discovery rates follow), the second keeps the rows that are asked for. Memory: one range.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, StoreError
from atlas.query.pair import Pair

if TYPE_CHECKING:
    from atlas.query.noise import Floors, Levels

HEADLINE = (
    "change", "src_layer", "src_neuron", "src_label", "tgt_layer", "tgt_neuron", "tgt_label", "mean_a", "mean_b", "z",
    "rate_z", "q", "floor", "count_a", "count_b",
)  # fmt: skip
CHANGES = ("gained", "lost", "flipped", "changed", "same")

_CALL = """diff_edges(
    of_first_layer := $first, of_last_layer := $last, exposure_a := $exposure_a, exposure_b := $exposure_b,
    by_count := $by_count, cut_a := $cut_a, cut_b := $cut_b"""
_COMPARE = f"""
INSERT INTO compared
SELECT change, below_cut, no_z, CASE WHEN change IN ('gained', 'lost') THEN 'rate' ELSE 'weight' END, stratum,
    CASE WHEN score IS NOT NULL THEN least(floor(abs(score) * $bins_per_unit), $score_bins - 1) END::INTEGER,
    CASE WHEN delta = 0 THEN 0 WHEN delta IS NOT NULL THEN
        greatest(0, least($delta_bins - 1, floor((log2(abs(delta)) - $least_delta) * $delta_steps))) END::INTEGER,
    mean_a, mean_b
FROM {_CALL})"""
_LEVELS = """
SELECT test, stratum, place, count(*) FROM compared WHERE place IS NOT NULL GROUP BY ALL
UNION ALL SELECT 'delta', stratum, delta_place, count(*) FROM compared WHERE delta_place IS NOT NULL GROUP BY ALL"""
_KINDS = "SELECT change, below_cut, no_z, place IS NULL, count(*) FROM compared GROUP BY ALL"
_MOMENTS = """
SELECT count(*), sum(mean_a), sum(mean_b), sum(mean_a ** 2), sum(mean_b ** 2), sum(mean_a * mean_b)
FROM compared WHERE mean_a IS NOT NULL AND mean_b IS NOT NULL"""
_SHOWN = f"""
FROM {_CALL}, weight_floors := $weight_floors, rate_floors := $rate_floors, delta_floors := $delta_floors,
    everything := $everything)"""
_STRONGEST = """
ORDER BY excess DESC NULLS LAST, abs(score) DESC NULLS LAST, abs(delta) DESC NULLS LAST, src, tgt LIMIT $max_rows"""
ANSWER = """
SELECT
    s.change, x.layer AS src_layer, x.neuron AS src_neuron, x.label AS src_label, y.layer AS tgt_layer,
    y.neuron AS tgt_neuron, y.label AS tgt_label, s.mean_a, s.mean_b, s.delta, s.z, s.df, s.no_z, s.rate_z, s.score,
    l.q, s.floor, s.delta_floor, s.excess, s.beyond, s.below_cut, s.count_a, s.count_b, s.graphs_a, s.graphs_b, s.src,
    s.tgt
FROM shown AS s
LEFT JOIN a.neurons AS x ON x.feature_id = s.src
LEFT JOIN a.neurons AS y ON y.feature_id = s.tgt
LEFT JOIN levels AS l ON l.test = CASE WHEN s.change IN ('gained', 'lost') THEN 'rate' ELSE 'weight' END
    AND l.stratum = least(s.stratum, $strata - 1)
    AND s.score IS NOT NULL AND l.place = least(floor(abs(s.score) * $bins_per_unit), $score_bins - 1)
ORDER BY s.excess DESC NULLS LAST, abs(s.score) DESC NULLS LAST, abs(s.delta) DESC NULLS LAST, s.src, s.tgt
LIMIT $max_rows"""


@dataclass(frozen=True)
class Exposure:
    """What both sides could have seen: graphs, or observations where graphs are not counted; and their cuts."""

    exposure_a: int | None
    exposure_b: int | None
    by_count: bool
    cut_a: int
    cut_b: int

    @property
    def both(self) -> tuple[float, float] | None:
        """Both numbers, when they are known."""
        return (self.exposure_a, self.exposure_b) if self.exposure_a and self.exposure_b else None


@dataclass
class Survey:
    """All edges of a pair, counted."""

    exposure: Exposure
    levels: Levels
    kinds: Counter[tuple[str, bool, str | None, bool]] = field(default_factory=Counter)
    moments: list[float] = field(default_factory=lambda: [0.0] * 6)

    def count(self, *changes: str) -> int:
        """Edges of these changes."""
        return sum(n for (change, *_), n in self.kinds.items() if change in changes)

    @property
    def compared(self) -> int:
        """Edges of either side."""
        return sum(self.kinds.values())

    @property
    def below_cut(self) -> int:
        """Gained and lost edges that the other side may have had, below its cut."""
        return sum(n for (_, below, *_), n in self.kinds.items() if below)

    @property
    def without_score(self) -> int:
        """Edges that no test applies to."""
        return sum(n for (*_, unscored), n in self.kinds.items() if unscored)

    @property
    def correlation(self) -> float | None:
        """Pearson correlation of the mean weights over edges that both sides have, to six digits."""
        n, x, y, xx, yy, xy = self.moments
        room = (n * xx - x * x) * (n * yy - y * y)
        return round((n * xy - x * y) / math.sqrt(room), 6) if n > 1 and room > 0 else None


@dataclass(frozen=True)
class Noise:
    """Two halves of the same graphs, surveyed."""

    names: str
    survey: Survey


class EdgeChanges:
    """The edges of a pair, compared; passes run when they are first needed."""

    def __init__(self, pair: Pair, halves: Pair | None, *, quantile: float, rate: float) -> None:
        self.pair, self.halves, self.quantile, self.rate = pair, halves, quantile, rate
        for one in (pair, halves):
            if one is not None:
                require_edges(one)

    @cached_property
    def survey(self) -> Survey:
        """All edges of the pair, counted."""
        return take_survey(self.pair)

    @cached_property
    def noise(self) -> Survey | None:
        """All edges of the halves, counted."""
        return take_survey(self.halves) if self.halves else None

    @cached_property
    def floors(self) -> Floors:
        """What a row must reach."""
        from atlas.query.noise import Change, change_of, floors_of_halves, normal_floors

        if self.noise is None:
            return normal_floors(self.survey.levels, self.quantile, self.rate)
        sizes = self.survey.exposure.both, self.noise.exposure.both
        same_unit = self.survey.exposure.by_count == self.noise.exposure.by_count
        change = change_of(sizes[0], sizes[1]) if sizes[0] and sizes[1] and same_unit else Change(math.sqrt(0.5), 1)
        return floors_of_halves(self.noise.levels, self.quantile, change)

    def keep(self, *, everything: bool, limit: int | None) -> int:
        """Fill the tables `shown` and `levels` of the pair's memory; the number of rows without the limit."""
        self._write_levels()
        self.pair.fetch("CREATE OR REPLACE TABLE shown AS FROM diff_edges() LIMIT 0")
        if not everything:
            rows = sum(self.beyond.values())
            self.pair.fetch(f"INSERT INTO shown FROM beyond {_STRONGEST}", {"max_rows": limit})
            return rows
        for given in self._ranges():
            bound = given | {"everything": True, "max_rows": limit}
            self.pair.fetch(f"INSERT INTO shown {_SHOWN} {_STRONGEST}", bound)
        return self.survey.compared

    @cached_property
    def beyond(self) -> Counter[str]:
        """Edges beyond their floor, by change; they are left in the table `beyond` of the pair's memory."""
        self.pair.fetch("CREATE OR REPLACE TABLE beyond AS FROM diff_edges() LIMIT 0")
        for given in self._ranges():
            self.pair.fetch(f"INSERT INTO beyond {_SHOWN}", given | {"everything": False})
        return Counter(dict(self.pair.fetch("SELECT change, count(*) FROM beyond GROUP BY change")))

    def _write_levels(self) -> None:
        from atlas.query.noise import false_discovery

        noise = self.noise.levels if self.noise else None
        rows = false_discovery(self.survey.levels, noise, self.quantile)
        columns = {"tests": [r[0] for r in rows], "strata": [r[1] for r in rows]}
        columns |= {"places": [r[2] for r in rows], "qs": [r[3] for r in rows]}
        self.pair.fetch("CREATE OR REPLACE TABLE levels(test VARCHAR, stratum INTEGER, place INTEGER, q DOUBLE)")
        self.pair.fetch(
            "INSERT INTO levels SELECT unnest($tests::VARCHAR[]), unnest($strata::INTEGER[]), "
            "unnest($places::INTEGER[]), unnest($qs::DOUBLE[])",
            columns,
        )

    def _ranges(self) -> list[dict[str, Any]]:
        """Values of the pair, of its floors and of each range."""
        bound = vars(self.survey.exposure) | self.floors.bound()
        return [{**bound, "first": first, "last": last} for first, last in self.pair.edge_ranges]


def take_survey(pair: Pair) -> Survey:
    """Count all edges of a pair, range by range."""
    from atlas.query import noise

    found = Survey(exposure_of(pair), noise.Levels())
    bins = {"bins_per_unit": noise.BINS_PER_UNIT, "score_bins": noise.SCORE_BINS, "delta_bins": noise.DELTA_BINS,
            "delta_steps": noise.DELTA_STEPS, "least_delta": noise.LEAST_DELTA}  # fmt: skip
    pair.load("diff_edges")
    for first, last in pair.edge_ranges:
        pair.fetch(
            "CREATE OR REPLACE TABLE compared(change VARCHAR, below_cut BOOLEAN, no_z VARCHAR, test VARCHAR, "
            "stratum INTEGER, place INTEGER, delta_place INTEGER, mean_a DOUBLE, mean_b DOUBLE)"
        )
        pair.fetch(_COMPARE, {**vars(found.exposure), **bins, "first": first, "last": last})
        found.levels.add(pair.fetch(_LEVELS))
        for *kind, edges in pair.fetch(_KINDS):
            found.kinds[tuple(kind)] += edges
        sums = pair.fetch(_MOMENTS)[0]
        for one, total in ((pair.a, sums[1]), (pair.b, sums[2])):
            if math.isnan(total or 0):
                raise StoreError(f"{one.name} has edges whose weights are not numbers; run atlas check to see which")
        found.moments = [held + (more or 0) for held, more in zip(found.moments, sums, strict=True)]
    pair.fetch("DROP TABLE IF EXISTS compared")
    return found


def exposure_of(pair: Pair) -> Exposure:
    """Graphs of both sides; observations where a side does not count graphs; unknown where it counts neither."""
    cuts = [int(one.metadata.get("min_edge_count", 1)) for one in (pair.a, pair.b)]
    graphs = [_graphs(pair, side) for side in ("a", "b")]
    if all(graphs):
        return Exposure(graphs[0], graphs[1], False, cuts[0], cuts[1])
    seen = [_number(one.metadata.get("edge_observations")) for one in (pair.a, pair.b)]
    return Exposure(seen[0], seen[1], True, cuts[0], cuts[1])


def require_edges(pair: Pair) -> None:
    """Refuse atlases without edges, and edges of two methods."""
    for side, one in (("a", pair.a), ("b", pair.b)):
        if not pair.fetch(f"SELECT 1 FROM {side}.edges LIMIT 1"):
            raise InputError(f'{one.name} has no edges; "atlas edges project STORE {one.name}" puts some into it')
    methods = [one.metadata.get("edge_method", "unknown") for one in (pair.a, pair.b)]
    if methods[0] != methods[1]:
        raise InputError(
            f"{pair.a.name} has {methods[0]} edges, {pair.b.name} {methods[1]}: different methods cannot be compared; "
            "project edges of one method into both"
        )


def _graphs(pair: Pair, side: str) -> int | None:
    """Graphs that the edges of a side were counted over; None when n_graphs is not known."""
    known = pair.fetch(f"SELECT n_graphs IS NOT NULL FROM {side}.edges LIMIT 1")
    found = pair.fetch(f"SELECT count(*) FROM {side}.graphs")[0][0]
    return int(found) if known == [(True,)] and found else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
