"""Every record of every layout against plain Python over the tables; nothing here shares code with the export."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_atlas import (
    D_MLP,
    DEAD,
    LACKING,
    LAYERS,
    LONG,
    NAN,
    SIGNS,
    UNMEASURED,
    VOCAB,
    contents,
    document,
    f32,
    published_tables,
    rows,
)
from synthetic import Row, Tables, write_atlas

import atlas
from atlas.export.neuronpedia.plan import NeuronpediaPlan
from atlas.export.neuronpedia.write import export_neuronpedia

Make = Callable[..., Path]
EVERY = range(LAYERS * D_MLP)
FACTS: dict[str, Any] = {"context_length": 128, "corpus_documents": 20, "d_model": 16, "name": "a"}


@pytest.fixture(scope="module")
def tables() -> Tables:
    return published_tables()


@pytest.fixture(scope="module")
def opened(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Iterator[atlas.Atlas]:
    path = write_atlas(tmp_path_factory.mktemp("a") / "a.duckdb", tables, layers=LAYERS, d_mlp=D_MLP, **FACTS)
    with atlas.open(path) as a:
        yield a


@pytest.fixture(scope="module")
def package(opened: atlas.Atlas, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Packages of every neuron, each made once."""
    there: dict[str, Path] = {}

    def make(layout: str, signs: str = "both", **more: Any) -> Path:
        key = repr((layout, signs, more))
        if key not in there:
            plan = NeuronpediaPlan(EVERY, layout, signs=SIGNS[signs], activations=4, **more)
            there[key] = export_neuronpedia(opened, tmp_path_factory.mktemp("p") / "package", plan).path
        return there[key]

    return make


# -- what the tables say -----------------------------------------------------------------------------------------


def text_of(token: int) -> str:
    if token >= len(VOCAB):
        return f"<{token}>"
    return VOCAB[token].replace("\x00", "\\x00").replace("\\u0000", "\\x00") or f"<{token}>"


def clean(text: str) -> str:
    return text.replace("\x00", "\\x00").replace("\\u0000", "\\x00")


def stats_of(tables: Tables) -> dict[tuple[int, int], Row]:
    return {(r["layer"], r["neuron"]): r for r in tables["neuron_stats"]}


def exemplars_of(tables: Tables, signs: tuple[int, ...], most: int = 4) -> dict[tuple[int, int], list[Row]]:
    """Strongest of each sign, positive first, with tokens and values; those that cannot be shown left out."""
    texts = {c["context_id"]: c for c in tables["contexts"]}
    found: dict[tuple[int, int], list[Row]] = {}
    ordered = sorted(tables["exemplars"], key=lambda r: (r["layer"], r["neuron"], -r["polarity"], r["rank"]))
    for row in ordered:
        if row["stratum"] or row["rank"] >= most or row["polarity"] not in signs or row["context_id"] not in texts:
            continue
        start = row["position"] if row["window"] is None else row["window_start"]
        values = [row["activation"]] if row["window"] is None else row["window"]
        if any(math.isnan(v) for v in values):
            continue
        ids = texts[row["context_id"]]["token_ids"][start : start + len(values)]
        found.setdefault((row["layer"], row["neuron"]), []).append(
            row | {"tokens": [text_of(i) for i in ids], "values": values, "peak": row["position"] - start,
                   "corpus": clean(texts[row["context_id"]]["corpus"])}
        )  # fmt: skip
    return found


def lens_of(tables: Tables, sign: int, most: int = 20) -> dict[tuple[int, int], list[tuple[str, float]]]:
    found: dict[tuple[int, int], list[tuple[str, float]]] = {}
    for r in sorted(tables["logit_lens"], key=lambda r: r["rank"]):
        if r["polarity"] == sign and r["rank"] < most:
            found.setdefault((r["layer"], r["neuron"]), []).append((text_of(r["token_id"]), r["value"]))
    return found


def labels_of(tables: Tables, signs: tuple[int, ...]) -> dict[tuple[int, int], list[Row]]:
    found: dict[tuple[int, int], list[Row]] = {}
    for r in tables["labels"]:
        if r["status"] == "ok" and r["label"] and r["polarity"] in (0, *signs):
            found.setdefault((r["layer"], r["neuron"]), []).append(r)
    return found


