"""Trials and a model of texts -> embedding scores: are the texts that fire a neuron more like its label than others?

The score is the AUC of the cosine of label and text; no LLM is asked, so thousands of labels cost minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from atlas.derive.labelling.intervals import auc, auc_interval
from atlas.derive.labelling.scoring import Drawn, Score, Trial
from atlas.models.text_embedder import TextEmbedder

if TYPE_CHECKING:
    import numpy.typing as npt

_AT_ONCE = 64  # trials whose texts are embedded together: about 2,000 texts


def embedding_scores(trials: Iterable[Trial], embedder: TextEmbedder, *, seed: int) -> Iterator[Score]:
    """One score a trial, in order; the baseline is the mean AUC of the other labels."""
    judged = (
        (t.drawn, [text.plain.strip() for text in t.firing], [text.plain.strip() for text in t.silent]) for t in trials
    )
    return likeness_scores(judged, "embedding", embedder, seed=seed)


def likeness_scores(
    judged: Iterable[tuple[Drawn, Sequence[str], Sequence[str]]], method: str, embedder: TextEmbedder, *, seed: int
) -> Iterator[Score]:
    """Labels with texts that should be like them and texts that should not -> scores."""
    rest = iter(judged)
    while some := list(islice(rest, _AT_ONCE)):
        vectors = _vectors(some, embedder)
        for drawn, inside, outside in some:
            yield _score((drawn, inside, outside), method, vectors, embedder.name, seed)


def _score(
    judged: tuple[Drawn, Sequence[str], Sequence[str]],
    method: str,
    vectors: dict[str, npt.NDArray[Any]],
    model: str,
    seed: int,
) -> Score:
    import numpy as np

    drawn, inside, outside = judged
    near, far = (np.stack([vectors[text] for text in texts]) for texts in (inside, outside))
    own = vectors[drawn.label]
    low, high = auc_interval(near @ own, far @ own, seed=seed)
    others = [auc(near @ vectors[other], far @ vectors[other]) for other in drawn.others]
    baseline = sum(others) / len(others) if others else None
    return Score(drawn, method, auc(near @ own, far @ own), low, high, baseline, len(inside) + len(outside), model)


def _vectors(
    judged: Iterable[tuple[Drawn, Sequence[str], Sequence[str]]], embedder: TextEmbedder
) -> dict[str, npt.NDArray[Any]]:
    """Each distinct text once."""
    texts = list(
        dict.fromkeys(
            text for drawn, *sides in judged for text in (drawn.label, *drawn.others, *(t for s in sides for t in s))
        )
    )
    return dict(zip(texts, embedder.embed(texts), strict=True))
