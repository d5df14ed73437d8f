"""Whole builds of recipes in their own process: wall time, peak memory, size, seconds of every table step.

The baseline of a ratio is the second run of the same recipe, which finds nothing to do. DuckDB's memory limit is set
to 512 MiB, so that the peak says what the measuring floor and the interpreter need beside it.

    python scripts/bench/build.py data/recipes/demo.toml data/recipes/stories260K.toml
    python scripts/bench/build.py --quick
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from atlas.store.connection import open_reader
from atlas.store.content import content_hash

RECIPES = Path(__file__).parents[2] / "data" / "recipes"
LIMIT = "512MiB"


def run(command: list[str]) -> tuple[float, int]:
    """(wall seconds, peak resident bytes) of one process; raises when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def build(recipe: Path, folder: Path) -> dict[str, Any]:
    """Build a recipe into `folder`, then again; what both took and what came out."""
    atlas = folder / f"{recipe.stem}.duckdb"
    command = [sys.executable, "-m", "atlas", "build", str(recipe), "-o", str(atlas), "--memory", LIMIT, "--quiet"]
    seconds, peak = run(command)
    again, _ = run(command)
    con = open_reader(atlas)
    steps = con.execute("SELECT step, epoch(finished) - epoch(started) FROM atlas.ingests ORDER BY started").fetchall()
    value = content_hash(con)
    con.close()
    return {
        "seconds": round(seconds, 1),
        "seconds_nothing_to_do": round(again, 2),
        "peak_rss_bytes": peak,
        "atlas_bytes": atlas.stat().st_size,
        "content_hash": value,
        "table_seconds": {step: round(spent, 2) for step, spent in steps},
    }


def main() -> None:
    """Build each recipe, print a line each and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, default=[RECIPES / "demo.toml"])
    parser.add_argument("--quick", action="store_true", help="only the demo recipe")
    chosen = parser.parse_args()
    recipes = [RECIPES / "demo.toml"] if chosen.quick else chosen.recipes
    result: dict[str, Any] = {"memory_limit_of_tables": LIMIT, "by_recipe": {}}
    with tempfile.TemporaryDirectory() as name:
        for recipe in recipes:
            found = build(recipe.resolve(), Path(name))
            result["by_recipe"][recipe.stem] = found
            print(
                f"{recipe.stem:14} {found['seconds']:7.1f} s  peak {found['peak_rss_bytes'] / 2**20:,.0f} MiB  "
                f"atlas {found['atlas_bytes'] / 1e6:.1f} MB  again {found['seconds_nothing_to_do']:.2f} s"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
