"""Token trials and a model of texts -> output scores: are promoted tokens more like a neuron's label than others are?

The tokens are those of the logit lens, without the ones that the label lists (see read_token_trials): the score says
whether the label tells what it does not spell out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from atlas.derive.labelling.embedding_score import likeness_scores
from atlas.derive.labelling.scoring import Score, TokenTrial
from atlas.models.text_embedder import TextEmbedder


def output_scores(trials: Iterable[TokenTrial], embedder: TextEmbedder, *, seed: int) -> Iterator[Score]:
    """One score a trial, in order: the AUC of the cosine of label and token."""
    return likeness_scores(((t.drawn, t.promoted, t.others) for t in trials), "output", embedder, seed=seed)
