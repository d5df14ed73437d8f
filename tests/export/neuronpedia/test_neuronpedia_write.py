"""Packages whole or not at all: same bytes, going on after a stop, cancelling, targets, a full disk, estimates."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from published_atlas import D_MLP, LAYERS, contents, document, published_tables, rows
from synthetic import write_atlas

import atlas
from atlas import InputError
from atlas.build.neuronpedia import estimate, export_neuronpedia
from atlas.errors import ResourceError
from atlas.export.neuronpedia import bulk, records, write
from atlas.export.neuronpedia.draft import check_target
from atlas.export.neuronpedia.layout import stable_id
from atlas.export.neuronpedia.plan import NeuronpediaPlan
from atlas.export.neuronpedia.selection import Choice, chosen
from atlas.progress import Quiet, Task

LAYOUTS = ("bulk", "upload", "prd", "sae-dashboard")
SOME = range(20, 330)  # of all three layers


class Stop(Exception):
    """What a cancelling server raises."""


class Stopping(Quiet):
    """Progress that raises after some advances, and keeps what it is told."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error, self.notes = after, error, list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[Task]:
        yield self

    def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
        if self.left == 0:
            raise self.error
        self.left -= 1


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = published_tables(1)
    for name in ("exemplars", "logit_lens", "token_stats"):  # small, so that many runs are quick
        tables[name] = [row for row in tables[name] if row["neuron"] % 9 == 0]
    return write_atlas(tmp_path_factory.mktemp("a") / "a.duckdb", tables, layers=LAYERS, d_mlp=D_MLP, name="a")


@pytest.fixture(scope="module")
def opened(file: Path) -> Iterator[atlas.Atlas]:
    with atlas.open(file) as a:
        yield a


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 neurons at a time and 64 a unit: several units and chunks of a layer."""
    from atlas.export.neuronpedia import prd, sae_dashboard, upload

    monkeypatch.setattr(records, "CHUNK", 30)
    for module in (bulk, upload, prd, sae_dashboard):
        monkeypatch.setattr(module, "PER_UNIT", 64)


# -- the same bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_plan_gives_the_same_bytes(opened: atlas.Atlas, file: Path, tmp_path: Path, layout: str) -> None:
    plan = NeuronpediaPlan(SOME, layout, signs=(1, -1))
    once = export_neuronpedia(opened, tmp_path / "one", plan)
    with atlas.open(shutil.copy(file, tmp_path / "b.duckdb")) as copied:
        shuffled = replace(plan, neurons=[*reversed(SOME), *SOME], force=True, most_bytes=1 << 40)
        again = export_neuronpedia(copied, tmp_path / "two", shuffled)
    assert (once.sha256, once.size_bytes, once.features) == (again.sha256, again.size_bytes, again.features)
    if layout == "prd":
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
        with zipfile.ZipFile(once.path) as packed:
            assert packed.namelist() == sorted(packed.namelist())
            assert {i.date_time for i in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert export_neuronpedia(opened, tmp_path / "three", replace(plan, top_k=3)).sha256 != once.sha256


def test_a_zip_and_a_folder_hold_the_same_files(opened: atlas.Atlas, tmp_path: Path) -> None:
    plan = NeuronpediaPlan(range(5), "prd")
    packed = contents(export_neuronpedia(opened, tmp_path / "p.zip", plan).path)
    plain = contents(export_neuronpedia(opened, tmp_path / "p", replace(plan, zip=False)).path)
    assert packed.keys() == plain.keys()
    assert {n for n in packed if packed[n] != plain[n]} == {"metadata.json"}  # which says whether it is a zip


def test_ids_depend_on_what_a_row_is_and_not_on_the_run(opened: atlas.Atlas, tmp_path: Path) -> None:
    few = export_neuronpedia(opened, tmp_path / "few", NeuronpediaPlan([27, 36], activations=2)).path
    many = export_neuronpedia(opened, tmp_path / "many", NeuronpediaPlan(SOME, activations=5)).path
    known = {row["id"]: row for row in rows(many, "activations")}
    found = rows(few, "activations")
    assert len(found) == 4 and all(known[row["id"]] == row for row in found)
    assert stable_id("activation", "a", "b") != stable_id("activation", "ab", "")


# -- going on and cancelling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("chunks")
def test_a_run_that_was_stopped_goes_on_to_the_same_package(opened: atlas.Atlas, tmp_path: Path, layout: str) -> None:
    plan = NeuronpediaPlan(SOME, layout)
    whole = export_neuronpedia(opened, tmp_path / "whole", plan)
    target = tmp_path / "stopped"
    for error in (Stop(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            export_neuronpedia(opened, target, plan, progress=Stopping(7, error))
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith("stopped")] == []
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / ".stopped.partial" / "package").rglob("*") if p.is_file()}
    told = Stopping(-1, Stop())
    done = export_neuronpedia(opened, target, plan, progress=told)
    assert any(note.startswith("going on after") for note in told.notes)
    assert (done.sha256, done.size_bytes, done.notes) == (whole.sha256, whole.size_bytes, whole.notes)
    assert contents(target) == contents(tmp_path / "whole")
    if target.is_dir():
        now = {p: (target / p.relative_to(tmp_path / ".stopped.partial" / "package")).stat().st_mtime_ns for p in kept}
        assert sum(kept[p] == now[p] for p in kept) >= 2  # finished batches are not written again
    assert not (tmp_path / ".stopped.partial").exists()


@pytest.mark.parametrize("layout", ["bulk", "prd"])
@pytest.mark.usefixtures("chunks")
def test_cancelling_at_any_time_leaves_no_target(opened: atlas.Atlas, tmp_path: Path, layout: str) -> None:
    plan, steps = NeuronpediaPlan(range(100, 170), layout), 0
    while True:
        try:
            export_neuronpedia(opened, tmp_path / "t", plan, progress=Stopping(steps, Stop()))
            break
        except Stop:
            assert not (tmp_path / "t").exists()
        steps += 1 if steps < 4 else 40  # prd has an advance for every file that is packed
    assert steps >= 4 and (tmp_path / "t").exists()


@pytest.mark.parametrize("layout", ["prd"])
def test_a_killed_process_goes_on(opened: atlas.Atlas, file: Path, tmp_path: Path, layout: str) -> None:
    code = f"""
