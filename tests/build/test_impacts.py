"""`atlas impact` and its Python: against copies of the model with edited weights, and what an atlas keeps of it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pruning_model import D_MLP, LAYERS, MEAN, drawn_texts, edited_kl, number_atlas, number_model
from small_build import DEMO
from synthetic import random_tables, write_atlas

from atlas.build.impacts import HeldOutText, Measuring, ablation_of, measure_impacts
from atlas.errors import InputError, StoreError
from atlas.ingest.calibration import text_sha256
from atlas.measure.corpus import read_corpus
from atlas.models.adapter import Adapter, load_model
from atlas.progress import Quiet, Task
from atlas.query.atlas import Atlas
from atlas.query.impacts import chosen_neurons, impacts
from atlas.store.connection import open_writer

Run = Callable[..., Any]
TEXTS = drawn_texts(6, 9)
TEXT = HeldOutText(texts=TEXTS, fresh=True)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return number_model()


@pytest.fixture(scope="module")
def numbers(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return number_atlas(tmp_path_factory.mktemp("numbers"), adapter)


@pytest.fixture
def file(numbers: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(numbers, tmp_path / "numbers.duckdb"))


def rows_of(file: Path) -> list[dict[str, Any]]:
    with Atlas(file) as atlas:
        return atlas.sql("FROM impacts ORDER BY n_neurons, neurons").rows()


def test_impacts_are_those_of_edited_weights(adapter: Adapter, file: Path) -> None:
    ids = [3, 50, 7]
    found = measure_impacts(file, ids, TEXT, model=adapter)
    assert [row["neurons"] for row in found.individual] == [[3], [50], [7]]
    assert [row["kl"] for row in found.individual] == pytest.approx([edited_kl(adapter, [i], TEXTS) for i in ids])
    assert found.joint is not None and found.joint["neurons"] == [3, 7, 50]
    assert found.joint["kl"] == pytest.approx(edited_kl(adapter, ids, TEXTS))
    total = sum(row["kl"] for row in found.individual)
    assert found.joint["sum_kl"] == pytest.approx(total)
    assert found.joint["joint_over_sum"] == pytest.approx(found.joint["kl"] / total)
    assert {row["budget"] for row in found.individual} == {0.01 / 3} and found.joint["budget"] == 0.01
    assert found.notes == (
        "activations become their mean over the 100 positions of the gradient pass",
        "6 documents: an interval over so few is rough; 100 and more are better",
    )
    stored = rows_of(file)
    assert [row["neurons"] for row in stored] == [[3], [7], [50], [3, 7, 50]]
    assert stored[-1]["joint_over_sum"] == pytest.approx(found.joint["joint_over_sum"])
    assert stored[0]["budget"] == 0.01 / 3 and stored[0]["impact_score"] == found.individual[0]["impact_score"]


def test_what_is_stored_is_not_measured_again(adapter: Adapter, file: Path) -> None:
    first = measure_impacts(file, [3, 50], TEXT, model=adapter)
    assert first.measured == 3
    again = measure_impacts(file, [3, 50, 7], TEXT, model=adapter, measuring=Measuring(budget=0.3))
    assert again.measured == 2  # 7, and the three together
    assert again.individual[0]["kl"] == first.individual[0]["kl"] and again.individual[0]["budget"] == pytest.approx(
        0.1
    )
    assert [row["budget"] for row in rows_of(file) if row["n_neurons"] == 1] == pytest.approx([0.1] * 3)
    anew = measure_impacts(file, [3], TEXT, model=adapter, measuring=Measuring(again=True))
    assert anew.measured == 1 and anew.joint is not None and anew.joint["neurons"] == [3]
    other = measure_impacts(file, [3], HeldOutText(texts=TEXTS[:5], fresh=True), model=adapter)
    assert other.measured == 1 and other.eval_id != first.eval_id
    unstored = measure_impacts(file, [9], TEXT, model=adapter, measuring=Measuring(store=False, joint=False))
    assert unstored.measured == 1 and unstored.joint is None and [9] not in [row["neurons"] for row in rows_of(file)]


class Stopping(Quiet):
    """Progress that is interrupted after some units."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[Task]:
        yield self

    def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
        self.left -= amount
        if self.left < 0:
            raise KeyboardInterrupt


def test_an_interruption_keeps_what_was_measured(adapter: Adapter, file: Path) -> None:
    tokens, ids = 6 * 8, list(range(40))
    with pytest.raises(KeyboardInterrupt):
        measure_impacts(file, ids, TEXT, model=adapter, progress=Stopping(17 * tokens))
    kept = len(rows_of(file))
    assert kept == 16
    assert measure_impacts(file, ids, TEXT, model=adapter).measured == 41 - kept


