"""Graphs that contain neurons, against plain Python over the rows that went in."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from synthetic import small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError

IDS = {0: (0, 0), 10: (1, 2)}


def oracle(ids: list[int]) -> list[tuple[Any, ...]]:
    tables, rows = small_tables(), []
    for g in tables["graphs"]:
        inside = [
            next(
                (
                    m
                    for m in tables["neuron_graphs"]
                    if (m["layer"], m["neuron"], m["graph_id"]) == (*IDS[i], g["graph_id"])
                ),
                None,
            )
            for i in ids
        ]
        if all(inside):
            r = [m["relevance"] for m in inside if m]
            row = (g["graph_id"], g["prompt"], sum(m["positions"] for m in inside if m), sum(r), sum(map(abs, r)) / 3.0)
            rows.append((-min(map(abs, r)), row))
    return [row for _, row in sorted(rows)]


@pytest.mark.parametrize("ids", [[0], [10], [0, 10]])
def test_graphs_against_the_rows(small: Path, ids: list[int]) -> None:  # noqa: F811
    with atlas.open(small) as a:
        rows = a.graphs(list(ids)).rows()
        assert [(r["graph_id"], r["prompt"], r["positions"], r["relevance"], r["share"]) for r in rows] == oracle(ids)
        assert rows and all(r["targets"] == [" runs"] for r in rows)


def test_an_edge_says_what_is_known(small: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        (note,) = a.graphs(["0_0", "1_2"]).warnings
        assert note.startswith("L0/N0 -> L1/N2 was seen 3 times in 2 graphs") and "not stored" in note
        assert a.graphs(["0_0", "0_1"]).warnings == () and a.graphs("0_3").rows() == []
        answer = a.graphs("0_0", limit=2)
        assert (len(answer), answer.total) == (2, 3)


def beside(folder: Path, *, metadata: str | None) -> Path:
    tables = small_tables()
    rows = tables.pop("neuron_graphs")
    facts = {} if metadata is None else {"neuron_graphs": metadata}
    file = write_atlas(folder / "a.duckdb", tables, **facts)
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "graphs.store").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "graphs.store" / "neuron_graphs-abc.parquet")
    return file


NAMED = "4 rows in graphs.store/neuron_graphs-abc.parquet, sorted: any Parquet reader asks them"


def test_members_are_read_where_they_were_left(tmp_path: Path, small: Path) -> None:  # noqa: F811
    with atlas.open(beside(tmp_path, metadata=NAMED)) as a, atlas.open(small) as whole:
        assert a.graphs([0, 10]).rows() == whole.graphs([0, 10]).rows() != []


def test_members_that_are_elsewhere_are_given(tmp_path: Path) -> None:
    file = beside(tmp_path, metadata=NAMED)
    shutil.move(tmp_path / "graphs.store" / "neuron_graphs-abc.parquet", tmp_path / "graphs.store" / "odd[1]'.parquet")
    with atlas.open(file) as a:
        with pytest.raises(InputError, match=r"left in graphs.store/neuron_graphs-abc.parquet.*--members"):
            a.graphs("0_0")
        assert len(a.graphs("0_0", members=tmp_path / "graphs.store" / "odd[1]'.parquet")) == 3
        with pytest.raises(InputError, match="no file nope"):
            a.graphs("0_0", members="nope")
        with pytest.raises(InputError, match="no Parquet file"):
            a.graphs("0_0", members=file)


def test_an_atlas_without_graphs_says_so(tmp_path: Path) -> None:
    with atlas.open(beside(tmp_path, metadata=None)) as a, pytest.raises(InputError, match="neuron_graphs is empty"):
        a.graphs("0_0")