def bars_of(stats: Row, inner: int = 32) -> tuple[list[float], list[int]]:
    """Edges and counts of 64 bins merged into `inner`, with outer bins where there is something."""
    each, stored = 64 // inner, stats["hist"]
    counts = [sum(stored[1 + i * each : 1 + (i + 1) * each]) for i in range(inner)]
    edges = [stats["hist_lo"] + (stats["hist_hi"] - stats["hist_lo"]) * i / inner for i in range(inner + 1)]
    if stored[0]:
        edges, counts = [stats["min"], *edges], [stored[0], *counts]
    if stored[65]:
        edges, counts = [*edges, stats["max"]], [*counts, stored[65]]
    return edges, counts


def same(values: list[float], stored: list[float]) -> bool:
    """JSON numbers that are the stored float32 again."""
    return [np.float32(v) for v in values] == [np.float32(v) for v in stored]


# -- bulk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signs", ["+", "-", "both"])
def test_bulk_activations_are_the_exemplars(package: Make, tables: Tables, signs: str) -> None:
    made = package("bulk", signs)
    found: dict[tuple[int, int], list[Row]] = {}
    for row in rows(made, "activations"):
        found.setdefault((int(row["layer"]), int(row["index"])), []).append(row)
    expected, stats = exemplars_of(tables, SIGNS[signs]), stats_of(tables)
    assert found.keys() == expected.keys() and len(expected) > 400
    assert DEAD not in found and NAN not in found and UNMEASURED in found
    for key, exemplars in expected.items():
        assert len(found[key]) == len(exemplars)
        for row, stored in zip(found[key], exemplars, strict=True):
            assert row["tokens"] == stored["tokens"] and same(row["values"], stored["values"])
            assert row["maxValue"] == max(row["values"]) and row["minValue"] == min(row["values"])
            assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"]
            assert np.float32(row["values"][row["qualifyingTokenIndex"]]) == np.float32(stored["activation"])
            negative = " (negative exemplar)" if stored["polarity"] < 0 else ""
            assert row["dataSource"] == stored["corpus"] + negative
            assert (row["binMin"], row["binMax"], row["binContains"]) == interval_of(stats.get(key), stored)


def interval_of(stats: Row | None, exemplar: Row) -> tuple[Any, ...]:
    if stats is None:
        return None, None, None
    n, a = stats["n_tokens"], exemplar["activation"]
    short = lambda v: float(str(np.float32(v)))  # noqa: E731
    if a < 0:  # fire_neg is -0.5, all negative exemplars are beyond it
        return -3.0, -0.5, stats["n_fired_neg"] / n
    if stats["fire_pos"] is None:
        return 0.0, 3.0, stats["n_active"] / n
    if a > stats["fire_pos"]:
        return short(2.3), 3.0, stats["n_fired_pos"] / n
    return 0.0, short(2.3), pytest.approx((stats["n_active"] - stats["n_fired_pos"]) / n)


def test_bulk_features_are_the_statistics_and_the_logit_lens(package: Make, tables: Tables) -> None:
    found = {(int(r["layer"]), int(r["index"])): r for r in rows(package("bulk"), "features")}
    assert sorted(found) == [(layer, n) for layer in range(LAYERS) for n in range(D_MLP)]
    stats, up, down = stats_of(tables), lens_of(tables, 1), lens_of(tables, -1)
    for key, row in found.items():
        assert row["sourceSetName"] == "neurons" and row["modelId"] == "toy"
        assert row["hookName"] == f"blocks.{key[0]}.mlp.hook_post"
        for name, lens in (("pos", up), ("neg", down)):
            assert row[f"{name}_str"] == [t for t, _ in lens.get(key, [])]
            assert same(row[f"{name}_values"], [v for _, v in lens.get(key, [])])
        if key == UNMEASURED:
            assert row["frac_nonzero"] == -1 and row["freq_hist_data_bar_heights"] == []
            assert row["maxActApprox"] == max(max(e["values"]) for e in exemplars_of(tables, (1, -1))[key])
            continue
        assert row["frac_nonzero"] == stats[key]["n_active"] / stats[key]["n_tokens"]
        assert row["maxActApprox"] == 3.0
        edges, counts = bars_of(stats[key])
        assert row["freq_hist_data_bar_heights"] == counts and sum(counts) == stats[key]["n_tokens"]
        middles = [(a + b) / 2 for a, b in pairwise(edges)]
        assert row["freq_hist_data_bar_values"] == pytest.approx(middles, abs=1e-6)


