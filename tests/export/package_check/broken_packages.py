"""One broken package for every rule: what is changed in a valid one, and the file and line that must be named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from planted_packages import (
    SOURCE,
    Files,
    activation,
    config,
    edited,
    feature,
    lines,
    manifest,
    packed,
    replaced,
    safetensors,
    tensors,
)

FEATURES, MORE = f"{SOURCE}/features/batch-0.jsonl.gz", f"{SOURCE}/features/batch-1.jsonl.gz"
ACTS, EXPL = f"{SOURCE}/activations/batch-0.jsonl.gz", f"{SOURCE}/explanations/batch-0.jsonl.gz"
UPLOAD, BATCH = "tiny-model/3-mlp/batch-0.json", "batch-0.json"
CFG, WEIGHTS = "blocks.3.mlp/cfg.json", "blocks.3.mlp/sae_weights.safetensors"


@dataclass(frozen=True)
class Case:
    """A broken package; mark: the line, or text that stands on it, None where a finding has no line."""

    rule: str
    layout: str
    change: Callable[[Files], Files]
    file: str
    mark: int | str | None = None


def row(file: str, change: Callable[[Any], Any], line: int | None = 1) -> Callable[[Files], Files]:
    return lambda files: edited(files, file, change, line=line)


def setting(file: str, line: int | None = 1, **values: Any) -> Callable[[Files], Files]:
    return row(file, lambda found: found.update(values), line)


def file_of(file: str, content: bytes | None) -> Callable[[Files], Files]:
    return lambda files: replaced(files, file, content)


def deep(file: str, keys: str, value: Any) -> Callable[[Files], Files]:
    """A value of a document set at a path of keys and places."""

    def change(document: Any) -> None:
        *path, last = [int(key) if key.isdigit() else key for key in keys.split(".")]
        for key in path:
            document = document[key]
        document[last] = value

    return row(file, change, None)


def renamed(old: str, new: str) -> Callable[[Files], Files]:
    return lambda files: replaced(replaced(files, old, None), new, files[old])


def raw_line(old: bytes, new: bytes) -> Callable[[Files], Files]:
    """Bytes of the first features file replaced."""
    content = lines(feature(0), feature(2))
    assert old in content
    return file_of(FEATURES, packed(content.replace(old, new)))


def weights(**changed: Any) -> Callable[[Files], Files]:
    """Tensors replaced, or (None) left out."""
    found = {name: value for name, value in (tensors() | changed).items() if value is not None}
    return file_of(WEIGHTS, safetensors(found))


def header(**described: Any) -> Callable[[Files], Files]:
    """Tensors described otherwise than they are."""
    return file_of(WEIGHTS, safetensors(tensors(), **described))


def encoder(*places: tuple[int, int, float]) -> Callable[[Files], Files]:
    found = tensors()["W_enc"]
    for i, j, value in places:
        found[i, j] = value
    return weights(W_enc=found)


def unmanifested(change: Callable[[Files], Files]) -> Callable[[Files], Files]:
    """A change that leaves the manifest as it was."""
    return lambda files: change(files) | {"metadata.json": files["metadata.json"]}


def listing(**changed: Any) -> Callable[[Files], Files]:
    """The manifest's own values changed."""

    def change(files: Files) -> Files:
        return files | {"metadata.json": json.dumps(json.loads(files["metadata.json"]) | changed, indent=1).encode()}

    return change


def hashed(**digests: str) -> Callable[[Files], Files]:
    """Digests of the manifest replaced or added."""

    def change(files: Files) -> Files:
        return listing(sha256=json.loads(files["metadata.json"])["sha256"] | digests)(files)

    return change


def many(table: str, number: int) -> Callable[[Files], Files]:
    """As many more files of one activation each."""

    def change(files: Files) -> Files:
        rest = {name: content for name, content in files.items() if name != "metadata.json"}
        for i in range(number):
            one = activation(5, 10 + i)
            rest[f"{SOURCE}/{table}/batch-{10 + i}.jsonl.gz"] = packed(lines(one))
        return rest | {"metadata.json": manifest(rest)}

    return change


def features(number: int) -> bytes:
    return packed(lines(*[feature(5 + i) for i in range(number)]))


def _moved(files: Files, old: str, new: str) -> Files:
    rest = {name.replace(old, new): content for name, content in files.items() if name != "metadata.json"}
    return rest | {"metadata.json": manifest(rest)}


