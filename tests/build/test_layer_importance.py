"""Importance of a layer against a copy of the model with edited weights, one neuron at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pruning_model import D_MLP, drawn_texts, edited_kl, number_atlas, number_model

from atlas.build.impacts import HeldOutText
from atlas.build.importance import FEWEST, SHARE, Importance, ImportanceOptions, affordable, layer_importance
from atlas.build.measured_sets import Judging
from atlas.build.prune_batch import batch_analysis
from atlas.errors import InputError
from atlas.models.adapter import Adapter
from atlas.store.connection import open_reader

TEXTS = drawn_texts(12, 9)
TEXT = HeldOutText(texts=TEXTS, fresh=True)
UNSTORED = Judging(store=False)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return number_model()


@pytest.fixture(scope="module")
def file(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return number_atlas(tmp_path_factory.mktemp("numbers"), adapter)


@pytest.fixture(scope="module")
def truth(adapter: Adapter) -> list[float]:
    return [edited_kl(adapter, [i], TEXTS) for i in range(D_MLP)]


@pytest.fixture(scope="module")
def estimated(adapter: Adapter, file: Path) -> Importance:
    return layer_importance(file, 0, TEXT, model=adapter, options=ImportanceOptions(share=12))


def test_measured_neurons_have_the_value_of_edited_weights(estimated: Importance, truth: list[float]) -> None:
    measured = {row["neuron"]: row["kl"] for row in estimated.scores if row["evidence"] == "measured"}
    assert len(measured) == 3 * 5
    assert list(measured.values()) == pytest.approx([truth[i] for i in measured], rel=1e-9)


def test_estimates_follow_the_values_of_edited_weights(estimated: Importance, truth: list[float]) -> None:
    rows = [row for row in estimated.scores if row["evidence"] == "estimated"]
    ratios = np.log([row["kl"] / truth[row["neuron"]] for row in rows])
    assert len(rows) == D_MLP - 15
    assert np.median(np.abs(ratios)) < np.log(1.6)
    assert np.abs(np.median(ratios)) < np.log(1.4)
    inside = [row["kl_low"] <= truth[row["neuron"]] <= row["kl_high"] for row in rows]
    assert np.mean(inside) >= 0.85
    assert all(row["mean_change"] is None and row["safe_to_prune"] is None for row in rows)


def test_critical_neurons_are_those_of_the_rule(estimated: Importance) -> None:
    kl = [row["kl"] for row in estimated.scores]
    third, middle = np.quantile(kl, 0.75), np.median(kl)
    expected = [row["kl"] > third and row["kl_low"] > middle for row in estimated.scores]
    assert [row["is_critical"] for row in estimated.scores] == expected
    assert estimated.critical_neurons == sum(expected)


def test_sql_gives_what_the_document_says(estimated: Importance, file: Path) -> None:
    told = estimated.document()
    with open_reader(file) as con:
        rows = con.sql("FROM importance_of_layer(0)").to_arrow_table().to_pylist()
        layers = con.sql("FROM importance_layers()").to_arrow_table().to_pylist()
    names = list(told["importance_scores"][0])
    assert [{name: row[name] for name in names} for row in rows] == told["importance_scores"]
    (layer,) = (row for row in layers if row["layer_index"] == 0)
    assert [layer[n] for n in ("total_neurons", "critical_neurons", "measured_neurons")] == [
        told["total_neurons"], told["critical_neurons"], told["measured_neurons"]
    ]  # fmt: skip


def test_exact_measures_all_and_estimates_nothing(adapter: Adapter, file: Path, truth: list[float]) -> None:
    found = layer_importance(file, 0, TEXT, model=adapter, options=ImportanceOptions(exact=True, judging=UNSTORED))
    assert {row["evidence"] for row in found.scores} == {"measured"}
    assert {row["neuron"]: row["kl"] for row in found.scores} == pytest.approx(dict(enumerate(truth)), rel=1e-9)


def test_stored_measurements_take_the_place_of_estimates(
    adapter: Adapter, tmp_path: Path, estimated: Importance
) -> None:
    file = number_atlas(tmp_path, adapter)
    layer_importance(file, 0, TEXT, model=adapter, options=ImportanceOptions(exact=True))
    again = layer_importance(file, 0, TEXT, model=adapter, options=ImportanceOptions(share=12))
    assert {row["evidence"] for row in again.scores} == {"measured"}
    assert again.calibration == estimated.calibration


def test_a_neuron_measured_later_stays_in_its_layer(adapter: Adapter, tmp_path: Path, truth: list[float]) -> None:
    file = number_atlas(tmp_path, adapter)
    first = layer_importance(file, 0, TEXT, model=adapter, options=ImportanceOptions(share=12))
    (row, *_) = (row for row in first.scores if row["evidence"] == "estimated")
    batch_analysis(file, [row["neuron"]], TEXT, model=adapter)
    with open_reader(file) as con:
        rows = con.sql("FROM importance_of_layer(0)").to_arrow_table().to_pylist()
    assert len(rows) == D_MLP
    (now,) = (one for one in rows if one["neuron_index"] == row["neuron"])
    assert now["evidence"] == "measured"
    assert now["kl"] == pytest.approx(truth[row["neuron"]], rel=1e-9)
    assert now["activation_variance"] == row["activation_variance"]


def test_one_text_has_no_interval_and_no_critical_neuron(adapter: Adapter, file: Path) -> None:
    one = HeldOutText(texts=TEXTS[:1], fresh=True)
    found = layer_importance(file, 1, one, model=adapter, options=ImportanceOptions(judging=UNSTORED))
    assert found.critical_neurons is None
    assert all(row["kl_high"] is None and row["impact_score"] is None for row in found.scores)
    assert all("one document" in row["reason"] for row in found.scores)


def test_a_dead_layer_has_no_limits_rather_than_false_ones(tmp_path: Path) -> None:
    adapter = number_model()
    adapter.blocks[1].down.weight.data.zero_()
    file = number_atlas(tmp_path, adapter)
    found = layer_importance(file, 1, TEXT, model=adapter, options=ImportanceOptions(5, judging=UNSTORED))
    assert all(row["kl"] == 0 for row in found.scores)
    assert {row["kl_high"] for row in found.scores if row["evidence"] == "estimated"} == {None}


def test_the_usual_sample_shrinks_where_it_is_slow(adapter: Adapter, file: Path) -> None:
    assert affordable(adapter, 1, 1000) > affordable(adapter, 0, 1000) > affordable(adapter, 0, 10_000)
    found = layer_importance(file, 1, TEXT, model=adapter, options=ImportanceOptions(judging=UNSTORED))
    measured = sum(row["evidence"] == "measured" for row in found.scores)
    assert measured >= max(FEWEST, 3 * SHARE / 100 * D_MLP)


@pytest.mark.parametrize(
    ("layer", "text", "share", "said"),
    [
        (2, TEXT, None, r"layer 2 is out of range: this model has layers 0\.\.1"),
        (0, TEXT, 0.0, "share is 0.0; give percent of the layer above 0, at most 100"),
        (0, HeldOutText(texts=("",), fresh=True), None, "no token to predict"),
        (0, HeldOutText(texts=("7",), fresh=True), None, "no token to predict"),
        (0, HeldOutText(texts=TEXTS), None, "--fresh"),
    ],
)
def test_bad_input_is_refused(  # noqa: PLR0917
    adapter: Adapter, file: Path, layer: int, text: HeldOutText, share: float | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        layer_importance(file, layer, text, model=adapter, options=ImportanceOptions(share))
