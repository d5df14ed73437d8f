"""Two atlases, or two clusterings of one: what differs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.server.answers import View
from atlas.server.errors import Refusal
from atlas.server.replies import Table
from atlas.server.routes.questions import MOST, Asked, Level, Limit, Text
from atlas.server.routing import Routes
from atlas.server.settings import Settings
from atlas.server.state import Server

routes = Routes("compare")

FileName = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,255}$")]


class Difference(Asked):
    """Another atlas, by the name that /atlases lists, and what to compare."""

    b: FileName = Field(examples=["demo.duckdb"])
    what: Literal["summary", "edges", "labels", "clusters", "tokens"] = "summary"
    noise: list[FileName] | None = Field(
        None, min_length=2, max_length=2, description="Two halves of one set of graphs, by name."
    )
    quantile: float = Field(0.99, ge=0.5, lt=1, description="Of the noise: only edges beyond it are listed.")
    level: Level | None = Field(None, description="Of the modules, 1 = top; the finest without it.")
    everything: bool = Field(False, alias="all", description="Also what is within the noise, or equal.")
    limit: Limit = 50


class Clusterings(Asked):
    """Two stored clusterings by name; "primary" is the one that is shown."""

    a: Text = "primary"
    b: Text = Field(examples=["infomap"])
    level: Level | None = Field(None, description="Cut module paths to so many levels; 1 = top modules.")
    draws: int = Field(20, ge=0, le=200, description="Permutations of labels for the null; 0 leaves labels out.")
    seed: int = Field(42, ge=0, le=MOST)


class Named(BaseModel):
    """An atlas that may be compared with."""

    name: str
    bytes: int
    served: bool


@routes.get("/atlases", reply=list[Named], keep=False)
def atlases(server: Server) -> list[Named]:
    """List the atlases that may be compared with: those in the served one's folder and those it was started with."""
    served = server.held.path.name
    found = sorted(_known(server.settings).items())
    return [Named(name=name, bytes=path.stat().st_size, served=name == served) for name, path in found]


@routes.ask("/diff", reply=Table, keep=False, statuses=(404,))
def diff(atlas: Atlas, server: Server, view: View, stack: ExitStack, asked: Difference) -> Answer:
    """Tell what another atlas has that this one has not, and the other way round, neuron by neuron.

    Both are read in full: seconds to minutes. One such question runs at a time; another one gets 503 meanwhile.
    """
    from atlas.query.compare import DiffOptions
    from atlas.query.compare import diff as compare
    from atlas.store.connection import Limits

    server.go_alone(stack)
    known = _known(server.settings)
    halves = (_named(known, asked.noise[0]), _named(known, asked.noise[1])) if asked.noise else None
    other = stack.enter_context(Atlas(_named(known, asked.b)))
    limits = Limits(memory=server.settings.sql_memory, threads=server.settings.threads or 2)
    options = DiffOptions(quantile=asked.quantile, level=asked.level, limits=limits)
    return compare(
        atlas, other, what=asked.what, noise=halves, everything=asked.everything, limit=view.rows(asked.limit),
        options=options,
    )  # fmt: skip


@routes.ask("/clusterings/compare", reply=dict[str, Any])
def compare_clusterings(atlas: Atlas, asked: Clusterings) -> dict[str, Any]:
    """Compare two stored clusterings: how far they agree, the sizes of their modules, how alike their labels are."""
    from atlas.derive.clustering.compare import CompareOptions, compare

    stored = {row["clustering"] for row in atlas.clusterings(limit=None).rows()} | {"primary"}
    for one in (asked.a, asked.b):  # the function also reads files, which is not for clients
        if one not in stored:
            raise InputError(f"no clustering {one!r}; there are {', '.join(sorted(stored))}")
    options = CompareOptions(level=asked.level, draws=asked.draws, seed=asked.seed)
    return compare(atlas, asked.a, asked.b, options=options).to_dict()


def _known(settings: Settings) -> dict[str, Path]:
    """Files by name; of two of one name, that of the atlas's folder."""
    beside = settings.atlas.resolve().parent.glob("*.duckdb")
    return {path.name: path for path in (*settings.also, *beside, settings.atlas) if path.is_file()}


def _named(known: dict[str, Path], name: str) -> Path:
    if name not in known:
        raise Refusal(404, f"no atlas {name!r}", details=f"there are {', '.join(sorted(known))}")
    return known[name]
