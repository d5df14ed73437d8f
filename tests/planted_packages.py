"""Valid packages of every layout, made by hand from the published facts, and ways to break them.

A package is a dict of bytes by name, so that a test changes one thing and writes it as a folder or a zip.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """A copy with one file replaced, added or (None) left out, and the manifest made anew where there is one."""
    files = {key: value for key, value in files.items() if key != name}
    if content is not None:
        files[name] = content
    found = json.loads(files.get("metadata.json", b"{}"))
    if "sha256" in found and name != "metadata.json":
        rest = {key: value for key, value in files.items() if key != "metadata.json"}
        kept = {key: value for key, value in found.items() if key not in ("sha256", "schema")}
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
            "id": "tiny-model", "creatorId": "me", "layers": 4, "neuronsPerLayer": 8, "owner": "me",
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