def _with_set(files: Files, name: str) -> Files:
    """Another set in all files."""
    files = edited(files, META["source"], lambda found: found.update(setName=name))
    files = edited(files, META["sourceset"], lambda found: found.update(name=name))
    for file, line in ((FEATURES, 1), (FEATURES, 2), (MORE, 1)):
        files = edited(files, file, lambda found: found.update(sourceSetName=name), line=line)
    return files


def _without(files: Files, part: str) -> Files:
    rest = {name: content for name, content in files.items() if part not in name and name != "metadata.json"}
    return rest | {"metadata.json": manifest(rest)}


def _unexplained(files: Files) -> Files:
    for i, number in enumerate((2, 1)):
        for j in range(number):
            files = deep(f"tiny-model/3-mlp/batch-{i}.json", f"features.{j}.explanations", [])(files)
    return files


FILE_CASES = [
    Case("gzip-broken", "bulk", lambda f: replaced(f, ACTS, f[ACTS][:-20]), ACTS),
    Case("gzip-broken", "bulk", file_of(FEATURES, b"no gzip"), FEATURES, 1),
    Case("file-empty", "bulk", file_of(ACTS, packed(b"")), ACTS),
    Case("file-empty", "upload", file_of(UPLOAD, b""), UPLOAD),
    Case("text-utf8", "bulk", raw_line(b'"x"', b'"\xff"'), FEATURES, 1),
    Case("text-surrogate", "bulk", raw_line(b'"x"', rb'"\ud83d"'), FEATURES, 1),
    Case("text-null", "bulk", raw_line(b'"x"', rb'"\u0000"'), FEATURES, 1),
    Case("text-null", "bulk", raw_line(b'"x"', rb'"\\u0000"'), FEATURES, 1),
    Case("json-invalid", "bulk", raw_line(b'"x"', b'"x'), FEATURES, 1),
    Case("json-invalid", "bulk", raw_line(b'"x"', b'"x",'), FEATURES, 1),
    Case("json-invalid", "saelens", file_of(CFG, b"{\n"), CFG),
    Case("json-nan", "bulk", raw_line(b"2.5", b"NaN"), FEATURES, 1),
    Case("json-nan", "bulk", raw_line(b"[-1.0]", b"[-Infinity]"), FEATURES, 1),
    Case("json-object", "bulk", lambda f: replaced(f, MORE, packed(lines(feature(5), [1]))), MORE, 2),
    Case("number-range", "bulk", raw_line(b"[-1.0]", b"[-1e999]"), FEATURES, 1),
    Case("number-range", "bulk", setting(ACTS, 2, qualifyingTokenIndex=2**31), ACTS, 2),
    Case("number-range", "bulk", setting(FEATURES, 2, topkCosSimIndices=[2**40]), FEATURES, 2),
    Case("field-missing", "bulk", row(f"{SOURCE}/model.jsonl", lambda r: r.pop("owner")), f"{SOURCE}/model.jsonl", 1),
    Case("field-missing", "upload", row(UPLOAD, lambda d: d["features"][1].pop("density"), None), UPLOAD, 43),
    Case("field-null", "bulk", setting(FEATURES, 2, frac_nonzero=None), FEATURES, 2),
    Case("field-null", "bulk", setting(EXPL, 1, scoreV1=None), EXPL, 1),
    Case("field-null", "bulk", setting(EXPL, 1, id=None), EXPL, 1),
    Case("field-type", "bulk", setting(ACTS, 3, maxValue="2.5"), ACTS, 3),
    Case("field-type", "bulk", setting(FEATURES, 2, index=2), FEATURES, 2),
    Case("field-type", "bulk", setting(FEATURES, 2, pos_values=[1.5, None]), FEATURES, 2),
    Case("field-type", "bulk", setting(f"{SOURCE}/model.jsonl", 1, layers=4.5), f"{SOURCE}/model.jsonl", 1),
    Case("field-type", "bulk", setting(MORE, createdAt="zzz"), MORE, 1),
    Case("field-type", "bulk", setting(FEATURES, 2, pos_str=" the"), FEATURES, 2),
    Case("field-type", "graph", deep("tiny-1.json", "nodes.1.layer", 2.5), "tiny-1.json", '"layer": 2.5'),
    Case("json-invalid", "upload", file_of(UPLOAD, b"[" * 100_000), UPLOAD),
    Case("json-invalid", "upload", file_of(UPLOAD, b'{"a": ' + b"[" * 1100 + b"]" * 1100 + b"}"), UPLOAD),
    Case("field-type", "graph", deep("tiny-1.json", "nodes.1.ctx_idx", "1"), "tiny-1.json", '"ctx_idx": "1"'),
    Case("readme-absent", "bulk", file_of("README.md", None), "README.md"),
    Case("manifest-absent", "upload", file_of("metadata.json", None), "metadata.json"),
    Case("manifest-form", "bulk", hashed(**{"README.md": "abc"}), "metadata.json", '"README.md": "abc"'),
    Case("manifest-missing", "bulk", hashed(**{"gone.txt": "0" * 64}), "metadata.json", "gone.txt"),
    Case("manifest-extra", "bulk", unmanifested(file_of("notes.txt", b"x")), "notes.txt"),
    Case("manifest-sha256", "bulk", unmanifested(file_of("README.md", b"other")), "README.md"),
    Case("manifest-count", "bulk", listing(counts={"features": 4}), "metadata.json", '"features": 4'),
]

