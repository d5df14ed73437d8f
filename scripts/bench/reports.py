"""Report pages and plain files a second, beside the same facts asked for neuron by neuron, in one run.

python scripts/bench/reports.py [ATLAS]
python scripts/bench/reports.py --quick

Rounds of all jobs in turn, each in a process of its own (its peak memory is the process's, libraries included). The
baseline "cards" asks each neuron of a report for its card and writes that as JSON, no page and no similar neurons.
"noise" is the spread (max - min) / median of the baseline's wall time. Rates by processor seconds (of all threads) do
not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEMO = Path(__file__).parents[2] / "data" / "demo.duckdb"
JOBS = ("cards", "reports", "again", "edges.parquet", "edges.csv", "edges.jsonl")


def cards(file: Path, folder: Path, ids: list[int]) -> int:
    """The baseline: one card a neuron, as JSON."""
    import atlas

    size = 0
    with atlas.open(file) as opened:
        for one in ids:
            text = json.dumps(opened.neuron(one).to_dict(), default=str)
            size += (folder / f"{one}.json").write_text(text)
    return size


def reports(file: Path, folder: Path, ids: list[int]) -> int:
    """Pages and documents of the same neurons; a second time in one folder they are compared, not written."""
    import atlas
    from atlas.export.reports.write import ReportPlan, write_reports

    with atlas.open(file) as opened:
        return write_reports(opened, folder / "reports", ReportPlan(ids)).size


def table(file: Path, target: Path) -> tuple[int, int]:
    """All edges with their labels as one file; rows and bytes."""
    from atlas.export.plain.files import write_rows
    from atlas.export.plain.rows import RowPlan, Rows
    from atlas.query.atlas import Atlas
    from atlas.store.connection import Limits

    with Atlas(file, limits=Limits("1GiB")) as opened:
        rows = Rows(opened, "edges", RowPlan(with_labels=True))
        done = write_rows(rows, target, target.suffix[1:], force=True)
    return done.rows, done.size or 0


def work(job: str, file: Path, folder: Path, pages: int) -> dict[str, float]:
    """One job in this process: seconds, things made, bytes, peak memory."""
    import atlas

    with atlas.open(file) as opened:
        ids = [row["feature_id"] for row in opened.ask("neurons_busiest", {"max_rows": pages}).rows()]
    start, cpu, things = time.perf_counter(), time.process_time(), len(ids)
    if job.startswith("edges."):
        things, size = table(file, folder / job)
    else:
        size = (cards if job == "cards" else reports)(file, folder, ids)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu": cpu, "things": things, "bytes": size, "peak": peak}


def rounds(file: Path, pages: int, count: int) -> dict[str, list[dict[str, float]]]:
    """Every job `count` times, in turn."""
    found: dict[str, list[dict[str, float]]] = {job: [] for job in JOBS}
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            for job in JOBS:
                words = [sys.executable, __file__, str(file), "--job", job, "--folder", folder, "--pages", str(pages)]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                found[job].append(json.loads(done.stdout))
    return found


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Medians, and ratios to the baseline."""
    rate = {job: statistics.median(one["things"] / one["seconds"] for one in runs) for job, runs in found.items()}
    busy = {job: statistics.median(one["things"] / one["cpu"] for one in runs) for job, runs in found.items()}
    times = [one["seconds"] for one in found["cards"]]
    pages = found["reports"][0]
    return {
        "baseline": "cards: one card a neuron, as JSON",
        "pages_a_second_to_cards": round(rate["reports"] / rate["cards"], 2),
        "unchanged_to_written": round(rate["again"] / rate["reports"], 2),
        "noise": round((max(times) - min(times)) / statistics.median(times), 2),
        "pages_a_cpu_second": round(busy["reports"], 1),
        "pages_a_cpu_second_to_cards": round(busy["reports"] / busy["cards"], 2),
        "pages_a_second": round(rate["reports"], 1), "cards_a_second": round(rate["cards"], 1),
        "megabytes_a_second": round(rate["reports"] * pages["bytes"] / pages["things"] / 1e6, 2),
        "page_bytes": round(pages["bytes"] / pages["things"]), "pages": pages["things"],
        "edges_a_second": {job.partition(".")[2]: round(rate[job]) for job in JOBS if job.startswith("edges")},
        "edge_bytes": {job.partition(".")[2]: round(found[job][0]["bytes"] / max(found[job][0]["things"], 1), 1)
                       for job in JOBS if job.startswith("edges")},
        "peak_bytes": {job: round(max(one["peak"] for one in runs)) for job, runs in found.items()},
        "rounds": len(times),
    }  # fmt: skip


def main() -> None:
    """Print a line a job and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atlas", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--pages", type=int, default=400, help="neurons, those of most graphs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="60 pages, 2 rounds")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not chosen.atlas.exists():
        sys.exit(f"no {chosen.atlas}: run scripts/quickstart first, or give an atlas")
    if chosen.job:
        print(json.dumps(work(chosen.job, chosen.atlas, chosen.folder, chosen.pages)))
        return
    pages, count = (60, 2) if chosen.quick else (chosen.pages, chosen.rounds)
    found = rounds(chosen.atlas, pages, count)
    for job, runs in found.items():
        middle = statistics.median(one["seconds"] for one in runs)
        print(f"{job:14} {runs[0]['things']:>8,.0f} things  {middle:7.2f} s  {runs[0]['bytes'] / 1e6:8.1f} MB")
    print(json.dumps(summary(found)))


if __name__ == "__main__":
    main()
