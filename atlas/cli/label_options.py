"""What label commands that ask an LLM have in common: their options -> model, endpoint, prices, layers of a run.

A command gets all of its options as one dict, `given`: there are thirty of them, and most go on as they came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.build.labelling import Sending
    from atlas.derive.labelling.budget import Prices
    from atlas.derive.labelling.request import Setting
    from atlas.progress import Progress

_PATH = click.Path(path_type=Path)
_LAYERS = re.compile(r"(\d+)(?::(\d+))?")
_STATUSES = ("parse_error", "refused", "truncated", "api_error")
REQUESTS = (
    click.argument("file", type=_PATH, metavar="[ATLAS]", required=False),
    click.option("--base-url", envvar="OPENAI_BASE_URL", metavar="URL", help="Endpoint. [$OPENAI_BASE_URL]"),
    click.option("--api-key", envvar="OPENAI_API_KEY", metavar="KEY", help="Its key. [$OPENAI_API_KEY]"),
    click.option("--model", envvar="ATLAS_LABEL_MODEL", metavar="NAME", help="Its model. [$ATLAS_LABEL_MODEL]"),
    click.option("--max-tokens", type=click.IntRange(1), default=500, show_default=True, help="Longest answer."),
    click.option("--parameter", "parameters", multiple=True, metavar="NAME=JSON",
                 help="Any other of the request; null leaves one out. [temperature=0]"),
    click.option("--answers", "mode", type=click.Choice(["json_schema", "json_object", "text"]), default="json_schema",
                 show_default=True, help="How the server is told the form of an answer."),
    click.option("--concurrency", type=click.IntRange(1, 1000), default=16, show_default=True, help="In flight."),
    click.option("--timeout", type=click.FloatRange(0, min_open=True), default=120, show_default=True,
                 help="Seconds of one try."),
    click.option("--tries", type=click.IntRange(1), default=6, show_default=True, help="After 429, 5xx, timeouts."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of --sample."),
    click.option("--sample", type=click.IntRange(1), metavar="N", help="Only so many, drawn at random."),
    click.option("--retry", multiple=True, type=click.Choice(_STATUSES), help="Ask these failures again."),
    click.option("--refresh", is_flag=True, help="Ask again where other neurons have other labels now."),
    click.option("--price-in", type=click.FloatRange(0), metavar="USD", help="Per million tokens that it reads."),
    click.option("--price-out", type=click.FloatRange(0), metavar="USD", help="Per million tokens that it writes."),
    click.option("--prices", type=_PATH, metavar="FILE", help='TOML with ["MODEL"] tables: in, out.'),
    click.option("--max-usd", type=click.FloatRange(0), metavar="USD", help="Most that this run may cost."),
    click.option("--max-requests", type=click.IntRange(0), metavar="N", help="Most that this run may send."),
    click.option("--write-batch", type=_PATH, metavar="FILE", help="Write the next requests for a batch API instead."),
    click.option("--at-once", is_flag=True, help="With --write-batch: all layers now, with the labels known today."),
    click.option("--read-batch", type=_PATH, metavar="FILE", help="Take the answers of a batch in."),
    click.option("--dry-run", is_flag=True, help="Only count requests, tokens and cost; send nothing."),
    click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True),
    click.option("--quiet", "-q", is_flag=True, help="No progress."),
)  # fmt: skip


def options(*groups: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    """Decorate a command with groups of options; it is called with all of them as one dict."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            command(given)

        made: Callable[..., None] = called
        for option in reversed([one for group in groups for one in group]):
            made = option(made)
        return made

    return add


def read_layers(text: str | None) -> tuple[int, int] | None:
    """Read "3" or "0:5", both included; None for all."""
    if text is None:
        return None
    found = _LAYERS.fullmatch(text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise InputError(f"cannot read layers from {text!r}; give one layer or two, the lower first: --layers 0:5")
    return int(found[1]), int(found[2] or found[1])


def read_setting(given: dict[str, Any]) -> Setting:
    """Which model is asked, with which parameters; InputError when none is named."""
    from atlas.derive.labelling.request import Setting

    if not given["model"]:
        raise InputError("no model is named; give --model or set ATLAS_LABEL_MODEL")
    parameters: dict[str, object] = {"temperature": 0.0, "max_tokens": given["max_tokens"]}
    for text in given["parameters"]:
        name, sign, value = text.partition("=")
        try:
            parameters[name] = json.loads(value)
        except ValueError as error:
            raise InputError(f"--parameter {text!r}: expected NAME=JSON, for example top_p=0.9") from error
        if not sign or name in ("model", "messages", "response_format", "stream", "n"):
            raise InputError(f"--parameter {name} cannot be given; use --model and --answers, or another name")
    return Setting(given["model"], parameters, given["mode"])


def read_sending(given: dict[str, Any]) -> Sending:
    """Where requests go, what they may cost, which are sent again; InputError without an endpoint to ask."""
    from atlas.build.labelling import Sending
    from atlas.derive.labelling.budget import Caps
    from atlas.derive.labelling.client import Endpoint

    endpoint = None
    if not (given["dry_run"] or given["write_batch"] or given["read_batch"]):
        if not given["base_url"] and not given["api_key"]:
            raise InputError(
                "no endpoint: give --base-url and --api-key, or set OPENAI_BASE_URL and OPENAI_API_KEY (a local server "
                "takes any key)"
            )
        url = given["base_url"] or "https://api.openai.com/v1"
        endpoint = Endpoint(url, given["api_key"] or "none", given["timeout"], given["tries"])
    caps = Caps(given["max_usd"], given["max_requests"])
    return Sending(
        endpoint, find_prices(given), caps, given["concurrency"], frozenset(given["retry"]), given["refresh"]
    )


def find_prices(given: dict[str, Any]) -> Prices | None:
    """Prices of the model, from the options or a file; None when they are not given and nothing needs them."""
    from atlas.derive.labelling.budget import Prices, read_prices

    both = given["price_in"], given["price_out"]
    if given["prices"] is not None:
        if both != (None, None):
            raise InputError("prices are given twice, in --prices and as --price-in and --price-out; leave one out")
        return read_prices(given["prices"], given["model"])
    if both == (None, None):
        if given["max_usd"] is not None:
            raise InputError("--max-usd needs prices: give --price-in and --price-out, or --prices FILE")
        return None
    if None in both:
        raise InputError("--price-in and --price-out belong together; give both")
    return Prices(*both)


def choose_progress(given: dict[str, Any]) -> Progress:
    """Lines on stderr, or nothing with --quiet."""
    from atlas.progress import Lines, Quiet

    return Quiet() if given["quiet"] else Lines()
