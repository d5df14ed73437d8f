"""`atlas label output | input | clusters`: ask an LLM for labels, one request a neuron or module, none paid twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import find_atlas
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.build.label_batches import BatchFile
    from atlas.build.labelling import Choice, Estimate, Labelled, Sending
    from atlas.derive.labelling.budget import Prices
    from atlas.derive.labelling.request import Setting

_PATH = click.Path(path_type=Path)
_LAYERS = re.compile(r"(\d+)(?::(\d+))?")
_STATUSES = ("parse_error", "refused", "truncated", "api_error")
_OPTIONS = (
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
_NEURONS = (
    click.option("--layers", metavar="A:B", help="Only layers A to B, both included."),
    click.option("--everyone", is_flag=True, help="Also neurons about which a rule leaves nothing to ask."),
)

_MODULES = (
    click.option("--levels", "layers", metavar="A:B", help="Only levels A to B, both included; 1 = top."),
    click.option("--min-size", type=click.IntRange(1), default=2, show_default=True, help="Neurons of a module."),
)


def _options(*groups: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    def add(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            command(given)

        made: Callable[..., None] = called
        for option in reversed([one for group in groups for one in group]):
            made = option(made)
        return made

    return add


@click.command(epilog="Example: atlas label output data/demo.duckdb --model gpt-5-mini --max-usd 20 --prices p.toml")
@_options(_OPTIONS, _NEURONS)
def output(given: dict[str, Any]) -> None:
    """Label what the neurons of ATLAS do when they fire, from the last layer to the first.

    Prompts show the tokens a neuron promotes and suppresses, and its strongest edges with the output labels of their
    targets. Answers are kept in ATLAS.labels as they come: the same command goes on after a kill, and sends nothing
    that was answered. The atlas is written once, at the end or on Ctrl-C.
    """
    _run("output", given)


@click.command("input", epilog="Example: atlas label input data/demo.duckdb --layers 0:5 --sample 200 --dry-run")
@_options(_OPTIONS, _NEURONS)
def input_(given: dict[str, Any]) -> None:
    """Label what makes the neurons of ATLAS fire, from the first layer to the last.

    Prompts show texts and tokens of both signs, the strongest incoming edges with their sources' labels, and what an
    imported autointerp run said. Of the documents only one half is shown; the other is kept for scores. Everything else
    is as in atlas label output.
    """
    _run("input", given)


@click.command(epilog="Example: atlas label clusters data/demo.duckdb --min-size 5 --dry-run")
@_options(_OPTIONS, _MODULES)
def clusters(given: dict[str, Any]) -> None:
    """Name the modules of ATLAS from the labels of their members, from the deepest level to the top.

    The names go into clusters.label and, with their source, into cluster_labels. Modules that "atlas cluster" finds
    anew have their members' words again: the same command names them, and pays only for modules that changed.
    Everything else is as in atlas label output.
    """
    _run("clusters", given)


def _run(which: str, given: dict[str, Any]) -> None:
    from atlas.build.labelling import estimate_run, label_atlas

    file = find_atlas(given["file"])
    setting, sending, choice = _setting(given), _sending(given), _choice(given)
    asked: dict[str, Any] = {"setting": setting, "sending": sending, "choice": choice, "progress": _progress(given)}
    if given["write_batch"] or given["read_batch"]:
        _batch(which, file, given, (setting, sending, choice))
        return
    if given["dry_run"]:
        _show(given, found := estimate_run(file, which, **asked), _forecast(found))
        return
    made = label_atlas(file, which, **asked)
    _show(given, made, _told(made))
    if made.stopped == "interrupted":
        raise KeyboardInterrupt


def _batch(which: str, file: Path, given: dict[str, Any], asked: tuple[Setting, Sending, Choice]) -> None:
    from atlas.build.label_batches import read_batch, write_batch

    if given["write_batch"] and given["read_batch"]:
        raise InputError("--write-batch and --read-batch at once; give one")
    if given["write_batch"]:
        made = write_batch(
            file, which, given["write_batch"], asked=asked, at_once=given["at_once"], progress=_progress(given)
        )
        waves = ", ".join(map(str, made.waves)) or "none"
        text = f"{made.requests:,} requests in {made.file} (waves: {waves}); {made.left} waves come after"
        _show(given, made, text if made.requests else "every request is answered; nothing is written")
        return
    taken, found = read_batch(file, which, given["read_batch"], asked=asked, progress=_progress(given))
    statuses = ", ".join(f"{count:,} {status}" for status, count in taken.statuses.items()) or "none"
    text = f"answers taken: {statuses}; {taken.already:,} known before, {taken.unknown:,} of other requests, "
    _show(given, found, f"{text}{taken.damaged:,} damaged lines\n{_told(found)}")


def _choice(given: dict[str, Any]) -> Choice:
    from atlas.build.labelling import Choice

    waves, everyone = _layers(given["layers"]), bool(given.get("everyone"))
    return Choice(waves, given["sample"], given["seed"], everyone, given.get("min_size", 2))


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = _LAYERS.fullmatch(text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise InputError(f"cannot read layers from {text!r}; give one layer or two, the lower first: --layers 0:5")
    return int(found[1]), int(found[2] or found[1])


def _setting(given: dict[str, Any]) -> Setting:
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


def _sending(given: dict[str, Any]) -> Sending:
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
    return Sending(endpoint, _prices(given), caps, given["concurrency"], frozenset(given["retry"]), given["refresh"])


def _prices(given: dict[str, Any]) -> Prices | None:
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


def _progress(given: dict[str, Any]) -> Any:
    from atlas.progress import Lines, Quiet

    return Quiet() if given["quiet"] else Lines()


def _show(given: dict[str, Any], found: Estimate | Labelled | BatchFile, text: str) -> None:
    click.echo(json.dumps(asdict(found), indent=2) if given["form"] == "json" else text)


def _forecast(found: Estimate) -> str:
    cost = "" if found.usd is None else f", about ${found.usd:,.2f}"
    lines = [
        f"{found.requests:,} requests for {found.chosen:,} {found.unit}: about {found.tokens_in:,} tokens to read "
        f"(4 bytes each) and {found.tokens_out:,} to write{cost}",
        f"{found.answered:,} are answered already",
        *(f"{count:,} are not asked: {why}" for why, count in sorted(found.unasked.items())),
    ]
    return "\n".join(lines)


def _told(found: Labelled) -> str:
    cost = "" if found.usd is None else f", ${found.usd:,.2f}"
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(found.statuses.items())) or "none"
    lines = [
        f"{found.sent:,} requests sent, {found.tokens_in:,} tokens read and {found.tokens_out:,} written{cost}",
        f"answers: {statuses}; {found.written:,} rows of labels are new in the atlas",
        *(f"{count:,} {found.unit} are not asked: {why}" for why, count in sorted(found.unasked.items())),
    ]
    if found.stopped:
        lines.append(f"ended early: {found.stopped}; the same command goes on")
    return "\n".join(lines)
