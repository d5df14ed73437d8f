"""Neuronpedia packages: features/s, MB/s, sizes and memory of every layout, beside two baselines of the same run.

`rows` only reads the rows of the same neurons, as Arrow tables, and makes nothing of them. `dumps` has every record of
the finished package in memory already and writes it again with the standard library's json and the same packing: what a
script of twenty lines would take from there. Each layout runs --repeats times in turn with its baselines (minimum,
median and maximum of processor seconds; where other work shares the machine the clock says little), and once more in a
process of its own for its peak memory. MB are those of the JSON before packing. Without --atlas one is planted: 40
exemplars of 17 tokens, 40 tokens of the logit lens and two labels a neuron.

    python scripts/bench/export.py --quick
    python scripts/bench/export.py --neurons 51200 --width 25600 --folder /data/scratch
    python scripts/bench/export.py --atlas demo.duckdb --atlas stories260K.duckdb
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import atlas as library
from atlas.build.neuronpedia import export_neuronpedia
from atlas.export.neuronpedia.files import LEVEL
from atlas.export.neuronpedia.plan import LAYOUTS, NeuronpediaPlan
from atlas.export.neuronpedia.records import CHUNK
from atlas.store.connection import open_writer
from atlas.store.ledger import set_metadata
from atlas.store.schema import apply_schema, newest_version, store_macros

VOCAB, CONTEXTS, LENGTH = 4096, 2000, 128
QUICK = 600  # neurons
PLANTED = {
    "vocab": f"SELECT range::INTEGER, ' t' || range, 10 FROM range({VOCAB})",
    "contexts": f"""SELECT range, 'planted', range, 0, [(hash(range * 131 + i) % {VOCAB})::INTEGER
        FOR i IN range({LENGTH})] FROM range({CONTEXTS})""",
    "neurons": """SELECT id // $width, id % $width, id, 'mlp_neuron', 'words like ' || id, NULL, NULL, NULL, 3.0, 40, 0,
        1.0, NULL, NULL, NULL, NULL, NULL, NULL FROM ids""",
    "exemplars": f"""SELECT id // $width, id % $width, s, 0, r, s * (3.0 - r / 20), hash(id + r) % {CONTEXTS},
        8 + hash(id * 7 + r) % ({LENGTH} - 17), hash(id * 7 + r) % ({LENGTH} - 17),
        [CASE WHEN i = 8 THEN s * (3.0 - r / 20) ELSE (hash(id * 40 + r + i) % 1000003) / 4000012 END
         FOR i IN range(17)]
        FROM ids, (SELECT unnest([1, -1]) AS s), (SELECT range AS r FROM range(20)) ORDER BY id, s DESC, r""",
    "logit_lens": f"""SELECT id // $width, id % $width, s, r, hash(id * 3 + r) % {VOCAB}, s * (20.0 - r) / 7
        FROM ids, (SELECT unnest([1, -1]) AS s), (SELECT range AS r FROM range(20)) ORDER BY id, s DESC, r""",
    "token_stats": f"""SELECT id // $width, id % $width, s, hash(id * 5 + r) % {VOCAB}, 5, s * 9.0, 3.0, -3.0
        FROM ids, (SELECT unnest([1, -1]) AS s), (SELECT range AS r FROM range(50)) ORDER BY id, s DESC, r""",
}
STATS = """INSERT INTO atlas.neuron_stats (layer, neuron, n_tokens, s1, abs_sum, n_active, n_fired_pos, n_fired_neg,
    fire_pos, fire_neg, min, max, hist_lo, hist_hi, hist)
    SELECT id // $width, id % $width, 64000, -10, 20000, 30000, 1500, 900, 0.5, -0.5, -3.0, 3.0, -2.5, 2.5,
        [0] || [(hash(id + i) % 1000)::BIGINT FOR i IN range(64)] || [0] FROM ids ORDER BY id"""
LABELS = """INSERT INTO atlas.labels (layer, neuron, pass, polarity, label, description, status, source)
    SELECT id // $width, id % $width, p, s, 'words like ' || id, repeat('evidence ', 30), 'ok', 'rule:tokens'
    FROM ids, (SELECT unnest(['output', 'input']) AS p, unnest([0, 1]) AS s) ORDER BY id, p"""


def plant(path: Path, neurons: int, width: int) -> None:
    """Write an atlas of so many neurons in layers of `width`."""
    con = open_writer(path)
    apply_schema(con, d_mlp=width)
    con.execute(f"CREATE TEMP VIEW ids AS SELECT range AS id FROM range({neurons})")
    for table, select in PLANTED.items():
        con.execute(f"INSERT INTO atlas.{table} {select}", {"width": width} if "$width" in select else {})
    con.execute(STATS, {"width": width})
    con.execute(LABELS, {"width": width})
    layers = -(-neurons // width)
    set_metadata(con, {
        "model": "planted", "revision": "0", "num_layers": layers, "neurons_per_layer": width, "d_model": 64,
        "corpora": "planted", "context_length": LENGTH, "schema_version": newest_version(), "created": "2026-01-01",
    })  # fmt: skip
    store_macros(con)
    con.close()


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of this process, threads included."""
    start = time.process_time()
    work()
    return time.process_time() - start


