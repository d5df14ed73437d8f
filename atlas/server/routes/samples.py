"""Sample prompts: listed and added, in one file of the data folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from atlas.errors import InputError, StoreError
from atlas.query.atlas import Atlas
from atlas.server.errors import Refusal
from atlas.server.files import locked
from atlas.server.replies import Told
from atlas.server.routing import Routes
from atlas.server.state import Server

routes = Routes("samples")

FILE = "samples.json"
MOST = 1000
_OF_ATLAS = 20  # prompts of the atlas's graphs that are shown until the first one is added


class Sample(BaseModel):
    """A prompt."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"examples": [{"prompt": "Hannah ate soup ."}]}
    )
    prompt: str = Field(min_length=1, max_length=10_000, pattern=r"\S")


class Added(BaseModel):
    """What came of it; `added` is false where the prompt was there already."""

    message: str
    prompt: str
    added: bool
    count: int


@routes.get("/samples", reply=list[str], seed=True, keep=False, statuses=(409,))
def samples(atlas: Atlas, server: Server) -> list[str]:
    """List the sample prompts.

    Until one is added they are the first prompts of the atlas's attribution graphs.
    """
    return _read(atlas, server.settings.folder / FILE)


@routes.post("/samples", reply=Added, seed=True, statuses=(409,))
def add_sample(atlas: Atlas, server: Server, body: Sample) -> Told:
    """Add a sample prompt, last; one that is there already stays where it is."""
    from atlas.export.seed_forms import write_samples

    file = server.settings.folder / FILE
    with locked(file):
        found = _read(atlas, file)
        new = body.prompt not in found
        if new and len(found) >= MOST:
            raise Refusal(409, f"{FILE} holds {MOST:,} prompts, the most it may; remove some from the file")
        if new:
            found.append(body.prompt)
            write_samples(file, found)
    message = "Sample added" if new else "The sample is there already"
    return Told({"message": message, "prompt": body.prompt, "added": new, "count": len(found)}, message)


def _read(atlas: Atlas, file: Path) -> list[str]:
    from atlas.export.seed_forms import read_samples
    from atlas.export.seed_tables import sample_prompts

    if not file.exists():
        return sample_prompts(atlas.cursor(), limit=_OF_ATLAS)
    try:
        return read_samples(file)
    except InputError as error:  # of the server's own file: nothing that was asked is wrong
        raise StoreError(str(error)) from error
