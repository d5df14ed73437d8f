"""Labels and tokens: who is about something, what fires them, what the labels are like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.server.answers import View
from atlas.server.replies import Table
from atlas.server.routes.questions import (
    MOST,
    Asked,
    Count,
    Layers,
    Limit,
    Module,
    Neurons,
    Polarity,
    Rows,
    Selector,
    Text,
)
from atlas.server.routing import Routes

routes = Routes("search")

Mode = Literal["words", "fuzzy", "substring", "regex", "semantic", "hybrid"]
InField = Literal["all", "label", "description", "input_label", "output_label"]
Words = Annotated[str, Field(min_length=1, max_length=1000)]
Weight = Annotated[float, Field(ge=0, lt=1000)]


class Searching(Asked):
    """Words, or a neuron whose like is wanted, and filters; options as those of `atlas search`."""

    query: Words | None = Field(None, examples=["dog"], description='Any of the words; dr* begins so; "in quotes".')
    like: Selector | None = Field(None, description="Neurons whose labels mean what this one's do.")
    mode: Mode = "words"
    layers: Layers | None = None
    cluster: Module | None = None
    type: Text | None = None
    source: Text | None = Field(None, description="llm, rule, manual, import:FILE ...")
    interpretability: Text | None = Field(None, examples=["high"])
    min_score: float = Field(0.0, ge=-1e9, le=1e9)
    page: int = Field(1, ge=1, le=10**6, description="Of `limit` rows each.")
    offset: int = Field(0, ge=0, le=MOST, description="Rows to leave out first.")
    explain: bool = Field(False, description="The score parts of each word instead (words and fuzzy).")
    limit: Limit = 20


class Search(Searching):
    """The same, of one field or all."""

    field: InField = "all"


class Searches(Searching):
    """The same, of many queries in one pass, and with weights of the fields."""

    queries: list[Words] | None = Field(None, min_length=1, max_length=1000, description="Many, in one pass.")
    field: InField | dict[Literal["label", "description", "input_label", "output_label"], Weight] = "all"


class Tokens(Asked):
    """A selection, and the sign of its firings."""

    neurons: Neurons
    polarity: Polarity | None = None
    contexts: bool = Field(False, description="Texts instead.")
    limit: Limit = 20


class Firing(Asked):
    """Tokens; several are a category, whose recall is averaged."""

    words: list[Text] = Field(min_length=1, max_length=1000, examples=[["the"]], description="Repeat for several.")
    polarity: Polarity | None = None
    at_least: Count = Field(1, description="Fewest strong firings.")
    contexts: bool = Field(False, description="Texts instead.")
    limit: Limit = 20


class Labels(BaseModel):
    """Coverage, and one table of each kind."""

    neurons: int
    labelled: int
    share: float | None
    sources: Rows
    layers: Rows
    types: Rows
    clarity: Rows
    clarity_pairs: Rows
    uniqueness: Rows
    repeats: Rows
    warnings: list[str]


class OfLabels(Asked):
    """Which labels."""

    source: Text | None = Field(None, description="Only labels of this source; rule for all rules.")
    generic: int = Field(10, ge=2, le=MOST, description="Texts of so many are generic.")
    limit: Limit = Field(10, description="Of the repeated texts.")


@routes.get("/search", reply=Table)
def search(atlas: Atlas, view: View, asked: Annotated[Search, Query()]) -> Answer:
    """Find neurons by their labels, best first.

    As `atlas search`. The modes semantic and hybrid need the vectors of `atlas label embed`.
    """
    return _found(atlas, view, asked)


@routes.post("/search", reply=Table)
def search_by_post(atlas: Atlas, view: View, asked: Searches) -> Answer:
    """Find neurons by their labels; many queries at once, `limit` rows each.

    As `atlas search -`, which reads queries from stdin.
    """
    return _found(atlas, view, asked, asked.queries)


@routes.ask("/tokens", reply=Table)
def tokens(atlas: Atlas, view: View, asked: Tokens) -> Answer:
    """Find the tokens that fire a neuron or a selection strongly."""
    chosen: list[object] = list(asked.neurons)
    rows = view.rows(asked.limit)
    if asked.contexts:
        return atlas.exemplars(chosen, polarity=asked.polarity, k=rows)
    return atlas.tokens(chosen, polarity=asked.polarity, limit=rows)


@routes.ask("/fires-on", reply=Table)
def fires_on(atlas: Atlas, view: View, asked: Firing) -> Answer:
    """Find the neurons that fire strongly on a token, or on a category of tokens."""
    rows = view.rows(asked.limit)
    found = atlas.fires_on(*asked.words, polarity=asked.polarity, at_least=asked.at_least, limit=rows)
    if not asked.contexts or not len(found):
        return found
    ids: list[object] = [(row["layer"], row["neuron"]) for row in found.rows()]
    return atlas.exemplars(ids, tokens=list(asked.words), polarity=asked.polarity, k=rows)


@routes.ask("/label-stats", reply=Labels)
def label_stats(atlas: Atlas, view: View, asked: OfLabels) -> dict[str, Any]:
    """Tell what the labels are like: coverage, layers, types, interpretability, uniqueness, repeated texts."""
    found = atlas.label_stats(source=asked.source, generic=asked.generic, limit=view.rows(asked.limit))
    return found.to_dict() | {"warnings": list(found.warnings)}


def _found(atlas: Atlas, view: View, asked: Search | Searches, queries: list[str] | None = None) -> Answer:
    from atlas.query.search import Where, explain, read_layers, search_many
    from atlas.query.semantic import like

    if sum(one is not None for one in (asked.query, asked.like, queries)) != 1:
        raise InputError("give one of query, like (a neuron) and, by POST, queries")
    rows = view.rows(asked.limit)
    where = Where(
        read_layers(asked.layers), asked.cluster, asked.type, asked.source, asked.interpretability,
        min_score=asked.min_score, skip=asked.offset + (asked.page - 1) * (rows or 0),
    )  # fmt: skip
    how: dict[str, Any] = {"field": asked.field, "where": where, "limit": rows}
    if asked.like is not None:
        return like(atlas, asked.like, **how)
    if queries is not None:
        return search_many(atlas, queries, mode=asked.mode, **how)
    assert asked.query is not None
    found = atlas.search(asked.query, mode=asked.mode, **how)
    if not asked.explain:
        return found
    ids = [row["feature_id"] for row in found.rows()]
    field: Any = asked.field
    return explain(atlas, asked.query, mode=asked.mode, field=field, documents=ids)
