"""Trials -> detection quizzes: which of these texts fire the neuron that the label describes?

Detection scoring: Paulo et al. 2024, "Automatically interpreting millions of features in large language models".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from atlas.derive.labelling.prompts import safe
from atlas.derive.labelling.quiz import Quiz, shuffled
from atlas.derive.labelling.scoring import Text, Trial


def detection_quizzes(trials: Iterable[Trial], *, seed: int) -> Iterator[Quiz]:
    """Plain texts; those that fire the neuron fit."""
    for trial in trials:
        firing, silent = map(_shown, trial.firing), map(_shown, trial.silent)
        yield shuffled(trial.drawn, "detection", firing, silent, seed=seed)


def _shown(text: Text) -> str:
    return safe(text.plain)
