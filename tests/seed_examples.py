"""The answers of the seed's API document, as it prints them, and a comparison of an answer's fields and types."""

from __future__ import annotations

from typing import Any

IMPACT = {
    "layer_index": 0, "neuron_index": 0, "impact_score": 0.023, "mean_change": 0.015, "max_change": 0.089,
    "safe_to_prune": True,
}  # fmt: skip
WEIGHTS = {
    "overall_sparsity": 0.023,
    "total_parameters": 124439808,
    "non_zero_parameters": 121539456,
    "layer_sparsity": {
        "transformer.h.0.mlp.c_fc": {"sparsity": 0.0, "total_params": 589824, "non_zero_params": 589824}
    },
    "layer_stats": [
        {
            "layer_name": "transformer.h.0.mlp.c_fc",
            "layer_index": 0,
            "total_parameters": 589824,
            "non_zero_parameters": 589824,
            "sparsity": 0.0,
            "mean_magnitude": 0.045,
            "std_magnitude": 0.032,
            "min_magnitude": 0.0,
            "max_magnitude": 0.234,
            "l1_norm": 26542.08,
            "l2_norm": 1234.56,
        }
    ],
}
CANDIDATES = {
    "candidates": [
        {
            "layer_index": 0,
            "neuron_index": 42,
            "weight_magnitude": 0.012,
            "weight_rank": 8,
            "is_pruning_candidate": True,
            "pruning_score": 0.89,
        }
    ],
    "total_candidates": 64512,
    "threshold_percentile": 10.0,
}
IMPACTS = {
    "impact_score": 0.023, "mean_change": 0.015, "max_change": 0.089, "affected_neurons": [0, 1, 2],
    "safe_to_prune": True,
}  # fmt: skip
IMPORTANCE = {
    "importance_scores": [
        {
            "layer_index": 0,
            "neuron_index": 42,
            "activation_magnitude": 0.156,
            "activation_variance": 0.089,
            "impact_score": 0.234,
            "is_critical": True,
        }
    ],
    "total_neurons": 768,
    "critical_neurons": 192,
}
BATCH = {
    "individual_impacts": [IMPACT],
    "cumulative_impact": {"impact_score": 0.156, "mean_change": 0.089, "max_change": 0.234},
    "recommendations": {
        "safe_to_prune": 15,
        "risky_to_prune": 3,
        "suggested_batch_size": 10,
        "high_impact_neurons": [IMPACT],
    },
}
EXPORTED = {
    "message": "Weight analysis exported successfully",
    "file_path": "/path/to/data/pruning/weight_analysis.json",
}
LISTED_MODEL = {
    "name": "gpt2", "family": "gpt2", "layers": 12, "hidden_size": 768,
    "description": "GPT-2 Small (124M parameters)", "recommended": True,
}  # fmt: skip
MODEL = LISTED_MODEL | {"num_attention_heads": 12, "size_category": "small"}
MEMORY = {
    "total_memory": 8589934592, "used_memory": 2147483648, "available_memory": 6442450944, "model_memory": 1073741824,
}  # fmt: skip
SWITCHED = {
    "message": "Successfully switched to gpt2-medium", "current_model": "gpt2-medium", "model_info": MODEL,
    "memory_usage": MEMORY,
}  # fmt: skip
FILES = {"files": ["hello_world.json", "test_prompt.json"], "count": 2}
ACTIVATIONS = {
    "prompt": "Hello world",
    "tokens": ["Hello", "world"],
    "layers": [{"layer_index": 0, "neurons": [{"neuron_index": 0, "activations": [0.132, 0.984]}]}],
}
CLUSTERS = {
    "layer": 10,
    "clusters": [{"cluster_id": 0, "neuron_indices": [3, 5, 12, 19], "centroid": [0.12, -0.04, 0.89]}],
}
QUERY = {"query_type": "neuron", "neuron_index": 42, "top_tokens": [{"token": "the", "activation": 2.03}]}
EXPORT_STATUS = {
    "id": "uuid", "sae_id": "uuid", "config": {}, "status": "pending", "progress": 0.5, "current_stage": "stage",
    "feature_count": 8, "output_path": "path", "file_size_bytes": 1, "error_message": None, "created_at": "time",
    "started_at": "time", "completed_at": "time",
}  # fmt: skip


def form_faults(found: Any, example: Any, *, nulls: bool = False, where: str = "$") -> list[str]:
    """Fields that an answer lacks, and values of another type; more fields may be there, nulls only where allowed."""
    if found is None:
        return [] if nulls or example is None else [f"{where} is null"]
    if isinstance(example, dict):
        return _of_object(found, example, nulls, where)
    if isinstance(example, list):
        if not isinstance(found, list):
            return [f"{where} is no list"]
        rows = enumerate(found) if example else ()
        return [fault for i, one in rows for fault in form_faults(one, example[0], nulls=nulls, where=f"{where}[{i}]")]
    kinds = (int, float) if type(example) is float else (type(example),)
    return [] if example is None or type(found) in kinds else [f"{where}: {found!r} is no {kinds[0].__name__}"]


def _of_object(found: Any, example: dict[str, Any], nulls: bool, where: str) -> list[str]:
    if not isinstance(found, dict):
        return [f"{where} is no object"]
    if where.endswith("layer_sparsity"):  # its keys are names of weights
        (inner,) = example.values()
        example = dict.fromkeys(found, inner)
    missing = [f"{where}.{name} is missing" for name in example if name not in found]
    there = [name for name in example if name in found]
    deeper = [form_faults(found[n], example[n], nulls=nulls, where=f"{where}.{n}") for n in there]
    return [*missing, *(fault for faults in deeper for fault in faults)]
