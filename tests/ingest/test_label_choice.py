"""The label that a neuron shows, against a choice in plain Python over drawn labels."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from atlas.errors import InputError, StoreError
from atlas.ingest.label_choice import KINDS, Coverage, choose_labels, read_precedence
from atlas.ingest.neurons import assemble_clusters, assemble_neurons
from atlas.store.connection import open_writer
from atlas.store.ledger import get_metadata, set_metadata
from atlas.store.schema import apply_schema
from atlas.store.write import append_from_arrow
from atlas.tables import TABLES

LAYERS, D_MLP = 3, 20
COLUMNS = ("layer", "neuron", "pass", "polarity", "label", "description", "interpretability", "status", "source", "run",
           "score", "created", "model", "prompt_hash")  # fmt: skip


def drawn(seed: int, rows: int = 400) -> list[tuple]:
    dice, made = random.Random(seed), []
    for _ in range(rows):
        which = dice.choice(["output", "input", "autointerp", "manual"])
        source = dice.choice(["llm", "manual", "import:a.csv", "import:b.json", "rule:tokens", "rule:edges"])
        ok = dice.random() < 0.9
        made.append((
            dice.randrange(LAYERS), dice.randrange(D_MLP), which, dice.choice([-1, 0, 1]),
            f"text {dice.randrange(30)}" if ok else None, dice.choice([None, "why", "because"]),
            dice.choice([None, "high", "medium", "low"]), "ok" if ok else "refused", source,
            dice.choice(["r1", "r2", None]), dice.choice([None, 0.25, 0.5]),
            dice.choice([None, "2026-01-01", "2026-02-01"]), dice.choice([None, "m"]), None,
        ))  # fmt: skip
    return made


def peaks(seed: int) -> dict[tuple[int, int], tuple[float, float]]:
    dice = random.Random(seed)
    return {(i // D_MLP, i % D_MLP): (-dice.random(), dice.random()) for i in range(LAYERS * D_MLP)}


@pytest.fixture
def made(tmp_path: Path):
    con = open_writer(tmp_path / "a.duckdb")
    apply_schema(con, d_mlp=D_MLP)
    set_metadata(con, {"num_layers": LAYERS, "neurons_per_layer": D_MLP})
    stats = [(*key, *ends) for key, ends in peaks(5).items()]
    columns = dict(zip(("layer", "neuron", "min", "max"), zip(*stats, strict=True), strict=True))
    append_from_arrow(con, "neuron_stats", pa.table(columns))
    yield con
    con.close()


def insert(con, rows: list[tuple]) -> None:
    data = {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}
    append_from_arrow(con, "labels", pa.table(data, schema=pa.schema([TABLES["labels"].field(n) for n in COLUMNS])))


def kind_of(row: dict) -> str:
    if row["source"] == "manual" or row["pass"] == "manual":
        return "manual"
    if row["source"].startswith("rule:"):
        return "rule"
    return "autointerp" if row["pass"] == "autointerp" else "two-pass"


def expected(rows: list[tuple], order: list[str], low: dict) -> dict:
    """Label, description, input and output label of each neuron, by sorting its labels in Python."""
    found: dict = {}
    for row in (dict(zip(COLUMNS, one, strict=True)) for one in rows):
        if row["status"] == "ok":
            found.setdefault((row["layer"], row["neuron"]), []).append(row)

    def place(row: dict) -> tuple:
        kind, (least, most) = kind_of(row), low[row["layer"], row["neuron"]]
        names = [f"run:{row['run']}", row["source"], kind]
        rank = next(order.index(name) for name in names if name in order)
        first = "input" if kind == "rule" else "output"
        later = (row["pass"] != first) if kind == "rule" else (row["pass"] == "input")
        weaker = row["polarity"] != 0 and (row["polarity"] > 0) != (most >= -least)
        clarity = {"high": 0, "medium": 1}.get(row["interpretability"], 2)
        newest = [-ord(c) for c in row["created"]] if row["created"] else [1]
        last = [(row[name] is None, row[name] or "") for name in ("description", "run", "model")]
        best = (rank, later, weaker, clarity, -(row["score"] or 0), newest)
        return (*best, row["source"], -row["polarity"], row["label"], row["pass"], last)

    def best(some: list[dict], name: str) -> str | None:
        return min(some, key=place)[name] if some else None

    return {
        key: (best(some, "label"), best(some, "description"), best([r for r in some if r["pass"] == "input"], "label"),
              best([r for r in some if r["pass"] == "output"], "label"))
        for key, some in found.items()
    }  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("given", [None, ["rule", "manual"], ["import:b.json", "run:r2", "autointerp", "llm"]])
def test_the_shown_labels_are_those_of_a_sort_in_python(made, seed: int, given: list[str] | None) -> None:
    rows = drawn(seed)
    insert(made, rows)
    assemble_neurons(made, layers=LAYERS)
    covered = choose_labels(made, precedence=given)
    wanted = expected(rows, list(covered.precedence), peaks(5))
    columns = "label, description, input_label, output_label"
    shown = {(r[0], r[1]): r[2:] for r in made.execute(f"SELECT layer, neuron, {columns} FROM neurons").fetchall()}
    assert {key: row for key, row in shown.items() if row != (None,) * 4} == wanted
    assert (covered.neurons, covered.labelled) == (LAYERS * D_MLP, len(wanted))
    assert get_metadata(made)["label_precedence"] == ",".join(covered.precedence)
    before = made.execute("FROM neurons ORDER BY layer, neuron").fetchall()
    assemble_neurons(made, layers=LAYERS)  # the other way to the same labels, by the stored precedence
    assert made.execute("FROM neurons ORDER BY layer, neuron").fetchall() == before


def test_labels_that_are_gone_are_shown_no_more(made) -> None:
    insert(made, drawn(3))
    assemble_neurons(made, layers=LAYERS)
    made.execute("DELETE FROM labels WHERE source <> 'llm' OR status <> 'ok'")
    covered = choose_labels(made)
    neurons = made.execute("SELECT count(DISTINCT (layer, neuron)) FROM labels").fetchall()[0][0]
    assert covered.labelled == neurons and {source for _, source, _ in covered.sources} == {"llm"}
    made.execute("DELETE FROM labels")
    assert choose_labels(made) == Coverage(LAYERS * D_MLP, KINDS, ())
    assert made.execute("SELECT count(label), count(description), count(input_label) FROM neurons").fetchall() == [
        (0, 0, 0)
    ]


def test_modules_are_named_anew_but_not_those_with_names_of_their_own(made) -> None:
    def labels(source: str, which: str, word: str) -> list[tuple]:
        blank = (None, None, None, None, None)
        return [(0, n, which, 0, f"{word} {n}", None, None, "ok", source, *blank) for n in range(4)]

    insert(made, labels("rule:x", "output", "old"))
    made.execute(
        "INSERT INTO partitions (clustering, method, layer, neuron, cluster_path, flow) "
        "SELECT 'infomap', 'infomap', 0, n, (1 + n // 2)::VARCHAR, 0.5 - n / 100 FROM range(4) AS r(n)"
    )
    assemble_neurons(made, layers=LAYERS)
    assemble_clusters(made)
    made.execute("UPDATE clusters SET label = 'by hand' WHERE cluster_path = '2'")
    insert(made, labels("manual", "manual", "new"))
    choose_labels(made)
    named = dict(made.execute("SELECT cluster_path, label FROM clusters").fetchall())
    assert named["2"] == "by hand" and sorted(named["1"].split(" | ")) == ["new 0", "new 1"]


def test_coverage_is_said_as_a_count_and_a_share() -> None:
    covered = Coverage(352_256, KINDS, (("two-pass", "import:olmo3.json", 344_551),))
    assert covered.text() == "344,551 neurons, 97.8%: 344,551 two-pass (import:olmo3.json)"
    assert Coverage(10, KINDS, ()).text() == "0 neurons, 0.0%"


def test_a_precedence_names_kinds_sources_and_runs_and_is_completed() -> None:
    assert read_precedence([]) == KINDS
    assert read_precedence([" rule", "manual", "rule", ""]) == ("rule", "manual", "two-pass", "autointerp")
    assert read_precedence(["import:a b.csv", "llm", "run:7"]) == ("import:a b.csv", "llm", "run:7", *KINDS)
    for wrong in ("best", "import:", "rules", "RULE"):
        with pytest.raises(InputError, match=f"'{wrong}' is no kind of labels: a precedence lists manual"):
            read_precedence([wrong])


def test_an_atlas_without_sizes_is_refused(made) -> None:
    set_metadata(made, {"num_layers": None})
    with pytest.raises(StoreError, match="does not say its number of layers"):
        choose_labels(made)
