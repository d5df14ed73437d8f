"""GET / -> one page without scripts that lists the endpoints, each with a line to try."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

from atlas.server.document import page


def add_index(app: FastAPI) -> None:
    """Add the page, made from the routes when it is first asked for."""
    made: list[str] = []

    async def index(_: Request) -> Response:
        if not made:
            made.append(page(app.openapi()))
        return HTMLResponse(made[0], headers={"cache-control": "private, max-age=60"})

    app.add_route("/", index, methods=["GET"], include_in_schema=False)
