"""`atlas label output | input | clusters`: ask an LLM for labels, one request a neuron or module, none paid twice."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.label_options import REQUESTS, choose_progress, options, read_layers, read_sending, read_setting
from atlas.cli.options import find_atlas
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.build.label_batches import BatchFile
    from atlas.build.labelling import Choice, Estimate, Labelled, Sending
    from atlas.derive.labelling.request import Setting

_NEURONS = (
    click.option("--layers", metavar="A:B", help="Only layers A to B, both included."),
    click.option("--everyone", is_flag=True, help="Also neurons about which a rule leaves nothing to ask."),
)

_MODULES = (
    click.option("--levels", "layers", metavar="A:B", help="Only levels A to B, both included; 1 = top."),
    click.option("--min-size", type=click.IntRange(1), default=2, show_default=True, help="Neurons of a module."),
)


@click.command(epilog="Example: atlas label output data/demo.duckdb --model gpt-5-mini --max-usd 20 --prices p.toml")
@options(REQUESTS, _NEURONS)
def output(given: dict[str, Any]) -> None:
    """Label what the neurons of ATLAS do when they fire, from the last layer to the first.

    Prompts show the tokens a neuron promotes and suppresses, and its strongest edges with the output labels of their
    targets. Answers are kept in ATLAS.labels as they come: the same command goes on after a kill, and sends nothing
    that was answered. The atlas is written once, at the end or on Ctrl-C.
    """
    _run("output", given)


@click.command("input", epilog="Example: atlas label input data/demo.duckdb --layers 0:5 --sample 200 --dry-run")
@options(REQUESTS, _NEURONS)
def input_(given: dict[str, Any]) -> None:
    """Label what makes the neurons of ATLAS fire, from the first layer to the last.

    Prompts show texts and tokens of both signs, the strongest incoming edges with their sources' labels, and what an
    imported autointerp run said. Of the documents only one half is shown; the other is kept for scores. Everything else
    is as in atlas label output.
    """
    _run("input", given)


@click.command(epilog="Example: atlas label clusters data/demo.duckdb --min-size 5 --dry-run")
@options(REQUESTS, _MODULES)
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
    setting, sending, choice = read_setting(given), read_sending(given), _choice(given)
    asked: dict[str, Any] = {
        "setting": setting,
        "sending": sending,
        "choice": choice,
        "progress": choose_progress(given),
    }
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
            file, which, given["write_batch"], asked=asked, at_once=given["at_once"], progress=choose_progress(given)
        )
        waves = ", ".join(map(str, made.waves)) or "none"
        text = f"{made.requests:,} requests in {made.file} (waves: {waves}); {made.left} waves come after"
        _show(given, made, text if made.requests else "every request is answered; nothing is written")
        return
    taken, found = read_batch(file, which, given["read_batch"], asked=asked, progress=choose_progress(given))
    statuses = ", ".join(f"{count:,} {status}" for status, count in taken.statuses.items()) or "none"
    text = f"answers taken: {statuses}; {taken.already:,} known before, {taken.unknown:,} of other requests, "
    _show(given, found, f"{text}{taken.damaged:,} damaged lines\n{_told(found)}")


def _choice(given: dict[str, Any]) -> Choice:
    from atlas.build.labelling import Choice

    waves, everyone = read_layers(given["layers"]), bool(given.get("everyone"))
    return Choice(waves, given["sample"], given["seed"], everyone, given.get("min_size", 2))


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
