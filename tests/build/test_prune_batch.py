"""Batch analysis against a brute-forced table of prefixes: copies of the model with edited weights."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import pytest
from pruning_model import D_MLP, drawn_texts, edited_kl, number_atlas, number_model

from atlas.build.impacts import HeldOutText
from atlas.build.measured_sets import Judging
from atlas.build.prune_batch import BatchAnalysis, BatchOptions, batch_analysis
from atlas.errors import InputError
from atlas.models.adapter import Adapter
from atlas.progress import Quiet, Task
from atlas.store.connection import open_reader
from atlas.store.sqlfiles import sql_text

ENOUGH = drawn_texts(340, 31)  # 10,200 predicted tokens
TEXT = HeldOutText(texts=ENOUGH, fresh=True)
FEW = HeldOutText(texts=ENOUGH[:4], fresh=True)
CANDIDATES = [3, 9, 14, 44, 61, 70]  # of both layers


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return number_model()


@pytest.fixture(scope="module")
def file(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return number_atlas(tmp_path_factory.mktemp("numbers"), adapter)


@pytest.fixture(scope="module")
def generous(adapter: Adapter, file: Path) -> BatchAnalysis:
    """A budget that everything keeps."""
    return batch_analysis(file, CANDIDATES, TEXT, model=adapter, options=BatchOptions(4, Judging(budget=100.0)))


@pytest.fixture(scope="module")
def prefixes(generous: BatchAnalysis, file: Path) -> dict[int, float]:
    """Upper limits of the prefixes of 2 and more, as stored."""
    with open_reader(file) as con:
        return dict(con.execute("SELECT n_neurons, kl_high FROM batch_sets()").fetchall())


@pytest.fixture(scope="module")
def tight(adapter: Adapter, file: Path, prefixes: dict[int, float]) -> BatchAnalysis:
    """A budget between the damage of two and of three neurons."""
    budget = (prefixes[2] * prefixes[3]) ** 0.5
    return batch_analysis(file, CANDIDATES, TEXT, model=adapter, options=BatchOptions(4, Judging(budget=budget)))


class Titles(Quiet):
    """Progress that remembers what was begun."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def task(self, title: str, total: int, unit: str) -> AbstractContextManager[Task]:
        self.titles.append(title)
        return super().task(title, total, unit)


def order(found: BatchAnalysis) -> list[int]:
    return [one.neurons[0] for one in found.individual]


def test_impacts_are_those_of_edited_weights(adapter: Adapter, generous: BatchAnalysis) -> None:
    for one in generous.individual:
        assert one.kl == pytest.approx(edited_kl(adapter, one.neurons, ENOUGH), rel=1e-9)
    batch = order(generous)[:4]
    assert sorted(batch) == list(generous.cumulative.neurons)
    assert generous.cumulative.kl == pytest.approx(edited_kl(adapter, batch, ENOUGH), rel=1e-9)
    assert generous.cumulative.kl != pytest.approx(sum(one.kl for one in generous.individual[:4]), rel=1e-3)
    joint = generous.document()["cumulative_impact"]
    assert joint["joint_over_sum"] * joint["sum_kl"] == pytest.approx(joint["kl"])


def test_candidates_stand_least_harmful_first_and_share_the_budget(generous: BatchAnalysis) -> None:
    limits = [one.kl_high for one in generous.individual]
    assert limits == sorted(limits)
    for one in generous.individual:
        assert one.budget == 25.0
        assert one.impact_score == pytest.approx(0.1 * one.kl_high / 25.0)
    told = generous.document()["recommendations"]
    assert (told["safe_to_prune"], told["risky_to_prune"], told["suggested_batch_size"]) == (6, 0, 4)
    assert any("a larger batch than 4" in note for note in generous.notes)


def test_the_suggested_size_is_that_of_the_whole_table_of_prefixes(
    prefixes: dict[int, float], tight: BatchAnalysis
) -> None:
    safe = [size for size, limit in prefixes.items() if limit < tight.cumulative.budget]
    told = tight.document()["recommendations"]
    assert told["suggested_batch_size"] == max(safe) == 2
    assert told["monotone"] is True
    assert tight.cumulative.safe_to_prune is False
    assert {row["neuron_index"] for row in told["high_impact_neurons"]} == {
        one.neurons[0] % D_MLP for one in tight.individual if one.impact_score > 0.3
    }