@pytest.mark.parametrize("signs", ["+", "both"])
def test_bulk_explanations_are_the_labels(package: Make, tables: Tables, signs: str) -> None:
    found = rows(package("bulk", signs), "explanations")
    expected = Counter(
        (key, ("when negative: " if r["polarity"] < 0 else "") + clean(r["label"]), r["score"] or 0)
        for key, labels in labels_of(tables, SIGNS[signs]).items()
        for r in labels
    )
    assert Counter(((int(r["layer"]), int(r["index"])), r["description"], r["scoreV1"]) for r in found) == expected
    notes = [json.loads(row["notes"]) for row in found]
    assert {note["source"] for note in notes} == {"rule:tokens", "llm"}
    assert all(row["typeName"] is None and row["explanationModelName"] is None for row in found)
    assert any(row["description"] == "a NUL \\x00 and \\x00" for row in found)


def test_no_trap_of_the_importer_is_in_a_bulk_package(package: Make) -> None:
    made = package("bulk", visibility="unlisted", model_id="toy-model")
    files, ids = contents(made), []
    for kind in ("features", "activations", "explanations"):
        found = rows(made, kind)
        assert len({tuple(row) for row in found}) == 1
        assert "\\u0000" not in json.dumps(found) and "\x00" not in json.dumps(found, ensure_ascii=False)
        ids += [row["id"] for row in found if "id" in row]
    assert len(ids) == len(set(ids)) > 4000
    for layer in range(LAYERS):
        for name in ("model", "release", "sourceset", "source"):
            text = files[f"toy-model/{layer}/{name}.jsonl"].decode()
            assert text.count("\n") == 1 and document(text.encode())["visibility"] == "UNLISTED"
        source = document(files[f"toy-model/{layer}/source.jsonl"])
        assert (source["id"], source["setName"], source["num_tokens_in_prompt"]) == (str(layer), "neurons", 128)
    model = document(files["toy-model/0/model.jsonl"])
    assert (model["layers"], model["neuronsPerLayer"], model["dimension"]) == (LAYERS, D_MLP, 16)


def test_what_was_altered_and_left_out_is_counted(package: Make, tables: Tables) -> None:
    files = contents(package("bulk"))
    told, readme = document(files["metadata.json"]), files["README.md"].decode()
    unknown = sum(
        t == f"<{LACKING}>" for some in exemplars_of(tables, (1, -1)).values() for e in some for t in e["tokens"]
    )
    assert told["altered"]["tokens without a text in the vocabulary: written as <id>"] == unknown > 0
    assert told["left_out"]["exemplars: an activation is not a number"] == 8
    assert told["left_out"]["exemplars: their text is not stored"] == 2
    assert told["counts"]["features without activations"] == 2  # DEAD and NAN
    for count in told["left_out"].values():
        assert f"- {count:,} " in readme
    assert "the final norm's weight folded in" in readme


# -- upload ------------------------------------------------------------------------------------------------------


def test_upload_bodies_hold_what_the_route_takes(package: Make, tables: Tables) -> None:
    files = contents(package("upload", "+"))
    bodies = {name: document(text) for name, text in files.items() if name.endswith(".json") and "/" in name}
    assert sorted(bodies) == sorted(f"{layer}-atlas-mlp/batch-{n}.json" for layer in range(LAYERS) for n in (0, 1))
    exemplars, stats, labels = exemplars_of(tables, (1,)), stats_of(tables), labels_of(tables, (1,))
    lens = lens_of(tables, 1)
    seen = set()
    for name, body in bodies.items():
        assert body["source"] == name.split("/")[0] and 1 <= len(body["features"]) <= 128
        for feature in body["features"]:
            key = int(body["source"].split("-")[0]), feature["index"]
            seen.add(key)
            assert feature["density"] == stats[key]["n_active"] / stats[key]["n_tokens"]
            assert [t["token"] for t in feature["topLogits"]] == [t for t, _ in lens.get(key, [])]
            assert len(feature["explanations"]) == len(labels.get(key, []))
            for one in feature["explanations"]:
                assert 1 <= len(one["text"].encode("utf-16-le")) // 2 <= 512 and one["modelName"] is None
            for row, stored in zip(feature["activations"], exemplars[key], strict=True):
                check_upload(row, stored)
    assert seen == {k for k in exemplars if k in stats}
    told = document(files["metadata.json"])
    assert told["left_out"]["neurons: without statistics there is no density"] == 1
    assert told["left_out"]["neurons: without an exemplar there is no activation"] == 2  # DEAD and NAN
    assert told["altered"]["explanations over 512 characters: cut, with an ellipsis"] == 1
    long = next(f for f in bodies["1-atlas-mlp/batch-0.json"]["features"] if f["index"] == LONG[1])
    assert any(e["text"].endswith("…") for e in long["explanations"])
    assert "/api/feature/upload-batch" in files["README.md"].decode()


