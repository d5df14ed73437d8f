"""Import of autointerp JSON lines: MB/s and memory, beside a plain json loop, orjson, pyarrow and DuckDB's JSON reader.

A file of lines of 2.2 KB is written first (seeded; 1.64 million lines = 3.6 GB) and removed at the end. Each reader
runs in a process of its own, with two threads; all but `atlas` only read. `atlas` is `atlas label import` up to the
stored rows: read, decoded, checked, written; the choice of the labels that neurons show is timed apart. Where other
work shares the processor, compare the processor seconds.

python scripts/bench/label_import.py --quick
python scripts/bench/label_import.py --folder /data/scratch
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LAYERS, D_MLP = 64, 25_600
FULL, COMPARED, QUICK = LAYERS * D_MLP, 100_000, 40_000  # lines
BODIES = 2_000  # different texts; each line has its own ids
READERS = ("json", "orjson", "pyarrow", "duckdb", "atlas")


def write_lines(path: Path, lines: int, *, seed: int = 0) -> None:
    """Write lines as a labelling run of another tool leaves them: label, description, answer, prompt, exemplars."""
    dice = random.Random(seed)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(3, 9))) for _ in range(5_000)]
    bodies = [_body(dice, words) for _ in range(BODIES)]
    shown = json.dumps([{"token": "tok", "activation": 1.25}] * 13)
    with path.open("w", encoding="utf-8", buffering=1 << 20) as out:
        for i in range(lines):
            layer, neuron = divmod(i, D_MLP)
            seen = f'"layer": {layer}, "neuron": {neuron}, "num_exemplars": 20, "max_activation": {65 + i % 7}.5'
            body = bodies[i * 7919 % BODIES]
            out.write(f'{{"feature_id": {i}, {body}, "feature_metadata": {{{seen}, "top": {shown}}}}}\n')


def _body(dice: random.Random, words: list[str]) -> str:
    def text(length: int) -> str:
        return " ".join(dice.choices(words, k=max(length // 7, 1)))

    told = {"label": text(dice.randint(30, 80)), "description": text(dice.randint(150, 300))}
    made = {"model": "m", "raw_response": json.dumps(told), "parsed_response": told, "prompt": text(720)}
    return json.dumps({"labels": [{"label": told["label"], "metadata": {**made, "usage": {"in": 300, "out": 50}}}]})[
        1:-1
    ]


def read_json(path: Path) -> None:
    with path.open("rb") as lines:
        for line in lines:
            json.loads(line)


def read_orjson(path: Path) -> None:
    import orjson

    with path.open("rb") as lines:
        for line in lines:
            orjson.loads(line)


def read_pyarrow(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.json as pj

    pa.set_cpu_count(2)
    said = pa.struct([("label", pa.string()), ("description", pa.string())])
    labels = pa.list_(pa.struct([("label", pa.string()), ("metadata", pa.struct([("parsed_response", said)]))]))
    seen = pa.struct([("layer", pa.int32()), ("neuron", pa.int32()), ("max_activation", pa.float64())])
    schema = pa.schema([("feature_id", pa.int64()), ("labels", labels), ("feature_metadata", seen)])
    parse = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    with pj.open_json(path, read_options=pj.ReadOptions(block_size=1 << 22), parse_options=parse) as batches:
        for _ in batches:
            pass


def read_duckdb(path: Path) -> None:
    import duckdb

    con = duckdb.connect()
    con.execute("SET threads = 2; SET memory_limit = '800MB'")
    said = "STRUCT(label VARCHAR, description VARCHAR)"
    columns = {
        "feature_id": "BIGINT",
        "labels": f"STRUCT(label VARCHAR, metadata STRUCT(parsed_response {said}))[]",
        "feature_metadata": "STRUCT(layer INTEGER, neuron INTEGER, max_activation DOUBLE)",
    }
    con.execute(
        "SELECT count(*), sum(length(labels[1].label)), sum(length(labels[1].metadata.parsed_response.description)) "
        "FROM read_json($1, format = 'newline_delimited', columns = $2, ignore_errors = true)",
        [str(path), columns],
    ).fetchall()


def read_atlas(path: Path) -> dict[str, float]:
    from atlas.ingest.label_choice import choose_labels
    from atlas.ingest.labels import import_labels
    from atlas.ingest.neurons import assemble_neurons
    from atlas.store.connection import Limits, open_writer
    from atlas.store.ledger import set_metadata
    from atlas.store.schema import apply_schema
    from atlas.store.write import transaction

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        con = open_writer(Path(folder) / "a.duckdb", limits=Limits("256MiB", 2, Path(folder) / "spill"))
        apply_schema(con, d_mlp=D_MLP)
        set_metadata(con, {"num_layers": LAYERS, "neurons_per_layer": D_MLP})
        assemble_neurons(con, layers=LAYERS)
        start, used = time.perf_counter(), time.process_time()
        with transaction(con):
            made = import_labels(con, path, layers=LAYERS, d_mlp=D_MLP)
        con.execute("CHECKPOINT atlas")
        told = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - used}
        assert not made.rejected, made.reason
        told["import_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start = time.perf_counter()
        choose_labels(con)
        told["choice"] = time.perf_counter() - start
        con.close()
    return told


def work(name: str, path: Path) -> None:
    """Run one reader and print what it took."""
    readers: dict[str, Callable[[Path], dict[str, float] | None]] = {
        "json": read_json,
        "orjson": read_orjson,
        "pyarrow": read_pyarrow,
        "duckdb": read_duckdb,
        "atlas": read_atlas,
    }
    start, used = time.perf_counter(), time.process_time()
    told = readers[name](path) or {"seconds": time.perf_counter() - start, "cpu": time.process_time() - used}
    print(json.dumps({**told, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def run(name: str, path: Path) -> dict[str, float]:
    """Run one reader in a process of its own; MB/s by the clock and by the processor's time, and its peak memory."""
    command = [sys.executable, __file__, "--reader", name, "--file", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    size = path.stat().st_size / 1e6
    found |= {"mb_s": size / found["seconds"], "mb_cpu_s": size / found["cpu"]}
    choice = f"  choice {found['choice']:.1f} s" if "choice" in found else ""
    speed = f"{found['mb_s']:6.0f} MB/s  {found['mb_cpu_s']:6.0f} MB per processor second"
    print(
        f"{name:8} {size:6,.0f} MB {found['seconds']:7.1f} s {speed}  {found['peak_mib']:6.0f} MiB{choice}", flush=True
    )
    return found


def main() -> None:
    """Write the file, run the readers, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} lines")
    parser.add_argument("--lines", type=int, default=FULL, help="of the large file")
    parser.add_argument("--folder", type=Path, help="for the files; the system's temporary folder without it")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.reader:
        work(chosen.reader, chosen.file)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        few = Path(folder) / "few.jsonl"
        write_lines(few, QUICK if chosen.quick else min(COMPARED, chosen.lines))
        compared = {name: run(name, few) for name in READERS}
        few.unlink()
        large = compared
        if not chosen.quick:
            many = Path(folder) / "many.jsonl"
            write_lines(many, chosen.lines)
            large = {name: run(name, many) for name in ("json", "atlas")}
    base, ours = large["json"], large["atlas"]
    result = {
        "mb_s": round(ours["mb_s"]), "peak_mib": round(ours["peak_mib"]),
        "import_peak_mib": round(ours["import_peak_mib"]),
        "ratio_to_json": round(ours["mb_s"] / base["mb_s"], 2),
        "ratio_to_json_cpu": round(ours["mb_cpu_s"] / base["mb_cpu_s"], 2),
        "ratio_to_duckdb": round(compared["atlas"]["mb_s"] / compared["duckdb"]["mb_s"], 2),
        "readers_mb_s": {name: round(one["mb_s"]) for name, one in compared.items()},
        "readers_mb_cpu_s": {name: round(one["mb_cpu_s"]) for name, one in compared.items()},
        "readers_peak_mib": {name: round(one["peak_mib"]) for name, one in compared.items()},
        "choice_s": round(ours["choice"], 1), "lines": QUICK if chosen.quick else chosen.lines, "baseline": "json",
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
