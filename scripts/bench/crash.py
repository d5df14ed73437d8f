"""Builds killed with SIGKILL at random instants, rerun, and compared with an undisturbed build.

After every kill the atlas must be absent, or readable with the content of before or after; after the rerun its
content hash must equal the undisturbed one. Half of the cases rebuild over an older atlas (other parameters).
The harness takes any command that can be killed and rerun: see `Case`.

    python scripts/bench/crash.py --kills 50
    python scripts/bench/crash.py --quick
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from atlas.errors import AtlasError
from atlas.store.checks import run_checks
from atlas.store.connection import open_reader
from atlas.store.content import content_hash

ROOT = Path(__file__).parents[2]
SMALL = """
name = "crash"
model = "{model}"
corpus = "{corpus}"
atlas = "{folder}/crash.duckdb"
[activations]
documents = 120
fire_quantile = {quantile}
calibration_tokens = 2048
shards = 2
[gradients]
documents = 40
[relp]
graphs = 8
tokens = 16
shards = 2
[edges]
min_count = 1
[cluster]
min_count = 1
"""


@dataclass(frozen=True)
class Case:
    """Something that can be killed: prepare a folder, the command to run in it, and the content it leaves."""

    name: str
    prepare: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    content: Callable[[Path], str | None]  # hash of what a reader sees, None where nothing is; raises when unreadable
    accepted: frozenset[str | None]  # content that a reader may see after a kill
    final: str  # content after the rerun


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    finished_before_kill: int = 0
    differences: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def write_recipe(folder: Path, *, quantile: float) -> None:
    """A small recipe on the demo model, writing into `folder`."""
    demo = ROOT / "data" / "demo"
    text = SMALL.format(model=demo / "model", corpus=demo / "corpus.json", folder=folder, quantile=quantile)
    (folder / "crash.toml").write_text(text)


def build_command(folder: Path) -> list[str]:
    """The build of the recipe in `folder`."""
    return [sys.executable, "-m", "atlas", "build", str(folder / "crash.toml"), "--quiet", "--workers", "1"]


def atlas_content(folder: Path) -> str | None:
    """Content hash of the atlas in `folder`, after running every check on it."""
    path = folder / "crash.duckdb"
    if not path.exists():
        return None
    con = open_reader(path)
    try:
        faults = [result.name for result in run_checks(con) if not result.healthy]
        return content_hash(con) + "".join(f" fails {name}" for name in faults)
    finally:
        con.close()


def undisturbed(base: Path, name: str, quantile: float) -> tuple[Path, str, float]:
    """Build once without a kill: (folder, content, seconds)."""
    folder = base / name
    folder.mkdir()
    write_recipe(folder, quantile=quantile)
    start = time.monotonic()
    subprocess.run(build_command(folder), check=True)
    content = atlas_content(folder)
    assert content is not None
    return folder, content, time.monotonic() - start


def run_until_killed(command: list[str], seconds: float) -> bool:
    """Start a command in its own process group; SIGKILL the group after `seconds`. False when it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode != 0:
        raise RuntimeError(f"{command} failed without being killed: {errors.decode()}")
    return False


def instants_of(rng: random.Random, seconds: float, most: int) -> list[float]:
    """One to three instants: the first anywhere in a build, the later ones (reruns, which are shorter) in its half."""
    count = min(rng.choice((1, 2, 3)), most)
    return [rng.uniform(0.05, 0.95 if number == 0 else 0.5) * seconds for number in range(count)]


def disturb(case: Case, folder: Path, tally: Tally, *, instants: list[float]) -> None:
    """Kill the command at each instant in turn (a rerun each time), then let it finish, and compare."""
    case.prepare(folder)
    for seconds in instants:
        if not run_until_killed(case.command(folder), seconds):
            tally.finished_before_kill += 1
            break
        tally.kills += 1
        where = f"{case.name}, killed after {seconds:.2f} s"
        try:
            seen = case.content(folder)
        except AtlasError as error:
            tally.unreadable.append(f"{where}: {error}")
            continue
        if seen not in case.accepted:
            tally.differences.append(f"{where}: content {seen}")
    subprocess.run(case.command(folder), check=True)
    if case.content(folder) != case.final:
        tally.differences.append(f"{case.name}: after the rerun {case.content(folder)}, expected {case.final}")


def build_cases(base: Path) -> tuple[list[Case], float]:
    """A fresh build, and a rebuild over an older atlas."""
    _, new, seconds = undisturbed(base, "undisturbed", 0.95)
    old_folder, old, again = undisturbed(base, "older", 0.9)
    assert old != new

    def prepare_fresh(folder: Path) -> None:
        write_recipe(folder, quantile=0.95)

    def prepare_over(folder: Path) -> None:
        shutil.copyfile(old_folder / "crash.duckdb", folder / "crash.duckdb")
        write_recipe(folder, quantile=0.95)

    fresh = Case("fresh build", prepare_fresh, build_command, atlas_content, frozenset({None, new}), new)
    over = Case("rebuild over an older atlas", prepare_over, build_command, atlas_content, frozenset({old, new}), new)
    return [fresh, over], min(seconds, again)


def main() -> None:
    """Parse, run, print a summary and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="2 kills, under 50 s on 2 cores")
    chosen = parser.parse_args()
    wanted, rng, tally = 2 if chosen.quick else chosen.kills, random.Random(chosen.seed), Tally()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        cases, seconds = build_cases(base)
        print(f"undisturbed build: {seconds:.1f} s", file=sys.stderr)
        for number in range(100 * wanted):
            if tally.kills >= wanted:
                break
            folder = base / f"case{number}"
            folder.mkdir()
            instants = instants_of(rng, seconds, wanted - tally.kills)
            disturb(cases[number % len(cases)], folder, tally, instants=instants)
            shutil.rmtree(folder)
            print(f"{tally.kills} kills, {len(tally.differences)} differences", file=sys.stderr)
    for line in [*tally.differences, *tally.unreadable]:
        print(line)
    result = {
        "kills": tally.kills,
        "differences": len(tally.differences),
        "unreadable": len(tally.unreadable),
        "finished_before_kill": tally.finished_before_kill,
        "undisturbed_build_s": round(seconds, 1),
        "seed": chosen.seed,
    }
    print(json.dumps(result))
    sys.exit(bool(tally.differences or tally.unreadable))


if __name__ == "__main__":
    main()