def check_upload(row: Row, stored: Row) -> None:
    size = len(row["tokens"])
    assert 1 <= size == len(row["values"]) <= 1024 and all(row["tokens"])
    whole = [np.float32(v) for v in stored["values"]]
    shown = [np.float32(v) for v in row["values"]]
    starts = [i for i in range(len(whole) - size + 1) if whole[i : i + size] == shown]
    assert starts and row["tokens"] == stored["tokens"][starts[0] : starts[0] + size]
    assert size == len(whole) or size == 1024
    assert np.float32(stored["activation"]) in shown
    assert row["quantileMin"] <= stored["activation"] <= row["quantileMax"] and 0 <= row["quantileFraction"] <= 1


def test_long_texts_are_cut_around_the_peak(package: Make, tables: Tables) -> None:
    long = [e for e in exemplars_of(tables, (1, -1))[0, 0] if len(e["tokens"]) > 1024]
    assert long, "the tables have no long exemplar; draw them with another seed"
    told = document(contents(package("upload"))["metadata.json"])
    assert told["altered"]["exemplars over 1,024 tokens: cut around the peak"] == len(long)


# -- the export document's package -------------------------------------------------------------------------------


def test_prd_features_are_in_the_form_of_the_document(package: Make, tables: Tables) -> None:
    files = contents(package("prd", "both", bins=64, tokens=3))
    exemplars, stats, up = exemplars_of(tables, (1, -1)), stats_of(tables), lens_of(tables, 1)
    explained = labels_of(tables, (1, -1))
    names = {(r["layer"], r["neuron"]): r for r in tables["neurons"]}
    modules = {r["cluster_path"]: r["label"] for r in tables["clusters"]}
    for number in EVERY:
        key = divmod(number, D_MLP)
        feature = document(files[f"features/{number}.json"])
        assert (feature["feature_index"], feature["layer"], feature["neuron"]) == (number, *key)
        path = names[key]["cluster_path"]
        above = [path.split(".")[0], path] if path else []
        assert feature["category"] == (" > ".join(modules[p] for p in above) if path else None)
        texts = [clean(r["label"]) for r in explained.get(key, [])]
        assert feature["label"] in texts if texts else feature["label"] is None
        if names[key]["label"] in texts:
            assert feature["label"] == names[key]["label"]
        assert [t["token"] for t in feature["logit_lens"]["top_positive"]] == [t for t, _ in up.get(key, [])]
        assert [a["value"] for a in feature["activations"]] == pytest.approx(
            [e["activation"] for e in exemplars.get(key, [])], rel=1e-6
        )
        for row, stored in zip(feature["activations"], exemplars.get(key, []), strict=True):
            whole = row["context_before"] + row["token"] + row["context_after"]
            assert whole == "".join(stored["tokens"]) and row["token"] == stored["tokens"][stored["peak"]]
        if key in stats:
            edges, counts = bars_of(stats[key], 64)
            assert feature["histogram"]["counts"] == counts
            assert feature["histogram"]["bin_edges"] == pytest.approx(edges, abs=1e-6)
            told = feature["statistics"]
            assert told["activation_frequency"] == stats[key]["n_active"] / stats[key]["n_tokens"]
            mean = (40.25 - 1.5) / 2 / stats[key]["n_active"]  # half of sum |a| + sum a is the sum of what is above 0
            assert told["mean_activation"] == pytest.approx(mean, rel=1e-6) and told["max_activation"] == 3.0


def test_prd_top_tokens_are_those_of_the_neurons_own_answer(opened: atlas.Atlas, package: Make) -> None:
    files = contents(package("prd", "+", tokens=3))
    for number in range(0, 450, 17):
        feature = document(files[f"features/{number}.json"])
        answer = [r for r in opened.neuron(number, k=3).top_tokens.rows() if r["polarity"] > 0]
        assert [(t["token"], t["count"]) for t in feature["top_tokens"]] == [
            (text_of(r["token_id"]), r["n"]) for r in answer
        ]
        assert [t["mean_activation"] for t in feature["top_tokens"]] == pytest.approx(
            [r["mean"] for r in answer], rel=1e-6
        )