META = {name: f"{SOURCE}/{name}.jsonl" for name in ("model", "release", "sourceset", "source")}

BULK_CASES = [
    Case("bulk-place", "bulk", lambda f: _moved(f, "tiny-model/3/", "Tiny-Model/3/"), "Tiny-Model/3/"),
    Case("bulk-metadata-missing", "bulk", file_of(META["release"], None), META["release"]),
    Case("file-empty", "bulk", file_of(META["release"], b""), META["release"]),
    Case("bulk-metadata-gzip", "bulk", lambda f: replaced(
        replaced(f, META["source"], None), META["source"] + ".gz", packed(f[META["source"]])), META["source"] + ".gz"),
    Case("bulk-metadata-lines", "bulk", lambda f: replaced(f, META["model"], f[META["model"]] * 2), META["model"], 2),
    Case("blank-line", "bulk", lambda f: replaced(f, META["model"], f[META["model"]] + b"\n"), META["model"], 2),
    Case("bulk-metadata-unknown", "bulk", setting(META["source"], revision="x"), META["source"], 1),
    Case("bulk-metadata-link", "bulk", setting(META["sourceset"], releaseName="other"), META["sourceset"], 1),
    Case("bulk-metadata-link", "bulk", setting(FEATURES, 2, sourceSetName="other"), FEATURES, 2),
    Case("bulk-model-default", "bulk", setting(META["model"], defaultSourceSetName="neurons"), META["model"], 1),
    Case("bulk-visibility", "bulk", setting(META["release"], visibility="public"), META["release"], 1),
    Case("bulk-private", "bulk", row(META["sourceset"], lambda r: r.pop("visibility")), META["sourceset"], 1),
    Case("bulk-private", "bulk", setting(META["source"], visibility="PRIVATE"), META["source"], 1),
    Case("updated-null", "bulk", setting(META["model"], updatedAt=None), META["model"], 1),
    Case("updated-null", "bulk", setting(MORE, createdAt=None), MORE, 1),
    Case("bulk-row-name", "bulk", renamed(MORE, f"{SOURCE}/features/part-1.jsonl.gz"),
         f"{SOURCE}/features/part-1.jsonl.gz"),
    Case("bulk-row-name", "bulk", lambda f: replaced(f, f"{SOURCE}/activations/batch-7.jsonl", lines(activation(5, 9))),
         f"{SOURCE}/activations/batch-7.jsonl"),
    Case("bulk-files", "bulk", many("activations", 999), f"{SOURCE}/activations/"),
    Case("bulk-batch", "bulk", file_of(MORE, features(1025)), MORE, 1025),
    Case("bulk-no-activations", "bulk", lambda f: _without(f, "/activations/"), f"{SOURCE}/activations"),
    Case("bulk-no-explanations", "bulk", lambda f: _without(f, "/explanations/"), f"{SOURCE}/explanations"),
    Case("blank-line", "bulk", lambda f: replaced(f, MORE, packed(lines(feature(5)) + b"\n")), MORE, 2),
    Case("keys-differ", "bulk", row(FEATURES, lambda r: r.pop("vectorLabel"), 2), FEATURES, 2),
    Case("keys-differ", "bulk", setting(ACTS, 3, dataIndex="7"), ACTS, 3),
    Case("keys-differ", "bulk", row(f"{SOURCE}/explanations/batch-1.jsonl.gz", lambda r: r.pop("notes")),
         f"{SOURCE}/explanations/batch-1.jsonl.gz", 1),
    Case("row-key-unknown", "bulk", setting(MORE, note="x"), MORE, 1),
    Case("model-id", "bulk", setting(FEATURES, 2, modelId="Tiny-Model"), FEATURES, 2),
    Case("model-id", "bulk", setting(META["source"], modelId="other"), META["source"], 1),
    Case("model-id", "upload", deep(UPLOAD, "modelId", "Tiny"), UPLOAD, '"modelId": "Tiny"'),
    Case("layer-source", "bulk", setting(ACTS, 2, layer="4"), ACTS, 2),
    Case("layer-source", "bulk", setting(META["source"], id="4"), META["source"], 1),
    Case("source-form", "bulk", lambda f: _with_set(f, "mine"), META["source"], 1),
    Case("index-text", "bulk", file_of(MORE, packed(lines(feature(5), feature(0) | {"index": "05"}))), MORE, 2),
    Case("index-unique", "bulk", file_of(MORE, packed(lines(feature(5), feature(2)))), MORE, 2),
    Case("index-range", "bulk", file_of(MORE, packed(lines(feature(5), feature(2048)))), MORE, 2),
    Case("index-range", "bulk", setting(META["model"], layers=3), f"{SOURCE}/"),
    Case("bulk-sizes", "bulk", setting(META["model"], dimension=0), META["model"], 1),
    Case("bulk-sizes", "bulk", setting(META["source"], num_prompts=-1), META["source"], 1),
    Case("bulk-no-release", "bulk", setting(META["sourceset"], releaseName=None), META["sourceset"], 1),
    Case("bulk-feature-set", "bulk", setting(FEATURES, 2, sourceSetName=None), FEATURES, 2),
    Case("vector-length", "bulk", setting(MORE, vector=[0.5]), MORE, 1),
    Case("histogram-form", "bulk", setting(FEATURES, 2, freq_hist_data_bar_values=[1.5, 0.5]), FEATURES, 2),
    Case("histogram-form", "bulk", setting(FEATURES, 2, logits_hist_data_bar_heights=[-1]), FEATURES, 2),
    Case("id-unique", "bulk", setting(f"{SOURCE}/activations/batch-1.jsonl.gz", 2, id="a-0-1"),
         f"{SOURCE}/activations/batch-1.jsonl.gz", 2),
    Case("id-unique", "bulk", setting(f"{SOURCE}/explanations/batch-1.jsonl.gz", id="e-0"),
         f"{SOURCE}/explanations/batch-1.jsonl.gz", 1),
    Case("id-text", "bulk", setting(EXPL, 1, id=""), EXPL, 1),
    Case("id-text", "bulk", setting(META["release"], creatorId=" "), META["release"], 1),
    Case("length-logits", "bulk", setting(FEATURES, 2, pos_values=[1.5]), FEATURES, 2),
    Case("length-logits", "bulk", setting(FEATURES, 1, neg_str=[]), FEATURES, 1),
    Case("length-histogram", "bulk", setting(FEATURES, 2, freq_hist_data_bar_heights=[1, 2, 3]), FEATURES, 2),
    Case("length-histogram", "bulk", setting(FEATURES, 2, logits_hist_data_bar_values=[]), FEATURES, 2),
    Case("length-table", "bulk", setting(FEATURES, 2, neuron_alignment_l1=[0.1, 0.2]), FEATURES, 2),
    Case("length-table", "bulk", setting(FEATURES, 2, topkCosSimValues=[]), FEATURES, 2),
    Case("frac-nonzero", "bulk", setting(FEATURES, 2, frac_nonzero=1.5), FEATURES, 2),
    Case("frac-nonzero", "bulk", setting(FEATURES, 2, frac_nonzero=-0.5), FEATURES, 2),
    Case("vector", "bulk", setting(FEATURES, 2, vector=[]), FEATURES, 2),
    Case("hook-layer", "bulk", setting(FEATURES, 2, hookName="blocks.2.mlp.hook_post"), FEATURES, 2),
    Case("embedding-256", "bulk", setting(EXPL, 1, embedding=[0.5] * 255), EXPL, 1),
    Case("type-null", "bulk", setting(EXPL, 1, typeName="two-pass"), EXPL, 1),
    Case("type-null", "bulk", setting(EXPL, 1, explanationModelName="gpt"), EXPL, 1),
    Case("explanation-text", "bulk", setting(EXPL, 1, description=" "), EXPL, 1),
    Case("activation-length", "bulk", setting(ACTS, 4, tokens=["a", "b"]), ACTS, 4),
    Case("activation-max", "bulk", setting(ACTS, 4, maxValue=2.4), ACTS, 4),
    Case("activation-max", "bulk", setting(ACTS, 4, maxValueTokenIndex=2), ACTS, 4),
    Case("activation-max", "bulk", setting(ACTS, 4, maxValueTokenIndex=3), ACTS, 4),
    Case("activation-min", "bulk", setting(ACTS, 4, minValue=0.0), ACTS, 4),
    Case("activation-token", "bulk", setting(ACTS, 4, qualifyingTokenIndex=3), ACTS, 4),
    Case("activation-bin", "bulk", setting(ACTS, 4, binMin=3.0), ACTS, 4),
    Case("activation-bin", "bulk", setting(ACTS, 4, binContains=1.5), ACTS, 4),
    Case("activation-text", "bulk", setting(ACTS, 4, tokens=[], values=[], qualifyingTokenIndex=None), ACTS, 4),
    Case("reference", "bulk", setting(ACTS, 4, index="3"), ACTS, 4),
    Case("reference", "bulk", setting(EXPL, 1, index="7"), EXPL, 1),
]  # fmt: skip