import os
import atlas
from contextlib import contextmanager
from atlas.build.neuronpedia import export_neuronpedia
from atlas.export.neuronpedia.plan import NeuronpediaPlan
from atlas.export.neuronpedia.selection import Choice, chosen
from atlas.progress import Quiet
class Dying(Quiet):
    left = 3
    @contextmanager
    def task(self, title, total, unit):
        yield self
    def advance(self, amount=1, *, told="", free=False):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), 9)
with atlas.open({str(file)!r}) as a:
    export_neuronpedia(a, {str(tmp_path / "t")!r} and __import__("pathlib").Path({str(tmp_path / "t")!r}),
                       NeuronpediaPlan(range(20, 330), {layout!r}), progress=Dying())
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not (tmp_path / "t").exists() and (tmp_path / ".t.partial" / "done.jsonl").exists()
    plan = NeuronpediaPlan(range(20, 330), layout)
    with (tmp_path / ".t.partial" / "done.jsonl").open("a") as log:
        log.write('{"unit": 1, "files"')  # a line that the kill tore
    done = export_neuronpedia(opened, tmp_path / "t", plan)
    assert done.sha256 == export_neuronpedia(opened, tmp_path / "whole", plan).sha256


@pytest.mark.usefixtures("chunks")
def test_another_plan_or_atlas_starts_anew_and_a_lost_file_is_made_again(opened: atlas.Atlas, tmp_path: Path) -> None:
    plan, target = NeuronpediaPlan(SOME), tmp_path / "t"
    with pytest.raises(Stop):
        export_neuronpedia(opened, target, plan, progress=Stopping(8, Stop()))
    told = Stopping(6, Stop())
    with pytest.raises(Stop):
        export_neuronpedia(opened, target, replace(plan, top_k=4), progress=told)
    assert any("another plan" in note for note in told.notes)
    batches = sorted((tmp_path / ".t.partial" / "package").rglob("*.gz"))
    batches[0].unlink()
    made = export_neuronpedia(opened, target, replace(plan, top_k=4))
    assert made.sha256 == export_neuronpedia(opened, tmp_path / "whole", replace(plan, top_k=4)).sha256


