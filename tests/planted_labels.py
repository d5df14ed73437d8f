"""A hand-made atlas for tests of scores: neuron i of layer 0 fires on the four words of topic i and on nothing else.

160 documents hold one topic word each among fillers; which half of them may be used for scores is the hash's choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic import Row, random_tables, write_atlas

TOPICS, LAYERS, D_MLP = 8, 5, 40
FILLERS = range(40, 50)
POSITION = 4


def topic_words(topic: int) -> list[str]:
    return [f"w{4 * topic + k}" for k in range(4)]


def document_topic(document: int) -> int:
    return document % TOPICS


def tokens_of(document: int) -> list[int]:
    fillers = [FILLERS[(document * 3 + place) % len(FILLERS)] for place in range(9)]
    return [*fillers[:POSITION], 4 * document_topic(document) + (document // TOPICS) % 4, *fillers[POSITION + 1 :]]


def planted_tables() -> dict[str, list[Row]]:
    tables = random_tables(1, LAYERS, D_MLP)
    tables["contexts"] = [
        {"context_id": d, "corpus": "made", "document": d, "offset": 0, "token_ids": tokens_of(d)} for d in range(160)
    ]
    tables["exemplars"] = [
        _exemplar(topic, rank, document)
        for topic in range(TOPICS)
        for rank, document in enumerate(d for d in range(160) if document_topic(d) == topic)
    ]
    tables["logit_lens"] = [
        {"layer": 0, "neuron": n, "polarity": 1, "rank": k, "token_id": 4 * n + k, "value": 4.0 - k}
        for n in range(TOPICS) for k in range(4)
    ]  # fmt: skip
    tables["labels"] = [_label(t, "input", f"fires on {', '.join(topic_words(t))}") for t in range(TOPICS)] + [
        _label(t, "output", f"promotes topic{t} words") for t in range(TOPICS)
    ]
    return tables


def write_planted(path: Path) -> Path:
    return write_atlas(path, planted_tables(), layers=LAYERS, d_mlp=D_MLP)


def _exemplar(topic: int, rank: int, document: int) -> Row:
    strength = 5.0 - rank / 10
    window = [0.01] * 9
    window[POSITION] = strength
    return {
        "layer": 0, "neuron": topic, "polarity": 1, "stratum": 0, "rank": rank, "activation": strength,
        "context_id": document, "position": POSITION, "window_start": 0, "window": window,
    }  # fmt: skip


def _label(topic: int, which: str, text: str) -> dict[str, Any]:
    return {
        "layer": 0, "neuron": topic, "pass": which, "polarity": 1 if which == "input" else 0, "label": text,
        "short_label": None, "description": None, "type": None, "interpretability": "high", "confidence": "rule",
        "status": "ok", "source": "rule:tokens", "model": "rule:tokens/4", "prompt_version": "4", "prompt_hash": None,
        "run": "rules", "score": None, "created": None,
    }  # fmt: skip
