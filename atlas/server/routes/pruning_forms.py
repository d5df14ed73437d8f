"""What the pruning endpoints take and give: the seed's fields, and beside them what they rest on."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

_TEXT = "Hannah counted fourteen bananas and six horses . after February comes March ."
_TEXTS: list[JsonValue] = ["the weather in Athens was dry .", "five plus fourteen is nineteen ."]

Index = Annotated[int, Field(ge=0, lt=1 << 31)]
Text = Annotated[str, Field(min_length=1, max_length=100_000)]


class LayerSparsity(BaseModel):
    """Of one weight matrix."""

    sparsity: float | None
    total_params: int
    non_zero_params: int


class LayerStats(BaseModel):
    """Of one weight matrix; layer_index -1 is outside the layers."""

    layer_name: str
    layer_index: int
    total_parameters: int
    non_zero_parameters: int
    sparsity: float | None
    mean_magnitude: float | None
    std_magnitude: float | None
    min_magnitude: float | None
    max_magnitude: float | None
    l1_norm: float | None
    l2_norm: float | None


class WeightAnalysis(BaseModel):
    """Magnitudes are |w|; sparsity is the share of entries that are exactly 0."""

    overall_sparsity: float | None
    total_parameters: int
    non_zero_parameters: int
    layer_sparsity: dict[str, LayerSparsity]
    layer_stats: list[LayerStats]


class Candidate(BaseModel):
    """A neuron by its pruning score."""

    layer_index: int
    neuron_index: int
    weight_magnitude: float | None = Field(description="Mean |w| over the neuron's own parameters.")
    weight_rank: int | None = Field(description="1 = largest within its layer.")
    is_pruning_candidate: bool
    pruning_score: float | None = Field(description="0 to 1 within the layer; higher = safer to prune.")


class Candidates(BaseModel):
    """The safest first; `total_candidates` counts also those that the limit cut."""

    candidates: list[Candidate]
    total_candidates: int
    threshold_percentile: float


class Impact(BaseModel):
    """What the model loses without one neuron; null with a `reason` where the text is too short to say."""

    layer_index: int
    neuron_index: int
    impact_score: float | None = Field(description="0.1 x the upper 95% limit of KL / budget: below 0.1 is safe.")
    mean_change: float | None
    max_change: float | None
    safe_to_prune: bool | None
    reason: str | None = None


class ImpactAnalysis(BaseModel):
    """What the model loses without all of them together; then without each alone."""

    impact_score: float | None
    mean_change: float | None
    max_change: float | None
    affected_neurons: list[int]
    safe_to_prune: bool | None = Field(description="null on fewer than 10,000 tokens: `reason` says so.")
    reason: str | None = None
    kl: float = Field(description="Nats per token between the model's predictions with and without the neurons.")
    individual_impacts: list[Impact]
    eval_id: str
    notes: list[str]


class Importance(BaseModel):
    """One neuron; `evidence` says whether its impact was measured or estimated."""

    layer_index: int
    neuron_index: int
    activation_magnitude: float | None
    activation_variance: float | None
    impact_score: float | None
    is_critical: bool | None
    evidence: str


class ImportanceAnalysis(BaseModel):
    """Most important first; `critical_neurons` is null where the text gives no interval (one document)."""

    importance_scores: list[Importance]
    total_neurons: int
    critical_neurons: int | None
    eval_id: str
    notes: list[str]


class Cumulative(BaseModel):
    """The batch as a whole, measured jointly."""

    impact_score: float | None
    mean_change: float | None
    max_change: float | None


class Recommendations(BaseModel):
    """Counts are null where there are no verdicts: `reason` says why."""

    safe_to_prune: int | None
    risky_to_prune: int | None
    suggested_batch_size: int | None
    high_impact_neurons: list[Impact]


class BatchAnalysis(BaseModel):
    """Candidates alone, the first of them jointly, and how many may go."""

    individual_impacts: list[Impact]
    cumulative_impact: Cumulative
    recommendations: Recommendations
    eval_id: str
    notes: list[str]


class Exported(BaseModel):
    """What was written."""

    message: str
    file_path: str
    size_bytes: int


class Measured(BaseModel):
    """How it is measured and judged; the corpus is a file in folder corpora of the server's data folder."""

    model_config = ConfigDict(strict=True, extra="forbid")
    corpus: str | None = Field(None, max_length=200, description="A file of documents, in place of texts.")
    documents: int | None = Field(None, ge=1, le=1 << 31, description="So many of the corpus.")
    skip_documents: int = Field(0, ge=0, le=1 << 31, description="Leave out the first so many of the corpus.")
    skip_calibration: bool = Field(False, description="Leave out documents that the scores were made on.")
    fresh: bool = Field(False, description="The text is no calibration text, though the atlas cannot tell.")
    context_length: int | None = Field(None, ge=2, le=1 << 20, description="In tokens; the model's, at most 512.")
    max_tokens: int | None = Field(None, ge=1, le=1 << 31, description="So many predicted tokens.")
    zero: bool = Field(False, description="Activations become 0 in place of their mean.")
    budget: float = Field(0.01, gt=0, le=1000, description="Nats per token that may be lost.")
    seed: int = Field(0, ge=0, lt=1 << 31, description="Of the bootstrap over documents.")
    again: bool = Field(False, description="Measure also what the atlas holds.")
    store: bool = Field(False, description="Keep what is measured in the atlas file (written anew, size of the atlas).")


