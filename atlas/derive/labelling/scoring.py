"""Labels of an atlas -> tests of them: texts of the documents kept for scores, and rows of label_scores.

Texts that labels are made from are of one half of the documents (see split), those that test them of the other; token
statistics count both (`overlap` says which labels rest on them). A test is balanced: as many texts
(or promoted tokens) of the neuron as of others of its layer, so 0.5 is chance and 1 is perfect. The baseline is the
same test with labels of other neurons of the layer: what a label scores that says something plausible of the wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import duckdb

from atlas.store.sqlfiles import sql_text

METHODS = ("detection", "fuzzing", "embedding", "output")
ASKED = ("detection", "fuzzing")  # by an LLM; the others by vectors of texts
FEWEST = 3  # texts or tokens of each kind; below, nothing is said of a label
_INPUT = ("input", "autointerp", "manual")
_OUTPUT = ("output",)


@dataclass(frozen=True)
class Drawing:
    """What is tested: how many labels, of which source and layers, on how many texts of each kind."""

    sample: int = 500
    seed: int = 0
    source: str | None = None  # "rule" also means "rule:..."
    layers: tuple[int, int] | None = None  # both included
    texts: int = 10


@dataclass(frozen=True)
class Drawn:
    """One label that is tested, and labels of other neurons of its layer."""

    id: int
    layer: int
    neuron: int
    which: str  # pass
    polarity: int | None
    source: str | None
    run: str | None
    label: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """A piece of a document: its tokens, how strongly they fire the neuron (of the sign), and the strongest."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]  # of the neuron it was kept for; the sign made positive
    place: int

    @property
    def plain(self) -> str:
        """The text."""
        return "".join(self.tokens)


@dataclass(frozen=True)
class Trial:
    """A label with texts that fire its neuron and as many that do not."""

    drawn: Drawn
    firing: tuple[Text, ...]
    silent: tuple[Text, ...]


@dataclass(frozen=True)
class TokenTrial:
    """A label with tokens that its neuron promotes and tokens that others of the layer promote."""

    drawn: Drawn
    promoted: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """What a test of one label came to."""

    drawn: Drawn
    method: str
    score: float
    low: float
    high: float
    baseline: float | None
    n: int
    model: str


def passes_of(method: str) -> tuple[str, ...]:
    """The passes whose labels a method can test."""
    return _OUTPUT if method == "output" else _INPUT


def draw_labels(con: duckdb.DuckDBPyConnection, method: str, drawing: Drawing) -> list[Drawn]:
    """Draw the labels of a test into the temporary table score_labels, and give them in order."""
    first, last = drawing.layers or (0, 1 << 30)
    bound = {
        "passes": list(passes_of(method)), "source": drawing.source, "first": first, "last": last,
        "sample": drawing.sample, "seed": drawing.seed,
    }  # fmt: skip
    con.execute(f"CREATE OR REPLACE TEMP TABLE score_labels AS {sql_text('ingest', 'score_labels')}", bound)
    rows = con.execute("FROM score_labels ORDER BY id").fetchall()
    return [Drawn(*(*row[:-1], tuple(row[-1]))) for row in rows]


def read_trials(con: duckdb.DuckDBPyConnection, drawn: Sequence[Drawn], drawing: Drawing) -> Iterator[Trial]:
    """The texts of each drawn label, balanced; labels with fewer than FEWEST texts of a kind are left out."""
    words = _words(con)
    by_id = {one.id: one for one in drawn}
    for number, rows in _groups(con, "score_texts", {"texts": drawing.texts, "seed": drawing.seed}):
        firing = [_text(row, words) for row in rows if row["fires"]]
        silent = [_text(row, words) for row in rows if not row["fires"]]
        n = min(len(firing), len(silent))
        if n >= FEWEST:
            yield Trial(by_id[number], tuple(firing[:n]), tuple(silent[:n]))


def read_token_trials(con: duckdb.DuckDBPyConnection, drawn: Sequence[Drawn], drawing: Drawing) -> Iterator[TokenTrial]:
    """The promoted tokens of each drawn label and as many of other neurons.

    Tokens that the label itself lists are left out on both sides: else a label that repeats the list would be perfect.
    """
    by_id = {one.id: one for one in drawn}
    for number, rows in _groups(con, "score_tokens", {"tokens": 10 * drawing.texts, "seed": drawing.seed}):
        said = words_of(by_id[number].label)
        kept = [(row["promotes"], row["token"]) for row in rows if row["token"].lower() not in said]
        own, others = ([token for mine, token in kept if mine is side] for side in (True, False))
        n = min(len(own), len(others), drawing.texts)
        if n >= FEWEST:
            yield TokenTrial(by_id[number], tuple(own[:n]), tuple(others[:n]))


def overlap(con: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """What the drawn labels may know of the documents that texts are taken from, in sentences."""
    (counted, seen), *_ = con.execute(sql_text("ingest", "score_overlap")).fetchall()
    told = {
        f"evidence: token statistics, which {counted:,} of these labels rest on too, include the test documents":
            counted,
        f"evidence: {seen:,} rule labels were made from texts of all documents, those of the test included; "
        '"atlas label rules" makes them anew from the other half, where it holds a document': seen,
    }  # fmt: skip
    return tuple(sentence for sentence, labels in told.items() if labels)


def words_of(label: str) -> frozenset[str]:
    """The words of a label as tokens may be written: between blanks, without commas and quotes around."""
    return frozenset(word.strip(",;:()\"'").lower() or word for word in label.split())


def score_rows(scores: Sequence[Score], *, seed: int, created: str) -> list[dict[str, Any]]:
    """Scores -> rows of label_scores."""
    return [
        {
            "layer": s.drawn.layer, "neuron": s.drawn.neuron, "pass": s.drawn.which, "polarity": s.drawn.polarity,
            "source": s.drawn.source, "run": s.drawn.run, "label": s.drawn.label, "method": s.method, "score": s.score,
            "low": s.low, "high": s.high, "baseline": s.baseline, "n": s.n, "seed": seed, "model": s.model,
            "created": created,
        }
        for s in scores
    ]  # fmt: skip


def _groups(
    con: duckdb.DuckDBPyConnection, query: str, bound: Mapping[str, int]
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    found = con.execute(sql_text("ingest", query), dict(bound))
    names = [one[0] for one in found.description or ()]
    rows = (dict(zip(names, row, strict=True)) for row in found.fetchall())
    return ((number, list(group)) for number, group in groupby(rows, key=itemgetter("id")))


def _words(con: duckdb.DuckDBPyConnection) -> dict[int, str]:
    return dict(con.execute("SELECT token_id, token FROM vocab").fetchall())


def _text(row: Mapping[str, Any], words: Mapping[int, str]) -> Text:
    tokens = tuple(words.get(token) or "" for token in row["token_ids"])
    activations = tuple(row["polarity"] * (a or 0.0) for a in row["activations"][: len(tokens)])
    return Text(tokens, activations, row["place"])
