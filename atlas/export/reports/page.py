"""A dashboard document -> one self-contained HTML page that is read without a script and without a network.

Templates escape everything and spell out what is invisible (control and bidi characters, lone surrogates); a page's
policy forbids scripts and every connection.
"""

from __future__ import annotations

import json
from collections.abc import Set
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from atlas.export.pictures.lettering import number, percent, quoted_token, visible
from atlas.export.reports.charts import histogram, layer_strip

_SPACES = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})


def neuron_page(document: dict[str, Any], *, layers: int, pages: Set[str] = frozenset()) -> str:
    """The page of one neuron; `pages` are the names of those beside it ("L1_N5"), to which ids are linked."""
    module = document["module"]
    charts = {
        "histogram": histogram(document["activation"]) if document["activation"] else None,
        "strip": layer_strip(module["members_by_layer"], layers, document["layer"]) if module else None,
    }
    return _templates().get_template("neuron.html").render(d=document, pages=pages, **charts)


def module_page(document: dict[str, Any], *, picture: str | None, layers: int, pages: Set[str] = frozenset()) -> str:
    """The page of one module; `picture` is the SVG of its strongest inner edges."""
    rows = [(row["layer"], row["members"]) for row in document["layers"]]
    strip = layer_strip(rows, layers, -1)
    drawn = Markup(picture) if picture else None  # made by atlas.export.pictures, which escapes
    return _templates().get_template("module.html").render(d=document, pages=pages, strip=strip, picture=drawn)


def index_page(entries: list[dict[str, Any]], *, title: str) -> str:
    """The list of all pages; with a script it is searched, sorted and filtered, without one it is read."""
    neurons = [entry for entry in entries if entry["kind"] == "neuron"]
    modules = [entry for entry in entries if entry["kind"] == "module"]
    seen = {
        "layers": sorted({entry["layer"] for entry in neurons}),
        "tops": sorted({entry["module"].split(".")[0] for entry in neurons if entry["module"]}, key=_numeric),
        "types": sorted({entry["type"] for entry in neurons if entry["type"]}),
    }
    return _templates().get_template("index.html").render(neurons=neurons, modules=modules, title=title, **seen)


def page_name(layer: int, neuron: int) -> str:
    """The name of a neuron's files.

    >>> page_name(3, 17)
    'L3_N17'
    """
    return f"L{layer}_N{neuron}"


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader(__package__, "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_seen,
    )  # fmt: skip
    found.filters |= {
        "number": number, "percent": percent, "quoted": quoted_token, "visible": visible, "shown": _shown,
        "signed": _signed_number, "compact": lambda value: json.dumps(value, ensure_ascii=True),
    }  # fmt: skip
    found.globals |= {"page_name": page_name, "strongest": _strongest}
    return found


def _seen(value: object) -> object:
    """Whatever a page prints: nothing in it is invisible or turns the text around."""
    return visible(value) if type(value) is str else value  # Markup is a str of its own kind, made by us


def _shown(token: object) -> str:
    """A token inside a text: line ends and tabs as signs, nothing invisible."""
    return visible(str(token).translate(_SPACES))


def _signed_number(value: float | None) -> str:
    return "" if value is None else f"{value:+.3g}"


def _strongest(values: list[float | None] | None) -> float:
    return max((abs(value) for value in values or [] if value is not None), default=0.0) or 1.0


def _numeric(path: str) -> tuple[int, str]:
    return (int(path), "") if path.isdigit() else (1 << 62, path)