def test_weights_that_were_cut_are_written_anew(opened: atlas.Atlas, tmp_path: Path) -> None:
    def cut_short(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("x")
        raise Stop

    def whole(folder: Path) -> None:
        folder.mkdir()
        (folder / "cfg.json").write_text("{}")

    plan = NeuronpediaPlan([1], model="any")
    with pytest.raises(InputError, match="use that function"):
        write.export_neuronpedia(opened, tmp_path / "t", plan)
    with pytest.raises(Stop):
        write.export_neuronpedia(opened, tmp_path / "t", plan, weights=cut_short)
    files = contents(write.export_neuronpedia(opened, tmp_path / "t", plan, weights=whole).path)
    assert [name for name in files if name.startswith("saelens")] == ["saelens/cfg.json"]


def test_progress_reaches_its_total_where_neurons_have_no_row(tmp_path: Path) -> None:
    class Summing(Quiet):
        @contextmanager
        def task(self, title: str, total: int, unit: str) -> Iterator[Task]:
            self.done = 0
            yield self
            seen[title] = (self.done, total)

        def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
            self.done += amount

    seen: dict[str, tuple[int, int]] = {}
    tables = published_tables(2)
    tables["neurons"] = [row for row in tables["neurons"] if row["neuron"] % 3]
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables, layers=LAYERS, d_mlp=D_MLP)) as a:
        made = export_neuronpedia(a, tmp_path / "t", NeuronpediaPlan(range(450)), progress=Summing())
        assert len(chosen(a, Choice(everything=True))) == made.features == 300
    assert seen.keys() == {"content of the atlas", "features", "packing"}
    assert all(done == total for done, total in seen.values())
    assert "left out: 150 neurons: no row in the table neurons" in made.notes


def test_two_exports_do_not_write_one_target(opened: atlas.Atlas, tmp_path: Path) -> None:
    class Second(Stopping):
        def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
            if self.left == 2:  # in the middle of the first
                with pytest.raises(InputError, match="another export is writing"):
                    export_neuronpedia(opened, tmp_path / "t", NeuronpediaPlan([3]))
            self.left -= 1

    export_neuronpedia(opened, tmp_path / "t", NeuronpediaPlan(SOME), progress=Second(3, Stop()))
    assert document(contents(tmp_path / "t")["metadata.json"])["feature_count"] == len(SOME)


# -- targets and a full disk -------------------------------------------------------------------------------------


def test_a_target_that_is_there_is_refused_and_replaced_whole_with_force(opened: atlas.Atlas, tmp_path: Path) -> None:
    target, plan = tmp_path / "t", NeuronpediaPlan(SOME)
    target.mkdir()
    export_neuronpedia(opened, target, plan)  # an empty folder is no loss
    with pytest.raises(InputError, match="--force"):
        export_neuronpedia(opened, target, plan)
    (target / "toy" / "7").mkdir()
    export_neuronpedia(opened, target, replace(plan, neurons=[0], force=True))
    assert not (target / "toy" / "7").exists() and not (target / "toy" / "1").exists()
    export_neuronpedia(opened, target, NeuronpediaPlan([0], "prd", force=True))
    assert target.is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("kind", ["folder", "file", "zip"])
