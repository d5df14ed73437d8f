"""What the atlas holds as a whole: facts, checks, weights, pruning scores, measured impacts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.query.pruning import Ranking, document, summary
from atlas.server.answers import STREAMS, View
from atlas.server.replies import Table
from atlas.server.routes.questions import Asked, Layer, Limit, Rows, Text
from atlas.server.routing import Routes

routes = Routes("holdings")


class Info(BaseModel):
    """As `atlas info`."""

    model_config = ConfigDict(extra="allow")
    file: str
    bytes: int
    model: str | None
    layers: int
    neurons_per_layer: int
    tables: dict[str, int]
    metadata: dict[str, str]


class Check(BaseModel):
    """One check of sql/checks, a query that returns the bad rows."""

    check: str
    healthy: bool
    bad_rows: int
    meaning: str
    sample: list[Any]


class Ranked(Asked):
    """By which scores, and from which percentile."""

    threshold: float = Field(10.0, ge=0, le=100, description="Percentile of candidates.")
    method: Literal["fisher", "wifv", "weights", "taylor_abs", "wanda"] | None = Field(
        None, description="The atlas's own without it."
    )
    scope: Literal["layer", "global"] = "layer"
    eval_id: Text | None = Field(None, description="One of several evaluations in the atlas.")

    @property
    def ranking(self) -> Ranking:
        """As the query layer takes it."""
        return Ranking(self.method, self.scope, self.eval_id)


class Pruned(Ranked):
    """Which neurons."""

    layer: Layer | None = None
    everything: bool = Field(False, alias="all", description="Also neurons that are no candidates.")
    limit: Limit = 50


class Candidates(BaseModel):
    """Safest first; the total counts the candidates alone."""

    candidates: Rows
    total_candidates: int
    threshold_percentile: float


class Weighed(Asked):
    """Which tensors."""

    layer: int | None = Field(None, ge=-1, le=9999, description="-1: outside the layers.")
    limit: Limit = 0


class OfLayer(Asked):
    """Which tensors."""

    layer: int | None = Field(None, ge=-1, le=9999, description="-1: outside the layers.")


class Impacts(Asked):
    """Which rows of one evaluation, the newest without `eval_id`."""

    eval_id: Text | None = None
    layer: Layer | None = None
    evidence: Literal["measured", "estimated"] | None = None
    singles: bool = Field(False, description="Only neurons by themselves.")
    limit: Limit = 50


@routes.get("/info", reply=Info)
def info(
    atlas: Atlas, hash: Annotated[bool, Query(description="Also the content hash (reads the whole file).")] = False
) -> dict[str, Any]:
    """What the atlas is and holds: model, sizes, rows, edge method, quality of its graphs, ingests."""
    facts: dict[str, Any] = atlas.info()
    return facts | ({"hash": atlas.hash()} if hash else {})


@routes.get("/check", reply=list[Check])
def check(atlas: Atlas) -> list[dict[str, Any]]:
    """Run every check of the atlas's soundness; takes seconds on a large one."""
    return [
        {"check": one.name, "healthy": one.healthy, "bad_rows": one.bad_rows, "meaning": one.meaning,
         "sample": one.sample}
        for one in atlas.check()
    ]  # fmt: skip


@routes.ask("/prune", reply=Candidates, forms=tuple(STREAMS))
def prune(atlas: Atlas, view: View, asked: Pruned) -> Any:
    """List the neurons that are safest to remove, safest first."""
    found = atlas.prune(
        threshold=asked.threshold, layer=asked.layer, everything=asked.everything, limit=view.rows(asked.limit),
        ranking=asked.ranking,
    )  # fmt: skip
    if view.streamed:
        return found
    return document(atlas, found, threshold=asked.threshold, layer=asked.layer, ranking=asked.ranking)


@routes.ask("/prune/summary", reply=Table)
def prune_summary(atlas: Atlas, asked: Ranked) -> Answer:
    """Count the candidates of each layer."""
    return summary(atlas, threshold=asked.threshold, ranking=asked.ranking)


@routes.ask("/weights", reply=Table)
def weights(atlas: Atlas, view: View, asked: Weighed) -> Answer:
    """Tell the size, sparsity, magnitudes and norms of every weight matrix, as stored in the atlas."""
    return atlas.weights(layer=asked.layer, limit=view.rows(asked.limit))


@routes.ask("/weights/summary", reply=Table)
def weight_summary(atlas: Atlas, asked: OfLayer) -> Answer:
    """Tell the parameters and sparsity of all weight matrices together."""
    return atlas.weight_summary(layer=asked.layer)


@routes.ask("/impacts", reply=Table)
def impacts(atlas: Atlas, view: View, asked: Impacts) -> Answer:
    """List what the model loses without neurons and sets of them, as measured before; least harmful first."""
    return atlas.impacts(
        eval_id=asked.eval_id, layer=asked.layer, evidence=asked.evidence, singles=asked.singles,
        limit=view.rows(asked.limit),
    )  # fmt: skip
