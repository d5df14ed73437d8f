"""`atlas search`: neurons by their labels, one query or one a line from stdin; matches stand out on a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from atlas.cli.options import View, view_options
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.query.answer import Answer
    from atlas.query.atlas import Atlas
    from atlas.query.search import Where

_USUAL = 20
_MODES = ("words", "fuzzy", "substring", "regex", "semantic", "hybrid")
_NO_MATCH = {
    "words": "try a trailing * for prefixes (dr*), --mode fuzzy for typos, --mode substring for parts of words, "
    "--mode regex for patterns, or fewer filters",
    "fuzzy": "try --mode substring for parts of words, or fewer filters",
    "substring": "try a shorter text (case is ignored) or fewer filters",
    "regex": "try a shorter expression (case is ignored) or fewer filters",
}
_LABELLED = "FROM neurons WHERE coalesce(label, description, input_label, output_label) IS NOT NULL LIMIT 1"
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class _Question:
    """What the command line asks."""

    words: tuple[str, ...]
    mode: str
    field: str
    like: str | None
    parts: bool
    where: Where
    limit: int | None

    @property
    def query(self) -> str:
        return " ".join(self.words)


@click.command(
    epilog="Example: atlas search 'aspirin drug*' --layer 10:20; atlas search - --format jsonl < queries.txt"
)
@click.argument("words", nargs=-1)
@click.option("--mode", type=click.Choice(_MODES), default="words", show_default=True, help="How to match.")
@click.option("--field", default="all", show_default=True, help="label, description, input_label, output_label or all.")
@click.option("--layer", "--layers", "layers", metavar="A:B", help="Only these layers, both included.")
@click.option("--cluster", metavar="PATH", help="Only this module.")
@click.option("--type", "kind", help="Only neurons with a label of this type.")
@click.option("--source", help="Only neurons with a label from this source (llm, rule, manual ...).")
@click.option("--interpretability", help="Only neurons with a label of this interpretability (high ...).")
@click.option("--min-score", default=0.0, metavar="SCORE", help="Only answers with at least this score.")
@click.option("--like", metavar="NEURON", help="Neurons whose labels mean what this one's do, in place of WORDS.")
@click.option("--page", type=click.IntRange(1), default=1, help="Of --limit rows each, from 1.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Rows to leave out first.")
@click.option("--explain", "parts", is_flag=True, help="Show the score parts of each word instead.")
@view_options
def search(view: View, words: tuple[str, ...], mode: str, field: str, parts: bool, **given: object) -> None:
    """Neurons by the words of their labels, best first.

    Any of WORDS may match, each with its inflections; dr* finds words that begin so, '"past tense"' in quotes these
    words as they stand. - reads queries from stdin, one a line, and answers all of them in one pass.
    """
    question = _question(view, words, mode, field, parts, given)
    with view.open() as a:
        found = _ask(a, question)
        _show(found, view, question)
        if not len(found):
            click.echo(f"note: {_nothing(a, question)}", err=True)


def _question(  # noqa: PLR0917
    view: View, words: tuple[str, ...], mode: str, field: str, parts: bool, given: dict[str, object]
) -> _Question:
    from atlas.query.search import Where, read_layers

    like = given["like"]
    if bool(words) == bool(like):
        raise InputError("give WORDS to search for, or --like NEURON, and not both")
    limit = view.limit(_USUAL)
    skip = int(str(given["offset"])) + (int(str(given["page"])) - 1) * (limit or 0)
    texts = {name: given[name] for name in ("cluster", "source", "interpretability")}
    where = Where(read_layers(given["layers"]), type=given["kind"], min_score=given["min_score"], skip=skip, **texts)  # type: ignore[arg-type]
    return _Question(words, mode, field, str(like) if like else None, parts, where, limit)


def _ask(a: Atlas, asked: _Question) -> Answer:
    from atlas.query.search import explain, search_many

    if asked.like:
        from atlas.query.semantic import like

        return like(a, asked.like, field=asked.field, where=asked.where, limit=asked.limit)
    options = {"mode": asked.mode, "field": asked.field}
    if asked.words == ("-",):
        queries = [line.strip() for line in sys.stdin if line.strip()]
        return search_many(a, queries, **options, where=asked.where, limit=asked.limit)
    found = a.search(asked.query, **options, where=asked.where, limit=asked.limit)
    if asked.parts:
        ids = [row["feature_id"] for row in found.rows()]
        return explain(a, asked.query, **options, documents=ids)
    return found


def _show(found: Answer, view: View, asked: _Question) -> None:
    from atlas.cli.render import notes, text_table

    on_terminal = view.format == "table" and view.output is None and sys.stdout.isatty()
    mark = _marker(asked) if on_terminal else None
    if mark is None:
        view.show(found)
        return
    head, *lines = text_table(found.rows(), [c for c in found.headline if c in found.columns]).splitlines()
    click.secho(head, bold=True)
    for line in lines:
        click.echo(mark(line))
    notes(found)


def _marker(asked: _Question) -> Callable[[str], str] | None:
    """What makes the matches in a line stand out; None where words are not what was matched."""
    if asked.like or asked.parts or asked.mode in ("semantic", "hybrid"):
        return None
    if asked.mode in ("words", "fuzzy"):
        is_hit = _word_test(asked)
        return lambda line: _WORD.sub(lambda match: _bright(match) if is_hit(match[0].lower()) else match[0], line)
    try:
        pattern = re.compile(re.escape(asked.query) if asked.mode == "substring" else asked.query, re.IGNORECASE)
    except re.error:  # RE2 has what Python has not
        return None
    return lambda line: pattern.sub(lambda match: _bright(match) if match[0] else "", line)


def _word_test(asked: _Question) -> Callable[[str], bool]:
    """Whether a word of an answer is one of the query's: its inflections, dr*, and in mode fuzzy what begins alike."""
    from snowballstemmer import stemmer

    stem, words = stemmer("english").stemWord, _WORD.findall(asked.query.lower())
    stems = {stem(word) for word in words}
    starts = tuple(re.findall(r"([^\W_]+)\*", asked.query.lower()))
    if asked.mode == "fuzzy":
        starts += tuple(word if len(word) < 6 else word[:-3] for word in words)
    return lambda word: stem(word) in stems or word.startswith(starts)


def _bright(match: re.Match[str]) -> str:
    return click.style(match[0], bold=True, fg="yellow")


def _nothing(a: Atlas, asked: _Question) -> str:
    if not a.free(_LABELLED, {}).rows():
        return f"no neuron of {a.name} has a label; [labels] files of a recipe put them in"
    if asked.where.skip:
        return f"no rows after the first {asked.where.skip:,}"
    return f"no label matches; {_NO_MATCH.get(asked.mode, 'try other words or fewer filters')}"