UPLOAD_CASES = [
    Case("upload-features", "upload", deep(UPLOAD, "features", []), UPLOAD, '"features": []'),
    Case("upload-features", "upload", row(UPLOAD, lambda d: d.update(
        features=[d["features"][0] | {"index": 10 + i} for i in range(129)]), None), UPLOAD, '"features": ['),
    Case("upload-source", "upload", deep(UPLOAD, "source", "3-neurons"), UPLOAD, '"source": '),
    Case("upload-source", "upload", deep(UPLOAD, "source", "3"), UPLOAD, '"source": '),
    Case("upload-density", "upload", deep(UPLOAD, "features.1.density", None), UPLOAD, '"density": null'),
    Case("upload-density", "upload", deep(UPLOAD, "features.1.density", -1), UPLOAD, '"density": -1'),
    Case("upload-logits", "upload", deep(UPLOAD, "features.0.topLogits", [{"token": "a", "value": 1}] * 21), UPLOAD,
         '"topLogits": '),
    Case("upload-text", "upload", deep(UPLOAD, "features.1.explanations.0.text", "x" * 513), UPLOAD, "xxxx"),
    Case("upload-text", "upload", deep(UPLOAD, "features.1.explanations.0.text", ""), UPLOAD, '"text": ""'),
    Case("upload-model-null", "upload", deep(UPLOAD, "features.1.explanations.0.modelName", "gpt"), UPLOAD, '"gpt"'),
    Case("upload-activations", "upload", deep(UPLOAD, "features.1.activations", []), UPLOAD, '"activations": []'),
    Case("upload-tokens", "upload", deep(UPLOAD, "features.1.activations.0.tokens", ["", "a"]), UPLOAD, '""'),
    Case("upload-tokens", "upload", row(UPLOAD, lambda d: d["features"][0]["activations"][0].update(
        tokens=[], values=[]), None), UPLOAD, '"tokens": []'),
    Case("upload-tokens", "upload", row(UPLOAD, lambda d: d["features"][0]["activations"][0].update(
        tokens=["a"] * 1025, values=[0] * 1025), None), UPLOAD, '"tokens": ['),
    Case("activation-length", "upload", deep(UPLOAD, "features.0.activations.0.values", [0.5]), UPLOAD, '"values": ['),
    Case("upload-quantiles", "upload", deep(UPLOAD, "features.0.activations.0.quantileMin", 9), UPLOAD,
         '"quantileMin": 9'),
    Case("upload-quantiles", "upload", deep(UPLOAD, "features.0.activations.0.quantileFraction", 2), UPLOAD,
         '"quantileFraction": 2'),
    Case("index-unique", "upload", deep("tiny-model/3-mlp/batch-1.json", "features.0.index", 2),
         "tiny-model/3-mlp/batch-1.json", '"index": 2'),
    Case("index-range", "upload", deep(UPLOAD, "features.1.index", -1), UPLOAD, '"index": -1'),
    Case("upload-no-explanations", "upload", _unexplained, "."),
]  # fmt: skip

