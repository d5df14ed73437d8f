"""Damages by document -> impacts: bootstrap limits over documents, the score against a budget, and a verdict.

impact_score = 0.1 * U95 / budget, U95 the upper 95% limit of the mean KL: a score under 0.1 says with 95% confidence
that the damage is under the budget. Documents are drawn with replacement; each weighs by its predicted tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from atlas.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BUDGET = 0.01  # nats per token
ENOUGH_TOKENS = 10_000
SAFE = 0.1
_AT_ONCE = 4_000_000  # float64 values of resampled means held at once: 32 MB


class DamageSums(Protocol):
    """What is read of atlas.measure.ablation.Damages."""

    @property
    def kl(self) -> FloatArray: ...  # noqa: D102
    @property
    def nll(self) -> FloatArray: ...  # noqa: D102
    @property
    def flips(self) -> FloatArray: ...  # noqa: D102
    @property
    def change(self) -> FloatArray: ...  # noqa: D102
    @property
    def tokens(self) -> IntArray: ...  # noqa: D102
    @property
    def max_change(self) -> FloatArray: ...  # noqa: D102
    @property
    def kl_p99(self) -> FloatArray: ...  # noqa: D102


@dataclass(frozen=True)
class Evaluation:
    """What decides which impacts may be compared."""

    model: str
    revision: str
    dtype: str
    corpus: str  # hash of the held-out documents
    tokens: int  # predicted positions
    context_length: int
    ablation: str  # Ablation.name


def eval_id(evaluation: Evaluation) -> str:
    """16 hex digits of a hash of the evaluation; rows of different eval_id are never compared."""
    text = "\x00".join(map(str, astuple(evaluation)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def corpus_hash(sha256: Sequence[str]) -> str:
    """16 hex digits of a hash of the documents' hashes, in any order."""
    return hashlib.sha256("".join(sorted(sha256)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Impact:
    """What ablating one set of neurons does; KL and NLL in nats per predicted token.

    _low and _high are each a one-sided 95% limit (5th and 95th percentile of the resampled means); None with one
    document, and then impact_score is None too. `budget` is what the set is judged by. `safe_to_prune` is None where
    `reason` says why there is no verdict.
    """

    neurons: tuple[int, ...]  # packed ids, ascending
    impact_score: float | None
    kl: float
    kl_low: float | None
    kl_high: float | None
    delta_nll: float
    delta_nll_low: float | None
    delta_nll_high: float | None
    kl_p99: float
    top1_flip_rate: float
    mean_change: float
    max_change: float
    tokens: int
    documents: int
    budget: float
    safe_to_prune: bool | None
    reason: str | None


def impacts(
    damages: DamageSums,
    sets: Sequence[Sequence[int]],
    *,
    budget: float = BUDGET,
    members: int | Sequence[int] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> list[Impact]:
    """One Impact per set, in order; a set that stands in a batch of m is judged by budget / m (`members`: m).

    The same resamples serve all sets, so that sets are compared on the same draws. Raises InputError for a budget that
    is not positive.
    """
    if not (budget > 0 and np.isfinite(budget)):
        raise InputError(f"budget is {budget}; give nats per token above 0, such as {BUDGET}")
    of = [members or 1] * len(sets) if members is None or isinstance(members, int) else list(members)
    total = damages.tokens.sum()
    means = {name: getattr(damages, name).sum(1) / total for name in ("kl", "nll", "flips", "change")}
    kl, nll = _limits(damages, seed=seed, resamples=resamples)
    return [
        judged(
            Impact(
                tuple(sorted(set(map(int, one)))), None, float(means["kl"][i]), *kl[i], float(means["nll"][i]), *nll[i],
                float(damages.kl_p99[i]), float(means["flips"][i]), float(means["change"][i]),
                float(damages.max_change[i]), int(total), len(damages.tokens), budget, None, None,
            ),
            budget / of[i],
        )
        for i, one in enumerate(sets)
    ]  # fmt: skip


def judged(impact: Impact, budget: float) -> Impact:
    """The same measurement judged by another budget in nats per token."""
    score = None if impact.kl_high is None else SAFE * impact.kl_high / budget
    reason = _why_not(impact)
    safe = None if reason or score is None else score < SAFE
    return replace(impact, impact_score=score, budget=budget, safe_to_prune=safe, reason=reason)


def set_id(evaluation: str, neurons: Sequence[int]) -> str:
    """16 hex digits of a hash of eval_id and the packed ids of a set."""
    text = f"{evaluation}:{','.join(str(int(i)) for i in sorted(set(neurons)))}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def impact_rows(
    found: Sequence[Impact],
    evaluation: Evaluation,
    *,
    d_mlp: int,
    created: str,
    run: str | None = None,
    evidence: Literal["measured", "estimated"] = "measured",
) -> list[dict[str, Any]]:
    """Rows of table impacts without what only a layer's analysis or the atlas knows (activation_*, is_critical, sums).

    `created` is a date in ISO 8601; `run` is when the measurement began, `created` by default.
    """
    name = eval_id(evaluation)
    common = {
        "eval_id": name, "evidence": evidence, "run": run or created, "created": created,
        **{field: getattr(evaluation, field) for field in ("ablation", "corpus", "model", "revision", "dtype")},
    }  # fmt: skip
    rows = []
    for impact in found:
        alone = divmod(impact.neurons[0], d_mlp) if len(impact.neurons) == 1 else (None, None)
        place = {"set_id": set_id(name, impact.neurons), "layer": alone[0], "neuron": alone[1]}
        size = {"neurons": list(impact.neurons), "n_neurons": len(impact.neurons)}
        rows.append(common | place | asdict(impact) | size)
    return rows


def _why_not(impact: Impact) -> str | None:
    if impact.kl_high is None:
        return "one document: an interval over documents is impossible; give at least two"
    if impact.tokens < ENOUGH_TOKENS:
        return f"{impact.tokens:,} held-out tokens, a verdict needs {ENOUGH_TOKENS:,}"
    return None


Limits = list[tuple[float | None, float | None]]


def _limits(damages: DamageSums, *, seed: int, resamples: int) -> tuple[Limits, Limits]:
    """5th and 95th percentile of the resampled mean KL and NLL of every set."""
    documents = len(damages.tokens)
    if documents < 2:
        nothing: Limits = [(None, None)] * len(damages.kl)
        return nothing, nothing
    counts = _resamples(documents, seed=seed, resamples=resamples)
    tokens = counts @ damages.tokens.astype(np.float64)
    return _of(damages.kl, counts, tokens), _of(damages.nll, counts, tokens)


def _resamples(documents: int, *, seed: int, resamples: int) -> FloatArray:
    """How often each document is drawn: [resamples, documents]."""
    drawn = np.random.default_rng(seed).integers(documents, size=(resamples, documents))
    drawn += np.arange(resamples)[:, None] * documents
    counts = np.bincount(drawn.ravel(), minlength=resamples * documents)
    return counts.reshape(resamples, documents).astype(np.float64)


def _of(sums: FloatArray, counts: FloatArray, tokens: FloatArray) -> Limits:
    found: Limits = []
    step = max(_AT_ONCE // len(tokens), 1)
    for start in range(0, len(sums), step):
        drawn = sums[start : start + step] @ counts.T / tokens
        low, high = np.quantile(drawn, [0.05, 0.95], axis=1)
        found.extend(zip(low.tolist(), high.tolist(), strict=True))
    return found
