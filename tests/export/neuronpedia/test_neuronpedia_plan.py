"""Plans that are refused, atlases that lack things, ways to choose neurons, and the small pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_atlas import D_MLP, LAYERS, contents, document, published_tables, rows
from synthetic import small_tables, write_atlas

import atlas
from atlas import InputError, ModelError, StoreError
from atlas.build.neuronpedia import estimate, export_neuronpedia
from atlas.export.neuronpedia.layout import cut
from atlas.export.neuronpedia.plan import NeuronpediaPlan, merged_bins
from atlas.export.neuronpedia.records import histogram
from atlas.export.neuronpedia.selection import Choice, chosen
from atlas.export.neuronpedia.tally import Tally, visible

LAYOUTS = ("bulk", "upload", "prd", "sae-dashboard")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = published_tables(1)
    for name in ("exemplars", "logit_lens", "token_stats"):  # small, so that many runs are quick
        tables[name] = [row for row in tables[name] if row["neuron"] % 9 == 0]
    return write_atlas(tmp_path_factory.mktemp("a") / "a.duckdb", tables, layers=LAYERS, d_mlp=D_MLP, name="a")


@pytest.fixture(scope="module")
def opened(file: Path) -> Iterator[atlas.Atlas]:
    with atlas.open(file) as a:
        yield a


# -- plans that are refused, atlases that lack things ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "jsonl"}, "no layout 'jsonl'; choose bulk"),
        ({"top_k": 0}, "--top-k is 0"),
        ({"bins": 0}, "--bins is 0"),
        ({"tokens": -1}, "--tokens is -1"),
        ({"activations": 0}, "--activations is 0"),
        ({"signs": ()}, "signs are"),
        ({"signs": (2,)}, "signs are"),
        ({"neurons": []}, "no neurons to export"),
        ({"neurons": [450]}, "0..449, found 450..450"),
        ({"neurons": [-1]}, "0..449, found -1..-1"),
        ({"layout": "upload", "set": "neurons"}, "takes no set called 'neurons'"),
        ({"set": "mine"}, "in the bulk layout MLP neurons are the set 'neurons'"),
        ({"layout": "upload", "top_k": 21}, "at most 20"),
        ({"model_id": "Qwen/Qwen3"}, "--model-id is 'Qwen/Qwen3'; use lower-case"),
        ({"release": "a b"}, "--release"),
        ({"creator_id": "me@home"}, "--creator-id is 'me@home'"),
        ({"author_id": "\udcff"}, "--author-id"),
        ({"visibility": "hidden"}, "no visibility 'hidden'"),
        ({"model": "no such folder"}, "no such folder"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_is_written(
    opened: atlas.Atlas, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises((InputError, ModelError), match=said.replace("(", "\\(")):
        export_neuronpedia(opened, tmp_path / "t", replace(NeuronpediaPlan(range(3)), **changes))
    assert not list(tmp_path.iterdir())


def lacking(tmp_path: Path, *names: str) -> Path:
    tables = {name: rows for name, rows in small_tables().items() if name not in names}
    if "names" in names:
        tables["neurons"] = [row | {"label": None} for row in tables["neurons"]]
    return write_atlas(tmp_path / "lacking.duckdb", tables)


@pytest.mark.parametrize(
    ("names", "possible"),
    [
        (("exemplars", "contexts"), ["bulk", "prd", "sae-dashboard"]),
        (("neuron_stats",), ["bulk", "prd"]),
        (("labels", "logit_lens"), list(LAYOUTS)),  # neurons have names still
        (("labels", "names"), list(LAYOUTS)),
        (("exemplars", "contexts", "neuron_stats", "labels", "names", "logit_lens", "vocab"), ["bulk", "prd"]),
    ],
)
def test_what_an_atlas_lacks_is_said_and_impossible_layouts_are_refused(
    tmp_path: Path, names: tuple[str, ...], possible: list[str]
) -> None:
    with atlas.open(lacking(tmp_path, *names)) as a:
        for layout in LAYOUTS:
            plan = NeuronpediaPlan(range(24), layout)
            if layout in possible:
                assert estimate(a, plan).layouts == tuple(possible)
                made = export_neuronpedia(a, tmp_path / layout, plan)
                assert ("logit_lens" in names) == any("no logit lens" in note for note in made.notes)
                told = document(contents(made.path)["metadata.json"])
                assert told["includes"]["logit_lens"] == ("logit_lens" not in names)
                assert told["includes"]["explanations"] == ("names" not in names and layout != "sae-dashboard")
                unlabelled = "names" in names and layout != "sae-dashboard"
                assert unlabelled == any("no explanations" in note for note in made.notes)
                hist = "neuron_stats" not in names and layout != "upload"
                assert told["includes"]["histograms"] == hist
                assert hist == any("32 bins, each 2 stored ones (50 do not" in note for note in made.notes)
            else:
                with pytest.raises(StoreError, match=f"possible here: --layout {' or '.join(possible)}"):
                    export_neuronpedia(a, tmp_path / layout, plan)
                assert not (tmp_path / layout).exists()


def test_an_atlas_of_another_tool_gives_names_alone(tmp_path: Path) -> None:
    small = write_atlas(tmp_path / "small.duckdb", small_tables())
    con = duckdb.connect(str(tmp_path / "qwen.duckdb"))
    con.execute(f"ATTACH '{small}' AS ours (READ_ONLY)")
    con.execute("CREATE TABLE neurons AS SELECT layer, neuron, feature_id, label, description FROM ours.neurons")
    con.execute("CREATE TABLE metadata AS SELECT * FROM ours.metadata WHERE key = 'model'")
    con.close()
    with atlas.open(tmp_path / "qwen.duckdb") as a:
        made = export_neuronpedia(a, tmp_path / "t", NeuronpediaPlan(range(24)))
        found = rows(made.path, "explanations")
    assert {row["description"] for row in found} == {r["label"] for r in small_tables()["neurons"] if r["label"]}
    assert len(rows(made.path, "features")) == 24 and rows(made.path, "activations") == []
    assert not any("/activations" in name for name in contents(made.path))


# -- choosing neurons --------------------------------------------------------------------------------------------


def test_neurons_are_chosen_one_way(opened: atlas.Atlas) -> None:
    extracted = [i for i in range(450) if i % 150 % 9 == 0]
    assert chosen(opened, Choice()) == chosen(opened, Choice(extracted=True)) == extracted
    assert chosen(opened, Choice(everything=True)) == list(range(450))
    assert chosen(opened, Choice(span="0:2")) == [0, 1, 2]
    assert chosen(opened, Choice(("layer:1", "L0/N3"))) == [3, *range(150, 300)]
    select = "SELECT layer, neuron FROM neurons WHERE neuron = 4 ORDER BY layer DESC"
    assert chosen(opened, Choice(sql=select)) == [4, 154, 304]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (Choice(("L0/N1",), everything=True), "one way"),
        (Choice(span="3"), "cannot read the range '3'"),
        (Choice(span="5:4"), "not within 0:449"),
        (Choice(span="0:450"), "not within 0:449"),
        (Choice(sql="SELECT layer FROM neurons"), "columns layer and neuron"),
        (Choice(sql="SELECT layer, neuron FROM neurons WHERE false"), "gives no row"),
        (Choice(sql="DROP TABLE neurons"), "read-only"),
        (Choice(("label:nothing at all",)), "no neuron matches"),
    ],
)
def test_a_bad_choice_is_refused(opened: atlas.Atlas, choice: Choice, said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen(opened, choice)


def test_no_exemplars_no_extracted_neurons(tmp_path: Path) -> None:
    with atlas.open(lacking(tmp_path, "exemplars")) as a, pytest.raises(StoreError, match="--all"):
        chosen(a, Choice())


# -- small pieces ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=66, max_size=66), st.integers(1, 200))
def test_a_histogram_keeps_every_count(stored: list[int], bins: int) -> None:
    row = {"hist": stored, "hist_lo": -1.0, "hist_hi": 3.0, "min": -2.0, "max": 4.0}
    found = histogram(row, bins, Tally())
    if not sum(stored):
        assert found is None
        return
    assert found is not None
    assert sum(found.counts) == sum(stored) and len(found.edges) == len(found.counts) + 1
    assert np.all(np.diff(found.edges) > 0)
    inner = len(found.counts) - bool(stored[0]) - bool(stored[65])
    assert 64 % inner == 0 and inner <= bins and inner == merged_bins(64, bins)


def test_a_histogram_that_makes_no_sense_is_left_out_and_counted() -> None:
    row = {"hist": [1, *[2] * 64, 0], "hist_lo": -1.0, "hist_hi": 3.0, "min": -0.5, "max": 2.0}
    tally = Tally()
    assert histogram(row, 64, tally) is None and sum(tally.left_out.values()) == 1
    closed = histogram(row | {"hist": [0, *[2] * 64, 5], "max": 3.0}, 64, Tally())
    assert closed is not None and closed.counts[-1] == 7  # all at the right edge


@given(st.text())
def test_visible_texts_keep_what_can_be_kept(text: str) -> None:
    made = visible(text)
    assert "\x00" not in made and "\\u0000" not in made
    made.encode()
    if "\x00" not in text and "\\u0000" not in text:
        assert made == text


@given(st.text(min_size=1, max_size=40), st.integers(2, 30))
def test_a_cut_text_fits_as_javascript_counts(text: str, limit: int) -> None:
    tally = Tally()
    made = cut(text, limit, tally, what="texts")
    assert len(made.encode("utf-16-le")) // 2 <= limit
    assert (made == text) == (not tally.altered) or made.endswith("…")