DASH_CASES = [
    Case("dash-empty", "sae-dashboard", deep(BATCH, "features", []), BATCH, '"features": []'),
    Case("index-range", "sae-dashboard", deep(BATCH, "features.1.feature_index", -1), BATCH, '"feature_index": -1'),
    Case("index-range", "sae-dashboard", deep(BATCH, "layer", -1), BATCH, '"layer": -1'),
    Case("vector-length", "sae-dashboard", deep(BATCH, "features.1.vector", [0.5]), BATCH, None),
    Case("histogram-form", "sae-dashboard", deep(BATCH, "features.1.freq_hist_data_bar_values", [5, 4]), BATCH, None),
    Case("dash-name", "sae-dashboard", renamed(BATCH, "part-0.json"), "part-0.json"),
    Case("dash-keys", "sae-dashboard", row(BATCH, lambda d: d["features"][0].pop("dataset"), None), BATCH, 7),
    Case("dash-keys", "sae-dashboard", deep(BATCH, "features.0.label", "x"), BATCH, 7),
    Case("dash-keys", "sae-dashboard", row(BATCH, lambda d: d["features"][0]["activations"][0].pop("bin_min"), None),
         BATCH, 62),
    Case("field-missing", "sae-dashboard", row(BATCH, lambda d: d.pop("sae_id_suffix"), None), BATCH, 1),
    Case("dash-places", "sae-dashboard", deep(BATCH, "features.0.pos_values", [1.5, 1.123456]), BATCH, "1.123456"),
    Case("dash-places", "sae-dashboard", deep(BATCH, "features.1.frac_nonzero", 0.123456), BATCH, "0.123456"),
    Case("dash-places", "sae-dashboard", deep(BATCH, "features.1.activations.0.bin_max", 2.5000001), BATCH,
         "2.5000001"),
    Case("dash-vector", "sae-dashboard", deep(BATCH, "features.0.vector", []), BATCH, '"features": ['),
    Case("index-unique", "sae-dashboard", deep(BATCH, "features.1.feature_index", 0), BATCH, None),
    Case("length-logits", "sae-dashboard", deep(BATCH, "features.0.neg_values", []), BATCH, '"neg_values": []'),
    Case("frac-nonzero", "sae-dashboard", deep(BATCH, "features.0.frac_nonzero", 2), BATCH, '"frac_nonzero": 2'),
    Case("activation-length", "sae-dashboard", deep(BATCH, "features.0.activations.0.values", [0.5]), BATCH,
         '"values": ['),
    Case("activation-token", "sae-dashboard", deep(BATCH, "features.0.activations.0.qualifying_token_index", 2), BATCH,
         '"qualifying_token_index": 2'),
]  # fmt: skip