def test_evaluations_are_never_in_one_answer(adapter: Adapter, file: Path) -> None:
    with Atlas(file) as atlas:
        assert "no impacts in numbers.duckdb yet" in impacts(atlas).warnings[0]
    mean = measure_impacts(file, [3, 50], TEXT, model=adapter)
    zero = measure_impacts(file, [3], TEXT, model=adapter, measuring=Measuring(zero=True))
    assert zero.ablation == "zero" and mean.ablation.startswith("mean:") and zero.eval_id != mean.eval_id
    with Atlas(file) as atlas:
        newest = impacts(atlas)
        assert len({row["eval_id"] for row in newest.rows()}) == 1
        assert "not comparable" in newest.warnings[0]
        chosen = impacts(atlas, eval_id=mean.eval_id, layer=1)
        assert [(r["layer_index"], r["neuron_index"]) for r in chosen.rows()] == [(1, 10)] and not chosen.warnings
        assert len(impacts(atlas, eval_id=mean.eval_id)) == 3
        assert len(impacts(atlas, eval_id=mean.eval_id, singles=True)) == 2
        for wrong, says in (({"eval_id": "x"}, "no impacts of evaluation 'x'"), ({"layer": 2}, "layer 2 is out of"),
                            ({"evidence": "guess"}, "no evidence 'guess'")):  # fmt: skip
            with pytest.raises(InputError, match=says):
                impacts(atlas, **wrong)


def test_means_come_from_the_atlas(file: Path) -> None:
    with Atlas(file) as atlas:
        means = ablation_of(atlas)[0].means
        assert means is not None and means.shape == (LAYERS, D_MLP) and (means == MEAN).all()
        assert ablation_of(atlas, zero=True) == (ablation_of(atlas, zero=True)[0], "activations become 0")
    _change(file, "UPDATE neuron_stats SET grad_tokens = NULL, s1 = 2 * n_tokens")
    with Atlas(file) as atlas:
        found, said = ablation_of(atlas)
        assert found.means is not None and (found.means == 2).all() and "of the activation pass" in said
    _change(file, "DELETE FROM neuron_stats WHERE neuron = 4")
    with Atlas(file) as atlas, pytest.raises(StoreError, match="has activation sums of 78 of 80 neurons"):
        ablation_of(atlas)


def _change(file: Path, statement: str) -> None:
    con = open_writer(file)
    con.execute(statement)
    con.close()


def test_neurons_are_chosen_in_three_ways(file: Path) -> None:
    with Atlas(file) as atlas:
        assert chosen_neurons(atlas, neurons=["L1/N3", "0_2"]) == [2, 43]
        assert len(chosen_neurons(atlas, neurons=["layer:1"])) == 40
        assert chosen_neurons(atlas, top=2) == [
            row["layer_index"] * 40 + row["neuron_index"] for row in atlas.prune(everything=True, limit=2).rows()
        ]
        sql = "SELECT layer, neuron FROM neurons WHERE neuron < 2 ORDER BY feature_id DESC"
        assert chosen_neurons(atlas, sql=sql) == [41, 40, 1, 0]
        for wrong, says in (
            ({}, "which neurons"),
            ({"top": 1, "sql": sql}, "which neurons"),
            ({"top": 0}, "top is 0"),
            ({"neurons": ["L2/N0"]}, "out of range"),
            ({"neurons": []}, "selects no neuron"),
            ({"sql": "SELECT layer FROM neurons"}, "must give the columns layer and neuron"),
            ({"sql": "SELECT layer, neuron FROM neurons WHERE false"}, "gives no row"),
            ({"sql": "DROP TABLE neurons"}, "read-only"),
        ):
            with pytest.raises(InputError, match=says):
                chosen_neurons(atlas, **wrong)


# -- the command, on the demo model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas that says it was made on the first 50 documents of the demo corpus."""
    adapter, folder = load_model(DEMO / "model", device="cpu"), tmp_path_factory.mktemp("demo")
    spec, documents = adapter.spec, read_corpus(DEMO / "corpus.json", limit=50).documents
    tables = random_tables(3, spec.layers, spec.d_mlp)
    hashes = sorted({text_sha256(text) for text in documents})
    tables["calibration_documents"] = [{"role": "gradients", "sha256": one} for one in hashes]
    sizes = {"layers": spec.layers, "d_mlp": spec.d_mlp}
    return write_atlas(folder / "demo.duckdb", tables, **sizes, revision=spec.revision)


