"""Options of commands that measure on held-out text -> the text, and how sets of neurons are judged on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.build.impacts import HeldOutText

_TEXT = ("texts", "corpus", "documents", "skip_documents", "context_length", "max_tokens", "skip_calibration", "fresh")
_JUDGING = ("zero", "budget", "seed", "again")


_TEXT_OPTIONS = (
    click.option("--text", "texts", multiple=True, help="A text to measure on; repeat for several."),
    click.option("--corpus", type=click.Path(path_type=Path), metavar="FILE", help="Documents to measure on."),
    click.option("--documents", type=int, metavar="N", help="So many of the corpus."),
    click.option("--skip-documents", type=int, default=0, metavar="N", help="Leave out the first N of the corpus."),
    click.option("--skip-calibration", is_flag=True, help="Leave out documents that the scores were made on."),
    click.option("--fresh", is_flag=True, help="The text is no calibration text, though the atlas cannot tell."),
    click.option("--context-length", type=int, metavar="N", help="In tokens.  [the model's, at most 512]"),
    click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="So many predicted tokens."),
)


def text_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which text: `HeldOutText` by its fields."""
    for option in reversed(_TEXT_OPTIONS):
        command = option(command)
    return command


def held_out_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the text, the model and the judgement; the command gets text, and measure with the rest."""

    @text_options
    @click.option("--model", metavar="FOLDER", help="Hugging Face folder.  [that of the atlas's recipe]")
    @click.option("--zero", is_flag=True, help="Activations become 0 instead of their calibration mean.")
    @click.option("--budget", type=float, default=0.01, show_default=True, help="Nats per token that may be lost.")
    @click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap over documents.")
    @click.option("--again", is_flag=True, help="Measure also what is stored.")
    @click.option("--no-store", is_flag=True, help="Leave the atlas as it is.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress.")
    @wraps(command)
    def with_text(*arguments: Any, model: str | None, no_store: bool, quiet: bool, **given: Any) -> None:
        from atlas.build.measured_sets import Judging
        from atlas.progress import Lines, Quiet

        text = _text({name: given.pop(name) for name in _TEXT})
        judging = Judging(**{name: given.pop(name) for name in _JUDGING}, store=not no_store)
        shown = Quiet() if quiet else Lines()
        command(*arguments, text, {"model": model, "judging": judging, "progress": shown}, **given)

    return with_text


def _text(given: dict[str, Any]) -> HeldOutText:
    from atlas.build.impacts import HeldOutText

    return HeldOutText(**given)