def metadata(**changed: Any) -> Callable[[Files], Files]:
    return deep(CFG, "metadata", config()["metadata"] | changed)


SAE_CASES = [
    Case("sae-files", "saelens", file_of(WEIGHTS, None), WEIGHTS),
    Case("sae-config", "saelens", deep(CFG, "dtype", "bfloat16"), CFG, '"dtype"'),
    Case("sae-config", "saelens", deep(CFG, "apply_b_dec_to_input", True), CFG, '"apply_b_dec_to_input"'),
    Case("sae-config", "saelens", deep(CFG, "architecture", "jumprelu"), CFG, '"architecture"'),
    Case("sae-config", "saelens", deep(CFG, "d_sae", 0), CFG, '"d_sae"'),
    Case("field-missing", "saelens", row(CFG, lambda d: d.pop("d_out"), None), CFG, 1),
    Case("sae-metadata", "saelens", row(CFG, lambda d: d["metadata"].pop("neuronpedia_id"), None), CFG, '"metadata"'),
    Case("sae-header", "saelens", lambda f: replaced(f, WEIGHTS, f[WEIGHTS] + b"0000"), WEIGHTS),
    Case("sae-header", "saelens", file_of(WEIGHTS, b"123"), WEIGHTS),
    Case("sae-header", "saelens", header(b_dec={"dtype": "F32", "shape": [2]}), WEIGHTS),
    Case("sae-header", "saelens", header(b_dec={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}), WEIGHTS),
    Case("sae-header", "saelens", header(W_dec={"dtype": "F32", "shape": [2, 2], "data_offsets": [96, 120]}), WEIGHTS),
    Case("sae-header", "saelens", lambda f: replaced(f, WEIGHTS, f[WEIGHTS][:-4]), WEIGHTS),
    Case("sae-tensors", "saelens", weights(b_enc=None), WEIGHTS),
    Case("sae-tensors", "saelens", weights(threshold=np.zeros(3, np.float32)), WEIGHTS),
    Case("sae-dtype", "saelens", weights(W_dec=tensors()["W_dec"].astype(np.float16)), WEIGHTS),
    Case("sae-shape", "saelens", weights(W_dec=tensors()["W_dec"].T.copy()), WEIGHTS),
    Case("sae-shape", "saelens", weights(b_enc=np.zeros(4, np.float32)), WEIGHTS),
    Case("sae-finite", "saelens", weights(W_dec=tensors()["W_dec"] * np.float32(np.nan)), WEIGHTS),
    Case("sae-hook", "saelens", metadata(hook_name="blocks.3.hook_resid_pre"), CFG, '"hook_name"'),
    Case("sae-hook", "saelens", metadata(hook_name_out="blocks.2.hook_mlp_out"), CFG, '"hook_name_out"'),
    Case("sae-hook-name", "saelens", metadata(hook_name_out="blocks.3.mlp.hook_mlp_out"), CFG, '"hook_name_out"'),
    Case("field-type", "saelens", metadata(context_size="128"), CFG, '"context_size"'),
    Case("field-missing", "saelens", row(CFG, lambda d: d["metadata"].pop("neuron_indices"), None), CFG, None),
    Case("sae-map", "saelens", metadata(neuron_indices=[1, 1]), CFG, '"neuron_indices"'),
    Case("sae-map", "saelens", metadata(neuron_indices=[1, 1, 88]), CFG, "88"),
    Case("sae-map", "saelens", metadata(polarity=[1, -1, 77]), CFG, "77"),
    Case("sae-selection", "saelens", metadata(neuron_indices=[1, 1, 5]), WEIGHTS),
    Case("sae-selection", "saelens", metadata(polarity=[1, -1, 1]), WEIGHTS),
    Case("sae-selection", "saelens", encoder((2, 0, 1)), WEIGHTS),
    Case("sae-selection", "saelens", encoder((4, 2, 0)), WEIGHTS),
    Case("sae-selection", "saelens", encoder((4, 2, -0.5)), WEIGHTS),
    Case("sae-selection", "saelens", weights(b_enc=np.ones(3, np.float32)), WEIGHTS),
    Case("sae-shape", "prd", file_of("saelens/sae_weights.safetensors",
                                     safetensors(tensors() | {"W_dec": tensors()["W_dec"].T.copy()})),
         "saelens/sae_weights.safetensors"),
]  # fmt: skip