def test_sql_gives_what_the_document_says(tight: BatchAnalysis, file: Path) -> None:
    told = tight.document()
    with open_reader(file) as con:
        members = con.sql("FROM batch_impacts()").to_arrow_table().to_pylist()
        (advice,) = con.sql("FROM batch_recommendations()").to_arrow_table().to_pylist()
        whole = con.sql("FROM batch_sets(max_rows := 1)").to_arrow_table().to_pylist()[0]
    names = ("layer_index", "neuron_index", "impact_score", "mean_change", "max_change", "safe_to_prune")
    assert len(members) == 4
    for row, expected in zip(members, told["individual_impacts"], strict=False):
        assert [row[name] for name in names] == pytest.approx([expected[name] for name in names])
    for name in ("impact_score", "mean_change", "max_change", "kl", "safe_to_prune", "joint_over_sum"):
        assert whole[name] == pytest.approx(told["cumulative_impact"][name]), name
    assert advice["suggested_batch_size"] == told["recommendations"]["suggested_batch_size"]
    assert advice["safe_to_prune"] == sum(row["safe_to_prune"] for row in told["individual_impacts"][:4])
    assert [row["neuron_index"] for row in advice["high_impact_neurons"]] == [
        row["neuron_index"] for row in told["individual_impacts"][:4] if row["impact_score"] > 0.3
    ]


def test_the_batch_is_the_largest_set_of_a_run_whatever_came_last(generous: BatchAnalysis, file: Path) -> None:
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{file}' AS numbers (READ_ONLY)")
        con.execute("CREATE TABLE impacts AS FROM numbers.impacts")
        con.execute("UPDATE impacts SET created = '2999-01-01' WHERE n_neurons = 3")
        con.execute("UPDATE impacts SET run = '2998-01-01'")
        for name in ("batch_sets", "batch_impacts", "batch_recommendations"):
            con.execute(sql_text("queries", name))
        assert con.execute("SELECT n_neurons FROM batch_sets(max_rows := 1)").fetchall() == [(4,)]
        assert con.execute("SELECT count(*) FROM batch_impacts()").fetchall() == [(4,)]
        assert con.execute("SELECT n_neurons FROM batch_recommendations()").fetchall() == [(4,)]


def test_what_is_stored_is_not_measured_again(
    adapter: Adapter, tight: BatchAnalysis, generous: BatchAnalysis, file: Path
) -> None:
    seen = Titles()
    again = batch_analysis(
        file, CANDIDATES, TEXT, model=adapter, progress=seen,
        options=BatchOptions(4, Judging(budget=tight.cumulative.budget, store=False)),
    )  # fmt: skip
    assert "ablations" not in seen.titles
    assert again.document() == tight.document()
    batch_analysis(
        file, CANDIDATES[:1], FEW, model=adapter, progress=seen, options=BatchOptions(judging=Judging(store=False))
    )
    assert "ablations" in seen.titles
    assert [one.kl for one in tight.individual] == [one.kl for one in generous.individual]


def test_too_few_tokens_give_no_verdict(adapter: Adapter, file: Path) -> None:
    found = batch_analysis(file, CANDIDATES, FEW, model=adapter, options=BatchOptions(3, Judging(store=False)))
    told = found.document()["recommendations"]
    assert [told[name] for name in ("safe_to_prune", "risky_to_prune", "suggested_batch_size")] == [None] * 3
    assert "120 held-out tokens, a verdict needs 10,000" in told["reason"]
    assert found.cumulative.kl > 0


@pytest.mark.parametrize(
    ("neurons", "size", "said"),
    [
        (CANDIDATES, 0, "batch size is 0"),
        ([], 5, "no neuron is named"),
        ([2 * D_MLP], 5, "out of range"),
    ],
)
def test_bad_input_is_refused(adapter: Adapter, file: Path, neurons: list[int], size: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        batch_analysis(file, neurons, FEW, model=adapter, options=BatchOptions(size))


def test_a_budget_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="budget is 0"):
        Judging(budget=0.0)
