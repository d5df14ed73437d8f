"""`atlas import wiring-cache`: the cache of an atlas comes back equal; whatever goes wrong, the atlas stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.cli.main import main
from atlas.export.wiring_cache import export_wiring_cache
from atlas.shards import file_sha256


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Path, Path]:
    """An atlas, and the cache written from it."""
    path = write_atlas(tmp_path / "a.duckdb", small_tables())
    with atlas.open(path) as opened:
        export_wiring_cache(opened, tmp_path / "cache")
    return path, tmp_path / "cache"


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with atlas.open(path) as opened:
        return sorted(opened.con.execute(f"FROM {table}").fetchall(), key=repr)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0), capsys.readouterr().err


def test_a_cache_comes_back_into_the_atlas(cached: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path, cache = cached
    before, lens = rows(path, "wiring"), rows(path, "logit_lens")
    changed = json.loads((cache / "layer_0.json").read_text())
    taken = [entries.pop() for m in changed.values() for entries in m["downstream"].values() if entries]
    (cache / "layer_0.json").write_text(json.dumps(changed))
    code, said = run(capsys, "import", "wiring-cache", cache, "--atlas", path, "--replace")
    assert code == 0 and f"{len(before) - len(taken):,} wiring rows, 0 logit-lens rows" in said
    assert taken and set(rows(path, "wiring")) < set(before)
    assert rows(path, "logit_lens") == lens
    with atlas.open(path) as opened:
        step = opened.con.execute("SELECT key, rows_out FROM ingests WHERE step = 'table:wiring'").fetchall()
        assert opened.metadata["wiring_scope"] == "imported from a wiring cache"
    assert step[0][0].startswith("import:") and step[0][1] == len(before) - len(taken)


@pytest.mark.parametrize("fault", ["no replace", "layer missing", "layer too many", "cut", "neuron out of range"])
def test_a_fault_leaves_the_atlas(cached: tuple[Path, Path], fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, cache = cached
    first = cache / "layer_0.json"
    if fault == "layer missing":
        first.unlink()
    elif fault == "layer too many":
        (cache / "layer_9.json").write_text("{}")
        for layer in range(9):
            if not (cache / f"layer_{layer}.json").exists():
                (cache / f"layer_{layer}.json").write_text("{}")
    elif fault == "cut":
        first.write_text(first.read_text()[:-50])
    elif fault == "neuron out of range":
        first.write_text(first.read_text().replace('"0":', '"99999":', 1))
    words = [] if fault == "no replace" else ["--replace"]
    digest, listed = file_sha256(path), sorted(p.name for p in path.parent.iterdir())
    code, said = run(capsys, "import", "wiring-cache", cache, "--atlas", path, *words)
    assert code in (1, 2) and said.strip().splitlines()[-1].startswith("atlas: ") and ";" in said
    assert file_sha256(path) == digest
    assert sorted(p.name for p in path.parent.iterdir()) == listed
