"""Process wall time of `atlas search` on the demo atlas, start-up included, beside a bare import of what it needs.

python scripts/bench/startup.py
python scripts/bench/startup.py --quick
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

DEMO = Path(__file__).parents[2] / "data" / "demo.duckdb"
COMMANDS = {
    "search": ["-m", "atlas", "search", "dog", "--atlas", str(DEMO)],
    "neuron": ["-m", "atlas", "neuron", "L0/N100", "--atlas", str(DEMO)],
    "fires-on": ["-m", "atlas", "fires-on", "dog", "--atlas", str(DEMO)],
    "bare": ["-c", "import click, duckdb; duckdb.connect().execute('SELECT 1').fetchall()"],
}


def wall(arguments: list[str]) -> float:
    """Seconds of one whole process; raises when it fails."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Run the commands in turn, print min/median/max and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="7 runs")
    chosen = parser.parse_args()
    if not DEMO.exists():
        sys.exit(f"no {DEMO.name}: run scripts/quickstart first")
    runs = 7 if chosen.quick else chosen.runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, arguments in COMMANDS.items():
            seconds[name].append(wall(arguments))
    shown = {name: sorted(values[1:]) for name, values in seconds.items()}  # the first run warms the file cache
    for name, values in shown.items():
        print(f"{name:10} min {values[0]:.3f}  median {statistics.median(values):.3f}  max {values[-1]:.3f} s")
    medians = {name: statistics.median(values) for name, values in shown.items()}
    result = {
        "search_wall_s": round(medians["search"], 3),
        "ratio_to_bare_imports": round(medians["search"] / medians["bare"], 2),
        "wall_s": {name: [round(v[0], 3), round(medians[name], 3), round(v[-1], 3)] for name, v in shown.items()},
        "runs": runs,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