FORM_CASES = [
    Case("prd-metadata", "prd", file_of("metadata.json", None), "metadata.json"),
    Case("field-missing", "prd", row("metadata.json", lambda d: d.pop("sae_name"), None), "metadata.json", 1),
    Case("prd-feature-name", "prd", renamed("features/2.json", "features/3.json"), "features/3.json",
         '"feature_index"'),
    Case("prd-feature-count", "prd", listing(feature_count=3), "metadata.json", '"feature_count"'),
    Case("prd-includes", "prd", lambda f: listing(includes=json.loads(f["metadata.json"])["includes"] | {
        "histograms": False})(f), "metadata.json", '"histograms"'),
    Case("prd-explanations", "prd", deep("features/2.json", "label", "other"), "features/2.json", '"label"'),
    Case("prd-explanations", "prd", row("explanations/explanations.json", lambda d: d.append(
        {"feature_index": 7, "label": "x"}), None), "explanations/explanations.json", None),
    Case("prd-histogram", "prd", deep("features/2.json", "histogram.counts", [1]), "features/2.json", '"bin_edges"'),
    Case("prd-histogram", "prd", deep("features/2.json", "histogram.bin_edges", [0, 2, 1]), "features/2.json",
         '"bin_edges"'),
    Case("prd-histogram", "prd", deep("features/2.json", "histogram.counts", [1, -2]), "features/2.json", '"counts"'),
    Case("frac-nonzero", "prd", deep("features/2.json", "statistics.activation_frequency", 7), "features/2.json",
         ": 7"),
    Case("field-missing", "prd", row("features/2.json", lambda d: d["statistics"].pop("max_activation"), None),
         "features/2.json", '"statistics"'),
    Case("field-type", "prd", listing(export_date="yesterday"), "metadata.json", "yesterday"),
    Case("prd-metadata", "prd", listing(d_in=0), "metadata.json", '"d_in"'),
    Case("prd-metadata", "prd", lambda f: listing(includes=json.loads(f["metadata.json"])["includes"] | {
        "histograms": "yes"})(f), "metadata.json", '"yes"'),
    Case("field-type", "prd", deep("features/2.json", "feature_index", "2"), "features/2.json", '"feature_index"'),
    Case("json-invalid", "prd", file_of("features/2.json", b"{"), "features/2.json"),
    Case("json-invalid", "prd", file_of("explanations/explanations.json", b"["), "explanations/explanations.json"),
    Case("json-object", "prd", file_of("explanations/explanations.json", b'"text"'),
         "explanations/explanations.json", 1),
    Case("field-missing", "prd", row("explanations/explanations.json", lambda d: d.append({"label": "x"}), None),
         "explanations/explanations.json", None),
    Case("prd-index", "prd", listing(d_sae=2), "features/2.json", '"feature_index"'),
    Case("field-missing", "prd", row("features/2.json", lambda d: d["activations"][0].pop("context_after"), None),
         "features/2.json", None),
    Case("graph-ids", "graph", row("tiny-1.json", lambda d: d["nodes"].append(d["nodes"][0]), None), "tiny-1.json", 53),
    Case("graph-links", "graph", deep("tiny-1.json", "links.1.target", "5_0_1"), "tiny-1.json", '"target": "5_0_1"'),
    Case("graph-position", "graph", deep("tiny-1.json", "nodes.1.ctx_idx", 2), "tiny-1.json", '"ctx_idx": 2'),
    Case("graph-logit", "graph", deep("tiny-1.json", "nodes.2.clerp", "b"), "tiny-1.json", '"clerp": "b"'),
    Case("graph-slug", "graph", lambda f: replaced(
        deep("tiny-1.json", "metadata.slug", " ")(f), "graph-metadata.json", None), "tiny-1.json", '"slug": " "'),
    Case("graph-slug", "graph", renamed("tiny-1.json", "tiny-2.json"), "tiny-2.json", '"slug"'),
    Case("graph-index", "graph", deep("graph-metadata.json", "graphs", [{"slug": "tiny-1"}, {"slug": "gone"}]),
         "graph-metadata.json", None),
    Case("graph-index", "graph", deep("graph-metadata.json", "graphs", []), "tiny-1.json", '"slug"'),
    Case("report-missing", "reports", file_of("html/C1.2.html", None), "index.json", '"file": "C1.2"'),
    Case("report-extra", "reports", file_of("html/L0_N0.html", b"<html></html>"), "html/L0_N0.html"),
    Case("report-schema", "reports", file_of("json/L3_N17_dashboard.json", lines(
        {"schema": "atlas-neuron-dashboard/1", "id": "L3/N18"})), "json/L3_N17_dashboard.json", 1),
    Case("report-schema", "reports", deep("index.json", "schema", "other/1"), "index.json", "other/1"),
    Case("report-schema", "reports", deep("index.json", "reports.1.id", "1.3"), "json/C1.2_dashboard.json", 1),
    Case("report-schema", "reports", deep("index.json", "reports.0.kind", "layer"), "index.json", '"layer"'),
    Case("report-schema", "reports", file_of("json/C1.2_dashboard.json", lines({"cluster_path": "1.2"})),
         "json/C1.2_dashboard.json", 1),
    Case("field-missing", "reports", row("index.json", lambda d: d["reports"].append({"kind": "neuron"}), None),
         "index.json", None),
    Case("report-offline", "reports", file_of("html/C1.2.html", b'<html>\n<script src="https://a.example/b.js">'),
         "html/C1.2.html", 2),
]  # fmt: skip


CASES = [*FILE_CASES, *BULK_CASES, *UPLOAD_CASES, *DASH_CASES, *SAE_CASES, *FORM_CASES]
