"""Trials -> fuzzing quizzes: in which of these texts do the marked tokens fire the neuron that the label describes?

All texts fire the neuron; in half of them the tokens that do are marked, in half as many others. So fuzzing tests what
a label says of the place, detection what it says of the text (Paulo et al. 2024, as in detection).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from atlas.derive.labelling.prompts import safe
from atlas.derive.labelling.quiz import Quiz, shuffled
from atlas.derive.labelling.scoring import FEWEST, Text, Trial

_FIRES, _RESTS = 0.5, 0.1  # shares of the text's strongest activation: marked from the first, unmarked below the second


def fuzzing_quizzes(trials: Iterable[Trial], *, seed: int) -> Iterator[Quiz]:
    """Texts with marks, an equal number of each kind; trials with fewer than FEWEST of a kind are left out."""
    for trial in trials:
        dice = random.Random(f"{seed} fuzzing {trial.drawn.layer} {trial.drawn.neuron}")
        usable = [text for text in trial.firing if _resting(text, len(_firing(text)))]
        half = len(usable) // 2
        if half >= FEWEST:
            fitting = [_marked(text, _firing(text)) for text in usable[:half]]
            other = [
                _marked(t, frozenset(dice.sample(_resting(t, 1), len(_firing(t))))) for t in usable[half : 2 * half]
            ]
            yield shuffled(trial.drawn, "fuzzing", fitting, other, seed=seed)


def _firing(text: Text) -> frozenset[int]:
    strongest = text.activations[text.place]
    return frozenset(place for place, a in enumerate(text.activations) if a >= _FIRES * strongest)


def _resting(text: Text, least: int) -> list[int]:
    """Places that hardly fire; [] when there are fewer than `least`."""
    strongest = text.activations[text.place]
    places = [
        place
        for place, a in enumerate(text.activations)
        if a < _RESTS * strongest and text.tokens[place].strip() and place != text.place
    ]
    return places if len(places) >= least else []


def _marked(text: Text, places: frozenset[int]) -> str:
    return "".join(f"⟦{safe(t)}⟧" if place in places else safe(t) for place, t in enumerate(text.tokens))