@pytest.fixture
def demo(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(made, tmp_path / "demo.duckdb"))


def command(demo: Path, *more: object) -> tuple[object, ...]:
    return ("impact", "--atlas", demo, "--model", DEMO / "model", "-q", *more)


CORPUS = ("--corpus", DEMO / "corpus.json")


def test_the_seed_s_document_with_evidence(run: Run, demo: Path) -> None:
    shown = run(*command(demo, "--neurons", "L0/N5,L0/N7,L3/N1", *CORPUS, "--skip-documents", 2900, "--documents", 4,
                         "--format", "json"))  # fmt: skip
    assert shown.code == 0
    told = json.loads(shown.out)
    assert list(told)[:5] == ["impact_score", "mean_change", "max_change", "affected_neurons", "affected_layers"]
    assert (told["affected_layers"], told["affected_neurons"]) == ([0, 0, 3], [5, 7, 1])
    assert told["safe_to_prune"] is None and "a verdict needs 10,000" in told["reason"]
    assert told["impact_score"] == pytest.approx(0.1 * told["kl_high"] / 0.01)
    assert told["kl_low"] <= told["kl"] <= told["kl_high"]
    each = told["individual_impacts"]
    assert [(one["layer_index"], one["neuron_index"]) for one in each] == [(0, 5), (0, 7), (3, 1)]
    assert told["joint_over_sum"] == pytest.approx(told["kl"] / sum(one["kl"] for one in each))
    table = run(*command(demo, "--neurons", "L0/N5", *CORPUS, "--skip-documents", 2900, "--documents", 4,
                         "--format", "csv"))  # fmt: skip
    assert next(csv.DictReader(io.StringIO(table.out)))["neurons"] == "L0/N5"


def test_calibration_text_is_refused_or_left_out(run: Run, demo: Path) -> None:
    words = ("--neurons", "L0/N5", *CORPUS, "--skip-documents", 48, "--documents", 4)
    shown = run(*command(demo, *words))
    assert shown.code == 2 and "2 of 4 documents are calibration documents" in shown.err
    assert "--skip-calibration" in shown.err and shown.err.count("\n") == 1
    shown = run(*command(demo, *words, "--skip-calibration", "--format", "json"))
    assert shown.code == 0 and "note: 2 calibration documents left out" in shown.err
    assert json.loads(shown.out)["documents"] == 2


def test_one_text_has_no_interval(run: Run, demo: Path) -> None:
    shown = run(*command(demo, "--neurons", "L0/N5", "--text", "my knee hurts", "--joint", "--format", "json"))
    told = json.loads(shown.out)
    assert told["impact_score"] is None and told["kl"] > 0 and told["reason"].startswith("one document")
    assert told["individual_impacts"] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--neurons", "L4/N0", "--text", "a dog"), "out of range: this model has layers 0..3"),
        (("--neurons", "L0/N0"), "on which text?"),
        (("--neurons", "L0/N0", "--text", "a dog", *CORPUS), "on which text?"),
        (("--text", "a dog"), "which neurons?"),
        (("--neurons", "L0/N0", "--text", ""), "hold no token to predict"),
        (("--neurons", "L0/N0", "--corpus", "none.json"), "no corpus file none.json"),
        (("--neurons", "L0/N0", *CORPUS, "--skip-documents", 5000), "--skip-documents leaves none"),
        (("--neurons", "L0/N0", *CORPUS, "--documents", 0), "keep at least 1"),
        (("--neurons", "L0/N0", "--text", "a dog", "--budget", 0), "budget is 0.0"),
        (("--neurons", "L0/N0", "--text", "a dog", "--context-length", 999), "context length 999 is longer"),
    ],
)
def test_bad_input_is_one_line(run: Run, demo: Path, words: tuple[object, ...], says: str) -> None:
    shown = run(*command(demo, *words))
    assert shown.code == 2 and says in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_another_model_is_refused(run: Run, demo: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(DEMO / "model", other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    asked = ("impact", "--atlas", demo, "--neurons", "L0/N0", "--text", "a dog")
    shown = run(*asked, "--model", other)
    assert shown.code == 2 and "demo.duckdb is of model revision" in shown.err
    assert "no model folder" in run(*asked, "--model", tmp_path / "none").err
    assert "give --model FOLDER" in run(*asked).err  # this atlas has no recipe
