"""Valid packages of every layout, made by hand from the published facts, and ways to break them.

A package is a dict of bytes by name, so that a test changes one thing and writes it as a folder or a zip.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Files = dict[str, bytes]
SOURCE = "tiny-model/3"


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def manifest(files: Files, **facts: Any) -> bytes:
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    return json.dumps({"schema": "test/1", **facts, "sha256": hashes}, indent=1).encode()


def framed(files: Files, **facts: Any) -> Files:
    """With README.md and a manifest."""
    files = files | {"README.md": b"# A package\n"}
    return files | {"metadata.json": manifest(files, **facts)}


def write(files: Files, target: Path) -> Path:
    """As a zip where the target is called .zip, else as a folder."""
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return target
    for name, content in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    return target


def edited(files: Files, name: str, change: Callable[[Any], Any], *, line: int | None = 1) -> Files:
    """A copy with one row (or with line None a whole document) changed in place, and the manifest made anew."""
    content = gzip.decompress(files[name]) if name.endswith(".gz") else files[name]
    if line is None:
        document = json.loads(content)
        change(document)
        content = json.dumps(document, indent=1).encode()
    else:
        rows = [json.loads(row) for row in content.splitlines()]
        change(rows[line - 1])
        content = lines(*rows)
    return replaced(files, name, packed(content) if name.endswith(".gz") else content)


def replaced(files: Files, name: str, content: bytes | None) -> Files:
    """A copy with one file replaced, added or (None) left out; a manifest is made anew, without counts."""
    files = {key: value for key, value in files.items() if key != name}
    if content is not None:
        files[name] = content
    found = json.loads(files.get("metadata.json", b"{}"))
    if "sha256" in found and name != "metadata.json":
        rest = {key: value for key, value in files.items() if key != "metadata.json"}
        kept = {key: value for key, value in found.items() if key not in ("sha256", "schema", "counts")}
        files = rest | {"metadata.json": manifest(rest, **kept)}
    return files


# -- bulk ---------------------------------------------------------------------------------------------------------


def feature(index: int) -> dict[str, Any]:
    return {
        "modelId": "tiny-model", "layer": "3", "index": str(index), "sourceSetName": "neurons", "creatorId": "me",
        "maxActApprox": 2.5, "hasVector": True, "vector": [0.1, -0.2], "vectorLabel": None,
        "hookName": "blocks.3.mlp.hook_post", "pos_str": [" the", "é"], "pos_values": [1.5, 1.25],
        "neg_str": ["x"], "neg_values": [-1.0], "frac_nonzero": -1, "freq_hist_data_bar_values": [0.5, 1.5],
        "freq_hist_data_bar_heights": [10, 2], "logits_hist_data_bar_values": [0.0],
        "logits_hist_data_bar_heights": [3], "neuron_alignment_indices": [7], "neuron_alignment_values": [0.5],
        "neuron_alignment_l1": [0.25], "correlated_neurons_indices": [], "correlated_neurons_pearson": [],
        "correlated_neurons_l1": [], "topkCosSimIndices": [1], "topkCosSimValues": [0.5], "decoder_weights_dist": [],
    }  # fmt: skip


def activation(index: int, rank: int) -> dict[str, Any]:
    return {
        "id": f"a-{index}-{rank}", "modelId": "tiny-model", "layer": "3", "index": str(index), "creatorId": "me",
        "maxValue": 2.5, "minValue": -0.5, "maxValueTokenIndex": 1, "tokens": ["a", " dog", " ran"],
        "values": [0.0, 2.5, -0.5], "binMin": 0.0, "binMax": 2.5, "binContains": 0.5, "qualifyingTokenIndex": 1,
        "dataSource": "corpus",
    }  # fmt: skip


def explanation(index: int) -> dict[str, Any]:
    return {
        "id": f"e-{index}", "modelId": "tiny-model", "layer": "3", "index": str(index), "authorId": "me",
        "description": "dogs that run", "embedding": None, "typeName": None, "explanationModelName": None,
        "notes": json.dumps({"input": "dogs", "output": "running"}), "scoreV1": 0.5,
    }  # fmt: skip


def bulk() -> Files:
    """Three features of layer 3 in two files, two activations of each, explanations of two in two files."""
    files = {
        f"{SOURCE}/model.jsonl": lines({
            "id": "tiny-model", "creatorId": "me", "layers": 4, "neuronsPerLayer": 2048, "owner": "me",
            "displayName": "Tiny", "dimension": 2, "visibility": "PUBLIC", "website": "https://example.org",
        }),
        f"{SOURCE}/release.jsonl": lines({
            "name": "tiny-release", "description": "neurons", "creatorName": "Me", "creatorId": "me",
            "visibility": "UNLISTED",
        }),
        f"{SOURCE}/sourceset.jsonl": lines({
            "modelId": "tiny-model", "name": "neurons", "description": "MLP neurons", "creatorName": "Me",
            "creatorId": "me", "releaseName": "tiny-release", "visibility": "PUBLIC", "showCorrelated": False,
            "hasDashboards": True,
        }),
        f"{SOURCE}/source.jsonl": lines({
            "id": "3", "modelId": "tiny-model", "setName": "neurons", "creatorId": "me", "visibility": "PUBLIC",
            "num_prompts": 10, "num_tokens_in_prompt": 128, "dataset": "corpus", "notes": "by hand",
        }),
        f"{SOURCE}/features/batch-0.jsonl.gz": packed(lines(feature(0), feature(2))),
        f"{SOURCE}/features/batch-1.jsonl.gz": packed(lines(feature(5))),
        f"{SOURCE}/activations/batch-0.jsonl.gz": packed(
            lines(*[activation(index, rank) for index in (0, 2) for rank in (0, 1)])
        ),
        f"{SOURCE}/activations/batch-1.jsonl.gz": packed(lines(activation(5, 0), activation(5, 1))),
        f"{SOURCE}/explanations/batch-0.jsonl.gz": packed(lines(explanation(0))),
        f"{SOURCE}/explanations/batch-1.jsonl.gz": packed(lines(explanation(5))),
    }  # fmt: skip
    return framed(files, counts={"features": 3, "activations": 6, "explanations": 2})


# -- upload -------------------------------------------------------------------------------------------------------


def uploaded(index: int) -> dict[str, Any]:
    return {
        "index": index, "density": 0.25, "topLogits": [{"token": " the", "value": 1.5}],
        "bottomLogits": [{"token": "x", "value": -1.0}],
        "explanations": [{"text": "dogs", "methodName": "two-pass", "modelName": None}],
        "activations": [{
            "tokens": ["a", " dog"], "values": [0.0, 2.5], "quantileMax": 2.5, "quantileMin": 0.0,
            "quantileFraction": 0.5,
        }],
    }  # fmt: skip


def upload() -> Files:
    """Two requests, of two features and of one."""
    requests = [(0, 2), (5,)]
    files = {
        f"tiny-model/3-mlp/batch-{i}.json": json.dumps(
            {"modelId": "tiny-model", "source": "3-mlp", "features": [uploaded(index) for index in indices]}, indent=1
        ).encode()
        for i, indices in enumerate(requests)
    }
    return framed(files, counts={"features": 3})


# -- SAEDashboard -------------------------------------------------------------------------------------------------


def dashboard_feature(index: int) -> dict[str, Any]:
    shared = {
        name: value
        for name, value in feature(index).items()
        if name not in (
            "modelId", "layer", "index", "sourceSetName", "creatorId", "maxActApprox", "hasVector", "vectorLabel",
            "hookName", "topkCosSimIndices", "topkCosSimValues",
        )
    }  # fmt: skip
    return shared | {
        "feature_index": index, "correlated_features_indices": [], "correlated_features_pearson": [],
        "correlated_features_l1": [], "frac_nonzero": 0.12345, "n_prompts_total": 10, "n_tokens_in_prompt": 128,
        "dataset": "corpus",
        "activations": [{
            "bin_min": 0.0, "bin_max": 2.5, "bin_contains": 0.5, "tokens": ["a", " dog"], "values": [0.0, 2.5],
            "qualifying_token_index": 1,
        }],
    }  # fmt: skip


def dashboard() -> Files:
    """Two batches, of two features and of one."""
    head = {"model_id": "tiny-model", "layer": 3, "sae_set": "mlp", "sae_id_suffix": None}
    batches = [(0, 2), (5,)]
    return framed({
        f"batch-{i}.json": json.dumps(head | {"features": [dashboard_feature(n) for n in indices]}, indent=1).encode()
        for i, indices in enumerate(batches)
    }, counts={"features": 3})  # fmt: skip


# -- SAELens ------------------------------------------------------------------------------------------------------


def safetensors(tensors: dict[str, Any], **header: Any) -> bytes:
    """The format by hand: length, header, bytes."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    kinds = {"float32": "F32", "float16": "F16", "float64": "F64"}
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        described[name] = {
            "dtype": kinds[str(value.dtype)], "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }  # fmt: skip
        body += raw
    text = json.dumps(described | header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensors() -> dict[str, Any]:
    """Neurons 1 (both signs) and 4 (negative) of 8, written into 2 dimensions."""
    encoder = np.zeros((8, 3), np.float32)
    encoder[1, 0], encoder[1, 1], encoder[4, 2] = 1, -1, -1
    decoder = np.array([[0.5, 1], [-0.5, -1], [2, 3]], np.float32)
    return {
        "W_enc": encoder, "W_dec": decoder, "b_dec": np.array([0.5, 0.25], np.float32), "b_enc": np.zeros(3, np.float32)
    }  # fmt: skip


def config() -> dict[str, Any]:
    return {
        "architecture": "transcoder", "d_in": 8, "d_sae": 3, "d_out": 2, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12", "model_name": "tiny", "hook_name": "blocks.3.mlp.hook_post",
            "hook_name_out": "blocks.3.hook_mlp_out", "prepend_bos": True, "context_size": 128,
            "dataset_path": "corpus", "neuronpedia_id": None, "neuron_indices": [1, 1, 4], "polarity": [1, -1, -1],
        },
    }  # fmt: skip


def saelens(folder: str = "blocks.3.mlp/") -> Files:
    files = {
        f"{folder}cfg.json": json.dumps(config(), indent=1).encode(),
        f"{folder}sae_weights.safetensors": safetensors(tensors()),
    }
    return files | ({"metadata.json": manifest(files)} if folder else {})


# -- the export document ------------------------------------------------------------------------------------------


def prd_feature(index: int) -> dict[str, Any]:
    return {
        "feature_index": index, "label": f"label {index}", "category": "A > B",
        "statistics": {"activation_frequency": 0.5, "max_activation": 8.4, "mean_activation": 2.1},
        "logit_lens": {"top_positive": [{"token": "love", "value": 0.85}], "top_negative": []},
        "histogram": {"bin_edges": [0, 0.5, 1.0], "counts": [100, 50]},
        "top_tokens": [{"token": "love", "count": 45, "mean_activation": 3.2}],
        "activations": [{"token": "love", "value": 4.5, "context_before": "I ", "context_after": " you"}],
    }  # fmt: skip


def prd() -> Files:
    """Two features with weights."""
    files = {f"features/{i}.json": json.dumps(prd_feature(i), indent=1).encode() for i in (0, 2)}
    labels = [{"feature_index": i, "label": f"label {i}"} for i in (0, 2)]
    files["explanations/explanations.json"] = json.dumps(labels, indent=1).encode()
    files |= {name: content for name, content in saelens("saelens/").items() if name != "metadata.json"}
    facts = {
        "sae_id": "a-b", "sae_name": "tiny-3", "model_name": "tiny", "layer": 3, "d_in": 8, "d_sae": 8,
        "architecture": "transcoder", "export_date": "2026-01-01T00:00:00Z", "feature_count": 2,
        "includes": dict.fromkeys(("logit_lens", "histograms", "top_tokens", "explanations", "saelens_weights"), True),
    }  # fmt: skip
    return framed(files, **facts)


# -- attribution graphs and reports -------------------------------------------------------------------------------


def graph() -> Files:
    nodes = [
        {"node_id": "E_5_0", "feature": 5, "layer": "E", "ctx_idx": 0, "feature_type": "embedding", "jsNodeId": "E-0",
         "clerp": 'Emb: "a"', "influence": None, "activation": None},
        {"node_id": "3_7_1", "feature": 62, "layer": "3", "ctx_idx": 1, "feature_type": "mlp_neuron", "jsNodeId": "3-1",
         "clerp": "dogs", "influence": 0.5, "activation": 2.5},
        {"node_id": "5_9_1", "feature": 9, "layer": "5", "ctx_idx": 1, "feature_type": "logit", "jsNodeId": "L-1",
         "clerp": 'Output "b" (p=0.5)', "influence": None, "activation": None},
    ]  # fmt: skip
    document = {
        "metadata": {"slug": "tiny-1", "scan": "tiny", "prompt_tokens": ["a", " dog"], "prompt": "a dog"},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": [{"source": "E_5_0", "target": "3_7_1", "weight": 1.5},
                  {"source": "3_7_1", "target": "5_9_1", "weight": -0.5}],
    }  # fmt: skip
    index = {"graphs": [{"slug": "tiny-1", "scan": "tiny"}]}
    return {
        "tiny-1.json": json.dumps(document, indent=1).encode(),
        "graph-metadata.json": json.dumps(index, indent=1).encode(),
    }


def reports() -> Files:
    entries = [{"kind": "neuron", "file": "L3_N17", "id": "L3/N17"}, {"kind": "module", "file": "C1.2", "id": "1.2"}]
    page = b'<html>\n<a href="https://example.org">elsewhere</a>\n</html>\n'
    return {
        "index.json": json.dumps({"schema": "atlas-neuron-reports/1", "reports": entries}, indent=1).encode(),
        "index.html": page, "html/L3_N17.html": page, "html/C1.2.html": page,
        "json/L3_N17_dashboard.json": lines({"schema": "atlas-neuron-dashboard/1", "id": "L3/N17"}),
        "json/C1.2_dashboard.json": lines({"schema": "atlas-module-dashboard/1", "cluster_path": "1.2"}),
    }  # fmt: skip


LAYOUTS: dict[str, Callable[[], Files]] = {
    "bulk": bulk, "upload": upload, "sae-dashboard": dashboard, "saelens": saelens, "prd": prd, "graph": graph,
    "reports": reports,
}  # fmt: skip
