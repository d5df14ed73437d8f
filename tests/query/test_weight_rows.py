"""Weight statistics of an atlas: rows and totals against plain Python over the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.errors import InputError, StoreError


@pytest.fixture
def weighed(tmp_path: Path) -> Path:
    tables = small_tables()
    tables["weight_stats"] += [
        {"name": name, "layer": layer, "total_parameters": 10 + layer, "non_zero_parameters": 5, "sparsity": 0.5,
         "mean_magnitude": 0.1, "std_magnitude": 0.1, "min_magnitude": 0.25, "max_magnitude": 2.0 + layer,
         "l1_norm": 0.1 + layer, "l2_norm": 4.0}
        for name, layer in (("layers.1.up", 1), ("embed", -1), ("layers.1.down", 1))
    ]  # fmt: skip
    return write_atlas(tmp_path / "a.duckdb", tables)


def test_rows_have_the_documents_names_in_order(weighed: Path) -> None:
    with atlas.open(weighed) as opened:
        rows = opened.weights().rows()
        assert [row["layer_name"] for row in rows] == [
            "embed", "layers.0.mlp.down_proj.weight", "layers.1.down", "layers.1.up",
        ]  # fmt: skip
        assert list(rows[0]) == [
            "layer_name", "layer_index", "total_parameters", "non_zero_parameters", "sparsity", "mean_magnitude",
            "std_magnitude", "min_magnitude", "max_magnitude", "l1_norm", "l2_norm",
        ]  # fmt: skip
        assert [row["layer_index"] for row in opened.weights(layer=1).rows()] == [1, 1]
        assert len(opened.weights(limit=2)) == 2
        with pytest.raises(InputError, match=r"layer 3 is out of range: .*0..2, and -1"):
            opened.weights(layer=3)


def test_totals_are_of_all_tensors_or_of_one_layer(weighed: Path) -> None:
    with atlas.open(weighed) as opened:
        (row,) = opened.weight_summary().rows()
        assert (row["total_parameters"], row["non_zero_parameters"], row["tensors"]) == (32 + 9 + 22, 31 + 15, 4)
        assert row["overall_sparsity"] == pytest.approx(1 - 46 / 63)
        assert row["l1_norm"] == pytest.approx(16 + 1.1 + 1.1 - 0.9)
        assert row["mean_magnitude"] == pytest.approx(17.3 / 63)
        assert row["l2_norm"] == pytest.approx((9 + 3 * 16) ** 0.5)
        assert (row["min_magnitude"], row["max_magnitude"]) == (0.0, 3.0)
        assert opened.weight_summary(layer=1).rows()[0]["total_parameters"] == 22
        assert opened.weight_summary(layer=2).rows() == []


def test_an_atlas_without_weights_says_so(tmp_path: Path) -> None:
    file = write_atlas(tmp_path / "a.duckdb", small_tables() | {"weight_stats": []})
    with atlas.open(file) as opened:
        assert opened.weights().rows() == []
        assert "built without weights" in opened.weights().warnings[0]
    import duckdb

    with duckdb.connect(str(file)) as con:
        con.execute("DROP TABLE weight_stats")
        con.execute("UPDATE metadata SET value = '1' WHERE key = 'schema_version'")
    with atlas.open(file) as opened, pytest.raises(StoreError, match="no table 'weight_stats'"):
        opened.weights()