def test_what_is_no_package_is_never_replaced(opened: atlas.Atlas, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "t"
    if kind == "folder":
        target.mkdir()
        (target / "thesis.txt").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    else:
        with zipfile.ZipFile(target, "w") as packed:
            packed.writestr("metadata.json", "[]")
    before = contents(target) if kind != "file" else target.read_bytes()
    with pytest.raises(InputError, match="is not replaced"):
        export_neuronpedia(opened, target, NeuronpediaPlan([0], force=True))
    assert before == (contents(target) if kind != "file" else target.read_bytes())
    with pytest.raises(InputError, match="there already"):
        check_target(target, force=False)


@pytest.mark.parametrize(("layout", "limit"), [("bulk", 9_000), ("upload", 40_000), ("prd", 60_000)])
def test_a_full_disk_is_one_line_and_leaves_no_target(file: Path, tmp_path: Path, layout: str, limit: int) -> None:
    """A limit on the size of files gives the same error as a full disk; prd meets it while packing."""
    arguments = ["export", "neuronpedia", "--atlas", str(file), "--all", "--layout", layout, "-o", str(tmp_path / "t")]
    code = f"import sys; from atlas.cli.main import main; main({[*arguments, '-q']!r})"
    size = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=size, capture_output=True, text=True, env=environment
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("atlas: disk full while writing") and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] in ([".t.partial"], [".t.zip.partial"])
    if layout == "bulk":
        again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert again.returncode == 0, again.stderr


def test_weights_on_a_full_disk_are_one_line_too(tmp_path: Path) -> None:
    demo = Path(__file__).parents[3] / "data" / "demo" / "model"
    rows = [{"layer": n // 384, "neuron": n % 384, "feature_id": n} for n in range(4 * 384)]
    write_atlas(tmp_path / "m.duckdb", {"neurons": rows}, layers=4, d_mlp=384)
    con = duckdb.connect(str(tmp_path / "m.duckdb"))
    con.execute("DELETE FROM metadata WHERE key = 'revision'")
    con.close()
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))
from atlas.cli.main import main
main(["export", "neuronpedia", "--atlas", {str(tmp_path / "m.duckdb")!r}, "layer:1", "-q", "--model", {str(demo)!r},
      "-o", {str(tmp_path / "out" / "t")!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("atlas: cannot write sae_weights.safetensors")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".t.partial"]


def test_too_small_a_disk_is_found_before_anything_is_written(
    opened: atlas.Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(ResourceError, match=r"needs about 0\.\d+ GB while it is written, .* has 0.000 GB free"):
        export_neuronpedia(opened, tmp_path / "t", NeuronpediaPlan(SOME, "prd"))
    assert not list(tmp_path.iterdir())


def test_a_place_where_nobody_may_write_is_one_error(opened: atlas.Atlas, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        export_neuronpedia(opened, tmp_path / "file" / "t", NeuronpediaPlan([0]))


# -- splitting ---------------------------------------------------------------------------------------------------


def test_batches_are_split_before_the_limit(
    opened: atlas.Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export_neuronpedia(opened, tmp_path / "whole", NeuronpediaPlan(SOME)).path
    monkeypatch.setattr(bulk, "MOST_BYTES", 20_000)
    split = export_neuronpedia(opened, tmp_path / "split", NeuronpediaPlan(SOME)).path
    for kind in ("features", "activations", "explanations"):
        assert rows(split, kind) == rows(whole, kind)
    names = [n for n in contents(split) if n.startswith("toy/1/features/")]
    assert sorted(names) == sorted(f"toy/1/features/batch-{i}.jsonl.gz" for i in range(len(names))) and len(names) > 3
    monkeypatch.setattr(bulk, "MOST_FILES", 3)
    with pytest.raises(InputError, match="more than 3 files"):
        export_neuronpedia(opened, tmp_path / "many", NeuronpediaPlan(SOME))


# -- estimates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_estimate_is_near_what_is_written(opened: atlas.Atlas, tmp_path: Path, layout: str) -> None:
    plan = NeuronpediaPlan(range(LAYERS * D_MLP), layout)
    found = estimate(opened, plan)
    assert not list(tmp_path.iterdir())
    made = export_neuronpedia(opened, tmp_path / "t", plan, expected=found)
    assert (found.features, found.sampled) == (450, 128)
    assert 0.75 < found.size_bytes / made.size_bytes < 1.33 and abs(found.files - made.files) <= 2
    with pytest.raises(InputError, match=r"would take about .* --max-size 1GB"):
        export_neuronpedia(opened, tmp_path / "u", replace(plan, most_bytes=1000))