def read_rows(a: library.Atlas, ids: list[int], layout: str) -> None:
    """The rows behind a package, as Arrow tables, 200 neurons at a time."""
    every: dict[str, Any] = {"of_signs": [1], "max_rows": 20}
    asked = {"export_statistics": {}, "export_exemplars": every, "export_logits": {"max_rows": 20}, "export_labels": {}}
    if layout == "prd":
        asked["export_tokens"] = every | {"max_rows": 50}
    for layer in sorted({one // a.d_mlp for one in ids}):
        neurons = [one % a.d_mlp for one in ids if one // a.d_mlp == layer]
        for first in range(0, len(neurons), CHUNK):
            some = {"of_layer": layer, "of_neurons": neurons[first : first + CHUNK]}
            for macro, more in asked.items():
                a.ask(macro, some | more).arrow()


def documents(package: Path) -> list[tuple[str, list[Any]]]:
    """Every record of a package by file; a file of one document is a list of one."""
    found = []
    for name, content in _members(package):
        if name.endswith(".gz"):
            found.append((name, [json.loads(line) for line in gzip.decompress(content).splitlines()]))
        elif name.endswith((".json", ".jsonl")):
            found.append((name, [json.loads(content)]))
    return found


def _members(package: Path) -> Iterator[tuple[str, bytes]]:
    if package.is_dir():
        for path in sorted(p for p in package.rglob("*") if p.is_file()):
            yield path.relative_to(package).as_posix(), path.read_bytes()
        return
    with zipfile.ZipFile(package) as packed:
        for name in packed.namelist():
            yield name, packed.read(name)


def dump(files: list[tuple[str, list[Any]]], target: Path, packed: bool) -> int:
    """Write records with json and the packing of their package; returns bytes of JSON."""
    size = 0
    with zipfile.ZipFile(target / "t.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as out:
        for i, (name, records) in enumerate(files):
            content = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in records).encode()
            size += len(content)
            if packed:
                out.writestr(name, content)
            else:
                done = gzip.compress(content, LEVEL, mtime=0) if name.endswith(".gz") else content
                (target / str(i)).write_bytes(done)
    return size


def measure(file: Path, layout: str, folder: Path, repeats: int) -> dict[str, Any]:
    """One layout of one atlas beside its baselines."""
    took: dict[str, list[float]] = {name: [] for name in ("export", "hash", "rows", "dumps")}
    with library.open(file) as a:
        ids = list(range(a.layers * a.d_mlp))
        plan = NeuronpediaPlan(ids, layout, most_bytes=1 << 50, force=True)
        target = folder / "package"
        for _ in range(repeats):
            took["hash"].append(seconds(a.hash))
            took["export"].append(seconds(lambda: export_neuronpedia(a, target, plan)))
            took["rows"].append(seconds(lambda: read_rows(a, ids, layout)))
            files, again = documents(target), folder / "again"
            again.mkdir()
            took["dumps"].append(seconds(partial(dump, files, again, layout == "prd")))
            shutil.rmtree(again)
        package = export_neuronpedia(a, target, plan)
    plain = sum(len(gzip.decompress(c)) if name.endswith(".gz") else len(c) for name, c in _members(target))
    return figures(took, plain) | {
        "features": package.features, "files": package.files, "package_mb": round(package.size_bytes / 1e6, 2),
        "json_mb": round(plain / 1e6, 2), "peak_mib": peak(file, layout, folder / "peak"),
        "open_mib": peak(file, "", folder / "peak"),
    }  # fmt: skip


def figures(took: dict[str, list[float]], plain: int) -> dict[str, Any]:
    """Speeds without the hash of the atlas's content, which is the same for every layout."""
    own = [whole - base for whole, base in zip(took["export"], took["hash"], strict=True)]
    middle = statistics.median(own)
    told: dict[str, Any] = {
        name: [round(v, 3) for v in (min(some), statistics.median(some), max(some))]
        for name, some in {**took, "export": own}.items()
    }
    ratios = {f"times_{name}": round(middle / statistics.median(took[name]), 2) for name in ("rows", "dumps")}
    return {"cpu_s": told, "mb_s": round(plain / 1e6 / middle, 1), **ratios}


def peak(file: Path, layout: str, target: Path) -> int:
    """MiB of a process that exports; without a layout, of one that opens the atlas and takes its hash."""
    command = [sys.executable, __file__, "--peak", str(file), "--layout", layout, "--folder", str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(int(done.stdout.splitlines()[-1]) / 1024)


def run_alone(file: Path, layout: str, target: Path) -> None:
    """Export in this process and print its peak memory in KiB."""
    with library.open(file) as a:
        if layout:
            ids = range(a.layers * a.d_mlp)
            export_neuronpedia(a, target, NeuronpediaPlan(ids, layout, most_bytes=1 << 50, force=True))
        else:
            a.hash()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def show(name: str, layout: str, found: dict[str, Any]) -> None:
    """One line a layout."""
    speed = found["features"] / found["cpu_s"]["export"][1]
    low, middle, high = found["cpu_s"]["export"]
    print(
        f"{name:12} {layout:14} {found['features']:7,} features {speed:6,.0f}/s {found['mb_s']:6.1f} MB/s  package "
        f"{found['package_mb']:8.2f} MB  {middle:6.2f} s ({low:.2f}..{high:.2f})  {found['times_rows']:5.2f} x rows  "
        f"{found['times_dumps']:5.2f} x dumps  {found['peak_mib']:5} MiB",
        flush=True,
    )


def main() -> None:
    """Run the layouts, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} planted neurons, 3 repeats")
    parser.add_argument("--atlas", type=Path, action="append", help="measure these instead; repeat")
    parser.add_argument("--neurons", type=int, default=5000, help="of the planted atlas")
    parser.add_argument("--width", type=int, default=1000, help="of its layers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layout", help="this one alone")
    parser.add_argument("--folder", type=Path, help="for the files; the system's temporary folder without it")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        run_alone(chosen.peak, chosen.layout, chosen.folder)
        return
    neurons, repeats = (QUICK, 3) if chosen.quick else (chosen.neurons, chosen.repeats)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        files = chosen.atlas or [Path(folder) / "planted.duckdb"]
        if not chosen.atlas:
            plant(files[0], neurons, min(chosen.width, neurons))
        for file in files:
            for layout in [chosen.layout] if chosen.layout else LAYOUTS:
                found = measure(file, layout, Path(folder), repeats)
                show(file.stem, layout, found)
                result.setdefault(file.stem, {})[layout] = found
    print(json.dumps({"baseline": "rows: reading alone; dumps: json of the same records", "atlases": result}))


if __name__ == "__main__":
    main()