def test_prd_explanations_are_one_list(package: Make, tables: Tables) -> None:
    files = contents(package("prd"))
    found = document(files["explanations/explanations.json"])
    expected = Counter(
        (layer * D_MLP + n, clean(r["label"]), r["polarity"])
        for (layer, n), labels in labels_of(tables, (1, -1)).items()
        for r in labels
    )
    assert Counter((r["feature_index"], r["label"], r["polarity"]) for r in found) == expected
    told = document(files["metadata.json"])
    assert (told["feature_count"], told["d_sae"], told["layer"], told["layers"]) == (450, 450, -1, [0, 1, 2])
    assert told["includes"] == {"logit_lens": True, "histograms": True, "top_tokens": True, "explanations": True,
                                "saelens_weights": False}  # fmt: skip


# -- SAEDashboard ------------------------------------------------------------------------------------------------


def test_dashboard_batches_have_25_keys_and_5_places(package: Make, tables: Tables) -> None:
    files = contents(package("sae-dashboard"))
    exemplars, stats = exemplars_of(tables, (1, -1)), stats_of(tables)
    number = 0
    for layer in range(LAYERS):
        for batch in range(2):
            told = document(files[f"{layer}/batch-{batch}.json"])
            assert {k: told[k] for k in told if k != "features"} == {
                "model_id": "toy", "layer": layer, "sae_set": "neurons", "sae_id_suffix": None,
            }  # fmt: skip
            for feature in told["features"]:
                key = layer, feature["feature_index"]
                assert key == divmod(number, D_MLP) and len(feature) == 25
                number += 1
                assert all(value == round(value, 5) for value in floats(feature))
                assert len(feature["activations"]) == len(exemplars.get(key, []))
                for row, stored in zip(feature["activations"], exemplars.get(key, []), strict=True):
                    assert row["tokens"] == stored["tokens"]
                    assert row["values"] == pytest.approx(stored["values"], abs=5.1e-6)
                    assert row["qualifying_token_index"] == stored["peak"]
                if key in stats:
                    assert feature["freq_hist_data_bar_heights"] == bars_of(stats[key])[1]
                    assert feature["frac_nonzero"] == round(stats[key]["n_active"] / stats[key]["n_tokens"], 5)
                else:
                    assert feature["frac_nonzero"] == -1
    assert number == 450


def floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from floats(one)


# -- what is left out, and the manifest --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["bulk", "upload", "prd", "sae-dashboard"])
def test_what_is_not_wanted_is_not_in(package: Make, layout: str) -> None:
    without = {"logit_lens": False, "histograms": False, "top_tokens": False, "explanations": False}
    files = contents(package(layout, **without))
    told = document(files["metadata.json"])
    assert set(told["includes"].values()) == {False} and "explanations" not in told["counts"]
    assert not any("explanations" in name for name in files)
    if layout == "prd":
        assert not {"logit_lens", "histogram", "top_tokens"} & document(files["features/7.json"]).keys()
    if layout == "bulk":
        names = set(rows(package(layout, **without), "features")[0])
        assert not [n for n in names if n.startswith(("pos_", "neg_", "freq_"))]


@pytest.mark.parametrize("layout", ["bulk", "upload", "prd", "sae-dashboard"])
def test_every_file_is_in_the_manifest_with_its_hash(opened: atlas.Atlas, tmp_path: Path, layout: str) -> None:
    plan = NeuronpediaPlan(range(40, 260), layout)
    made = export_neuronpedia(opened, tmp_path / "p", plan)
    files = contents(made.path)
    told = document(files["metadata.json"])
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert told["files"] == {name: one for name, one in hashes.items() if name != "metadata.json"}
    whole = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    assert made.sha256 == hashlib.sha256(whole.encode()).hexdigest()
    assert made.files == len(files)
    sizes = made.path.stat().st_size if layout == "prd" else sum(map(len, files.values()))
    assert made.size_bytes == sizes
    assert told["atlas"]["fingerprint"] == opened.hash() and told["layout"] == layout
    assert told["feature_count"] == made.features and told["layers"] == [0, 1]


def test_float32_values_are_written_with_the_fewest_digits(package: Make) -> None:
    row = rows(package("bulk"), "activations")[0]
    assert all(len(repr(v)) <= 16 for v in row["values"]) and f32(row["values"][0]) != row["values"][0]
