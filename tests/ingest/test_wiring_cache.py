"""Wiring caches: the public form read by hand-written files, round trips, faults, and memory under a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.errors import InputError
from atlas.export.wiring_cache import export_wiring_cache
from atlas.ingest.wiring_cache import cache_files, members, read, write_shards
from atlas.shards import shard_files

NAMES = ("wiring", "logit_lens")


def entry(layer: int, neuron: int, strength: float, **more: Any) -> dict[str, Any]:
    """A connection as an earlier tool wrote it, with both columns half of the strength."""
    fields = {"layer": layer, "neuron": neuron, "neuron_id": f"L{layer}/N{neuron}", "c_up": strength / 2,
              "c_gate": strength / 2, "c_combined": strength, "predicted_polarity": "excitatory",
              "polarity_confidence": 1.0, "effective_strength": strength, "relp_confirmed": False,
              "relp_strength": None}  # fmt: skip
    return fields | more


def neuron(**lists: Any) -> dict[str, Any]:
    empty = {"excitatory": [], "inhibitory": []}
    return {"projections": {"promotes": [], "suppresses": []}, "upstream": empty, "downstream": empty} | lists


def write(folder: Path, *layers: dict[str, Any], indent: int | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for index, layer in enumerate(layers):
        (folder / f"layer_{index}.json").write_text(json.dumps(layer, indent=indent), encoding="utf-8")
    return folder


def cache(folder: Path, indent: int | None = None) -> Path:
    tokens = {"promotes": [{"token": " é", "token_id": 7, "weight": 0.5}],
              "suppresses": [{"token": "x", "token_id": 9, "weight": -0.25}]}  # fmt: skip
    down = {"excitatory": [entry(1, 3, 0.5), entry(1, 2, 0.75)], "inhibitory": [entry(1, 0, -0.25), entry(1, 1, 0.0)]}
    up = {"excitatory": [entry(0, 4, 1.5, c_gate=None)], "inhibitory": [entry(0, 4, 2.0)]}
    return write(
        folder, {"4": neuron(projections=tokens, downstream=down), "0": neuron()}, {"2": neuron(upstream=up)},
        indent=indent,
    )  # fmt: skip


def wiring(path: Path) -> list[dict[str, Any]]:
    return pa.concat_tables(tables[0] for tables in read(path)).to_pylist()


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("window", [1, 7, 1 << 20])
def test_a_file_becomes_rows(tmp_path: Path, indent: int | None, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.ingest.wiring_cache._WINDOW", window)
    folder = cache(tmp_path / "c", indent)
    found = wiring(folder / "layer_0.json")
    names = ("neuron", "direction", "polarity", "rank", "other_layer", "other_neuron", "effective_strength", "c_up")
    assert [tuple(row[n] for n in names) for row in found] == [
        (4, "downstream", 1, 0, 1, 2, 0.75, 0.375),  # ranked by strength, not by place in the file
        (4, "downstream", 1, 1, 1, 3, 0.5, 0.25),
        (4, "downstream", -1, 0, 1, 0, -0.25, -0.125),  # strength 0 is not listed
    ]
    assert {(row["layer"], row["lab_strength"], row["polarity_source"]) for row in found[:1]} == {
        (0, 0.75, "lab_cache")
    }
    lens = pa.concat_tables(tables[1] for tables in read(folder / "layer_0.json")).to_pylist()
    expected = {"layer": 0, "neuron": 4, "rank": 0}
    assert lens == [
        expected | {"polarity": 1, "token_id": 7, "value": 0.5},
        expected | {"polarity": -1, "token_id": 9, "value": -0.25},
    ]
    upstream = wiring(folder / "layer_1.json")
    assert [(row["effective_strength"], row["c_gate"], row["lab_strength"]) for row in upstream] == [
        (1.5, None, None),
        (-2.0, 1.0, -2.0),  # the list gives the sign
    ]


def test_shards_hold_every_layer(tmp_path: Path) -> None:
    assert write_shards(cache(tmp_path / "c"), tmp_path / "shards", fingerprint="f") == 5
    files = shard_files(tmp_path / "shards", "wiring")
    assert [pq.read_table(path).num_rows for path in files] == [3, 2]
    assert sum(pq.read_table(path).num_rows for path in shard_files(tmp_path / "shards", "logit_lens")) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ends early at character 0"),
        ("[1]", "expected '{', found '\\['"),
        ('{"1": {"downstream": ', "Expecting value"),
        ('{"1": {} "2": {}}', "expected ',', found '\"'"),
        ('{"x": {}}', "expected neuron numbers"),
        ('{"1": 5}', "neuron 1"),
        ('{"1": {"downstream": {"excitatory": [{"layer": 1, "neuron": 2}]}}}', "no field 'effective_strength'"),
        (json.dumps({"1": {"upstream": {"excitatory": [entry(1, 2, 1.0)]}}}), "upstream of layer 0 lists"),
        (json.dumps({"1": {"downstream": {"excitatory": [entry(1, 2, float("nan"))]}}}), "NaN"),
    ],
)
def test_faults_name_file_and_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "layer_0.json").write_text(text)
    with pytest.raises(InputError, match=said):
        wiring(tmp_path / "layer_0.json")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no layer_N"):
        cache_files(tmp_path)
    (tmp_path / "layer_0.json").write_text("{}")
    (tmp_path / "layer_2.json").write_text("{}")
    with pytest.raises(InputError, match="no layer_1"):
        cache_files(tmp_path)


def test_members_are_those_of_json_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {str(i): {"a": [i, -1.5e-3, None, True, 'é"\\u0041'], "b": {}} for i in range(50)} | {"n": 12.5e-1}
    path = tmp_path / "layer_0.json"
    path.write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    for window in (1, 2, 3, 1 << 20):
        monkeypatch.setattr("atlas.ingest.wiring_cache._WINDOW", window)
        assert dict(members(path)) == whole


def test_an_atlas_goes_out_and_comes_back(tmp_path: Path) -> None:
    tables = small_tables()
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        report = export_wiring_cache(opened, tmp_path / "cache")
        stored = {name: opened.con.sql(f"FROM {name}").to_arrow_table().to_pylist() for name in NAMES}
        assert len(report.files) == opened.layers
    write_shards(tmp_path / "cache", tmp_path / "shards", fingerprint="f")
    assert stored["wiring"]
    for name, rows in stored.items():
        found = pa.concat_tables(pq.read_table(p) for p in shard_files(tmp_path / "shards", name)).to_pylist()
        assert sorted(found, key=repr) == sorted(rows, key=repr)


def test_written_fields_are_those_of_the_form(tmp_path: Path) -> None:
    with atlas.open(write_atlas(tmp_path / "a.duckdb", small_tables(), edge_method="relp_direct")) as opened:
        export_wiring_cache(opened, tmp_path / "cache")
        edges = {(s, t): w for s, t, w in opened.con.execute("SELECT src, tgt, mean_weight FROM edges").fetchall()}
        width = opened.d_mlp
    seen = 0
    for layer, path in enumerate(cache_files(tmp_path / "cache")):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert list(found) == [str(i) for i in range(width)]
        for key, member in found.items():
            assert list(member) == ["projections", "upstream", "downstream"]
            for direction in ("upstream", "downstream"):
                for kind, entries in member[direction].items():
                    for one in entries:
                        mine, other = layer * width + int(key), one["layer"] * width + one["neuron"]
                        weight = edges.get((mine, other) if direction == "downstream" else (other, mine))
                        assert (one["relp_confirmed"], one["relp_strength"]) == (weight is not None, weight)
                        assert one["predicted_polarity"] == kind
                        assert one["c_combined"] == one["c_up"] + (one["c_gate"] or 0)
                        seen += 1
    assert seen


_LIMITED = """
import resource, sys
from pathlib import Path
from atlas.ingest.wiring_cache import read
status = lambda key: int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024
before = status("VmSize")
resource.setrlimit(resource.RLIMIT_AS, (before + 250_000_000,) * 2)
print(sum(tables[0].num_rows for tables in read(Path(sys.argv[1]))), status("VmHWM"))
"""


def test_a_file_of_100_mb_is_read_under_300_mb(tmp_path: Path) -> None:
    """The limit is 250 MB of addresses beyond what the imports take; resident memory stays under 300 MB in all."""
    lists = {kind: [entry(1, i, 1 / (i + 3)) for i in range(10)] for kind in ("excitatory", "inhibitory")}
    text, path, count = json.dumps(neuron(downstream=lists)), tmp_path / "layer_0.json", 0
    with path.open("w") as handle:
        handle.write("{")
        while handle.tell() < 100_000_000:
            handle.write(f'{"," if count else ""}"{count}": {text}')
            count += 1
        handle.write("}")
    run = subprocess.run([sys.executable, "-c", _LIMITED, str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]
    rows, resident = map(int, run.stdout.split())
    assert (rows, resident < 300_000_000) == (20 * count, True)
