"""A label and numbered texts -> one question to an LLM, and its answer -> the share judged rightly.

Detection and fuzzing differ only in what the texts show and which of them fit; both ask for the numbers that fit. Each
label is asked twice: about its own neuron's texts as it is, and with the label of another neuron in its place, which
gives the baseline.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from atlas.derive.labelling.answers import Form
from atlas.derive.labelling.intervals import wilson
from atlas.derive.labelling.prompts import safe, template
from atlas.derive.labelling.request import OK, Request, Setting, make_request
from atlas.derive.labelling.scoring import Drawn, Score


@dataclass(frozen=True, kw_only=True)
class FittingAnswer:
    """Which texts a label fits."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    fitting: list[int] = field(metadata={"told": "the numbers of the texts that fit, [] for none"})


FITTING = Form("fitting_texts", FittingAnswer)


@dataclass(frozen=True)
class Quiz:
    """Shuffled texts of one label, as shown, and the numbers (from 1) of those that fit."""

    drawn: Drawn
    method: str  # also the name of the template
    texts: tuple[str, ...]
    right: frozenset[int]


@dataclass(frozen=True)
class Asked:
    """One question: of the label itself, or of another neuron's label."""

    quiz: Quiz
    own: bool
    request: Request


def shuffled(drawn: Drawn, method: str, fitting: Iterable[str], other: Iterable[str], *, seed: int) -> Quiz:
    """Put texts in an order that the label, the method and the seed decide."""
    texts = [(text, True) for text in fitting] + [(text, False) for text in other]
    random.Random(f"{seed} {method} {drawn.layer} {drawn.neuron} {drawn.label}").shuffle(texts)
    right = frozenset(number for number, (_, fits) in enumerate(texts, start=1) if fits)
    return Quiz(drawn, method, tuple(text for text, _ in texts), right)


def questions(quizzes: Iterable[Quiz], setting: Setting) -> Iterator[Asked]:
    """Ask each quiz with the label and, where the layer has another label, with that one."""
    for quiz in quizzes:
        for own, label in ((True, quiz.drawn.label), *((False, other) for other in quiz.drawn.others[:1])):
            yield Asked(quiz, own, _request(quiz, label, setting))


def scores(answered: Iterable[tuple[Asked, Mapping[str, Any]]], *, model: str) -> list[Score]:
    """Questions with the ledger's rows -> scores; labels whose own question was not answered have none."""
    shares: dict[tuple[int, str], dict[bool, tuple[Quiz, int]]] = {}
    for asked, row in answered:
        if row["status"] == OK:
            found = shares.setdefault((asked.quiz.drawn.id, asked.quiz.method), {})
            found[asked.own] = asked.quiz, _rightly(asked.quiz, row["answer"]["fitting"])
    return [_score(both, model) for _, both in sorted(shares.items()) if True in both]


def _request(quiz: Quiz, label: str, setting: Setting) -> Request:
    form = template(quiz.method)
    numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(quiz.texts, start=1))
    values = {"label": safe(label, most=400), "texts": numbered, "fields": FITTING.described()}
    subject = f"L{quiz.drawn.layer}/N{quiz.drawn.neuron}"
    return make_request(subject, form.render(values), FITTING, setting, prompt=form.stamp)


def _rightly(quiz: Quiz, fitting: list[int]) -> int:
    """How many texts are judged rightly; numbers that no text has are passed over."""
    said = set(fitting)
    return sum((number in said) == (number in quiz.right) for number in range(1, len(quiz.texts) + 1))


def _score(both: Mapping[bool, tuple[Quiz, int]], model: str) -> Score:
    quiz, right = both[True]
    n = len(quiz.texts)
    baseline = both[False][1] / n if False in both else None
    return Score(quiz.drawn, quiz.method, right / n, *wilson(right, n), baseline, n, model)
