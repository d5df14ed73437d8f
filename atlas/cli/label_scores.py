"""`atlas label score`: tests of a sample of labels on documents that they were not made from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.label_options import (
    REQUESTS,
    choose_progress,
    find_prices,
    options,
    read_layers,
    read_sending,
    read_setting,
)
from atlas.cli.options import find_atlas

if TYPE_CHECKING:
    from atlas.build.label_scores import MethodScore, Scored, Scoring
    from atlas.derive.labelling.scoring import Drawing

_METHODS = ("detection", "fuzzing", "embedding", "output")
_SAMPLE = 500
_TESTS = (
    click.option("--method", "methods", multiple=True, type=click.Choice(_METHODS),
                 help="Repeat for several. [embedding, output]"),
    click.option("--source", metavar="NAME", help="Only labels of this source: llm, rule, import:FILE ..."),
    click.option("--layers", metavar="A:B", help="Only layers A to B, both included."),
    click.option("--texts", type=click.IntRange(3, 50), default=10, show_default=True, help="Of each kind a label."),
    click.option("--embedder", metavar="NAME", help="Model of texts. [all-MiniLM-L6-v2]"),
)  # fmt: skip


@click.command(epilog="Example: atlas label score data/demo.duckdb --sample 500 --source rule")
@options(REQUESTS, _TESTS)
def score(given: dict[str, Any]) -> None:
    """Test a sample of the labels of ATLAS (500 without --sample) on texts that they were not made from.

    detection and fuzzing ask an LLM which texts fire the neuron, and where. embedding (texts) and output (promoted
    tokens) ask a local model of texts how like they are to the label. 0.5 is chance, 1 perfect; the baseline is the
    score with labels of other neurons of the layer. Scores go to table label_scores, and that of the first method to
    labels.score.
    """
    from atlas.build.label_scores import estimate_scores, score_labels

    file, testing, drawing = find_atlas(given["file"]), _testing(given), _drawing(given)
    if given["dry_run"]:
        click.echo(_forecast(given, estimate_scores(file, testing, drawing=drawing)))
        return
    made = score_labels(file, testing, drawing=drawing, progress=choose_progress(given))
    click.echo(json.dumps(asdict(made), indent=2) if given["form"] == "json" else _told(made))
    if made.stopped == "interrupted":
        raise KeyboardInterrupt


def _testing(given: dict[str, Any]) -> Scoring:
    from atlas.build.label_scores import Scoring
    from atlas.models.text_embedder import DEFAULT

    methods = given["methods"] or ("embedding", "output")
    asks = {"detection", "fuzzing"} & set(methods)
    setting, sending = (read_setting(given), read_sending(given)) if asks else (None, None)
    return Scoring(tuple(dict.fromkeys(methods)), setting, sending, given["embedder"] or DEFAULT)


def _drawing(given: dict[str, Any]) -> Drawing:
    from atlas.derive.labelling.scoring import Drawing

    return Drawing(
        given["sample"] or _SAMPLE, given["seed"], given["source"], read_layers(given["layers"]), given["texts"]
    )


def _forecast(given: dict[str, Any], found: dict[str, tuple[int, int]]) -> str:
    from atlas.derive.labelling.budget import ANSWER_TOKENS

    prices = find_prices(given)
    if given["form"] == "json":
        return json.dumps({name: {"requests": n, "tokens_in": tokens} for name, (n, tokens) in found.items()}, indent=2)
    lines = []
    for name, (n, tokens) in found.items():
        cost = "" if prices is None else f", about ${prices.cost(tokens, n * ANSWER_TOKENS):,.2f}"
        lines.append(f"{name}: {n:,} requests, about {tokens:,} tokens to read{cost}")
    return "\n".join(lines) or "no method that asks an LLM: nothing would be sent"


def _told(made: Scored) -> str:
    lines = [_line(one) for one in made.methods]
    if made.sent:
        cost = "" if made.usd is None else f", ${made.usd:,.2f}"
        lines.append(
            f"{made.sent:,} requests sent, {made.tokens_in:,} tokens read and {made.tokens_out:,} written{cost}"
        )
    if made.stopped:
        lines.append(f"ended early: {made.stopped}; the same command goes on")
    lines += made.notes
    return "\n".join(lines)


def _line(one: MethodScore) -> str:
    if one.mean is None:
        return f"{one.method}: none of {one.drawn:,} labels could be tested (too few texts or tokens, or no answer)"
    baseline = "no baseline" if one.baseline is None else f"baseline {one.baseline:.3f}"
    share = f"{one.tested:,} of {one.drawn:,} labels, by {one.model}"
    return f"{one.method}: {one.mean:.3f} (95% interval {one.low:.3f} to {one.high:.3f}, {baseline}) over {share}"