class ImpactRequest(Measured):
    """Neurons of one layer, and a text or corpus to measure on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"layer_index": 0, "neuron_indices": [0, 1, 2], "input_text": _TEXT}]}
    )
    layer_index: Index
    neuron_indices: list[Index] = Field(min_length=1, max_length=10_000)
    input_text: Text | None = None
    each: bool = Field(True, description="Also every neuron by itself.")

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        _require_one(self.corpus, self.input_text, "input_text")
        return self


class ImportanceRequest(Measured):
    """A layer, and texts or a corpus to measure on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"layer_index": 0, "input_texts": _TEXTS}]})
    layer_index: Index
    input_texts: list[Text] | None = Field(None, min_length=1, max_length=10_000)
    exact: bool = Field(False, description="Measure every neuron; otherwise some, the others are estimated.")
    share: float | None = Field(None, gt=0, le=100, description="Percent measured at each end and at random.")

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        _require_one(self.corpus, self.input_texts, "input_texts")
        return self


class Place(BaseModel):
    """One neuron."""

    model_config = ConfigDict(strict=True, extra="forbid")
    layer_index: Index
    neuron_index: Index


class BatchRequest(Measured):
    """Candidates, and texts or a corpus to measure on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "pruning_candidates": [
                        {"layer_index": 0, "neuron_index": 0},
                        {"layer_index": 1, "neuron_index": 0},
                    ],
                    "input_texts": _TEXTS,
                    "batch_size": 10,
                }
            ]
        }
    )
    pruning_candidates: list[Place] = Field(min_length=1, max_length=10_000)
    input_texts: list[Text] | None = Field(None, min_length=1, max_length=10_000)
    batch_size: int = Field(10, ge=1, le=10_000)

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        _require_one(self.corpus, self.input_texts, "input_texts")
        return self


class ExportRequest(BaseModel):
    """Which analysis."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"examples": [{"type": "weight"}]})
    type: Literal["weight", "impact"]
    eval_id: str | None = Field(None, max_length=100, description="Of scores or impacts, where the atlas has several.")


class CandidatesQuery(BaseModel):
    """Which candidates."""

    model_config = ConfigDict(extra="forbid")
    threshold: float = Field(10.0, ge=0, le=100, description="Percentile.", examples=[10.0])
    layer: int | None = Field(None, ge=0, lt=1 << 31, description="Only this layer.", examples=[0])
    limit: int | None = Field(None, ge=1, lt=1 << 31, description="Rows; the server's limit by default.")
    method: Literal["fisher", "wifv", "weights", "taylor_abs", "wanda"] | None = Field(None, description="Score.")
    scope: Literal["layer", "global"] = Field("layer", description="Where to rank.")
    eval_id: str | None = Field(None, max_length=100, description="One of several evaluations.")


def _require_one(corpus: str | None, texts: object, name: str) -> None:
    if (texts is None) == (corpus is None):
        raise ValueError(f"give {name} or corpus, one of the two")
