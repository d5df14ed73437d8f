"""`atlas submit` without a cluster: what is planned from shards and queue, and the scripts as bash reads them."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from atlas.build.batch_scripts import Resources, read_site, template_file
from atlas.build.job_plan import Job, Need, Queued, job_name, plan_jobs
from atlas.errors import AtlasError, InputError
from atlas.shards import spans

PLACE = Path("/data/demo.duckdb.build")
KEYS = {"activations": "a" * 32, "logit_lens": "b" * 32, "wiring": "c" * 32, "relp": "d" * 32}
NEEDS = [
    Need("activations", KEYS["activations"], 4, frozenset()),
    Need("logit_lens", KEYS["logit_lens"], 1, frozenset()),
    Need("wiring", KEYS["wiring"], 4, frozenset(), ("activations",)),
    Need("relp", KEYS["relp"], 4, frozenset()),
]
ALL = frozenset(range(4))


def needs(**done: frozenset[int] | set[int]) -> list[Need]:
    return [replace(need, done=frozenset(done.get(need.step, ()))) for need in NEEDS]


def queued(job: str, step: str, state: str = "PENDING", *, of: int = 4, key: str = "", reason: str = "None") -> Queued:
    fingerprint = key or KEYS.get(step.replace("-", "_"), "0" * 32)
    name = job_name(step, PLACE, key=fingerprint, of=1 if step in ("merge", "logit-lens") else of)
    return Queued(job, name, int(job.partition("_")[2] or 0), state, reason)


def plan(found: list[Need], queue: list[Queued], *, out_of_date: bool = True):
    return plan_jobs(found, queue, place=PLACE, out_of_date=out_of_date)


def tasks(jobs: tuple[Job, ...]) -> dict[str, tuple[int, ...]]:
    return {job.step: job.tasks for job in jobs}


# -- the plan -------------------------------------------------------------------------------------------------------


def test_everything_at_first_and_the_merge_after_all() -> None:
    made = plan(needs(), [])
    every = (0, 1, 2, 3)
    assert tasks(made.jobs) == {"activations": every, "logit_lens": (0,), "wiring": every, "relp": every, "merge": ()}
    after = {job.step: job.after for job in made.jobs}
    assert after["wiring"] == ("activations",)
    assert after["merge"] == ("activations", "logit_lens", "wiring", "relp")
    assert after["activations"] == after["relp"] == after["logit_lens"] == ()
    assert made.cancel == made.kept == ()


def test_only_missing_shards() -> None:
    made = plan(needs(activations={0, 1, 3}, logit_lens={0}, relp=ALL, wiring=frozenset()), [])
    assert tasks(made.jobs) == {"activations": (2,), "wiring": (0, 1, 2, 3), "merge": ()}


def test_what_is_queued_is_not_sent_again_but_waited_for_task_by_task() -> None:
    queue = [queued("7_1", "activations", "RUNNING"), queued("7_3", "activations")]
    made = plan(needs(activations={0}, logit_lens={0}, relp=ALL), queue)
    assert tasks(made.jobs) == {"activations": (2,), "wiring": (0, 1, 2, 3), "merge": ()}
    wiring, merge = made.jobs[1:]
    assert wiring.after == ("activations",) and wiring.waits == ("7_1", "7_3")
    assert merge.waits == ("7_1", "7_3")


def test_a_second_submit_while_all_is_queued_does_nothing() -> None:
    queue = [queued(f"7_{i}", "activations", "RUNNING") for i in range(4)]
    queue += [queued(f"8_{i}", "wiring", reason="Dependency") for i in range(4)] + [queued("9", "merge")]
    made = plan(needs(logit_lens={0}, relp=ALL), queue)
    assert made.jobs == () and made.cancel == ()
    assert {task.job for task in made.kept} == {task.job for task in queue}


def test_a_failed_task_renews_what_waits_for_it() -> None:
    queue = [queued("7_3", "activations", "RUNNING"), *(queued(f"8_{i}", "wiring") for i in range(4))]
    queue.append(queued("9", "merge", reason="DependencyNeverSatisfied"))
    made = plan(needs(activations={0, 1}, logit_lens={0}, relp=ALL), queue)  # task 2 has gone without a shard
    assert tasks(made.jobs) == {"activations": (2,), "wiring": (0, 1, 2, 3), "merge": ()}
    assert set(made.cancel) == {"8_0", "8_1", "8_2", "8_3", "9"}
    assert made.jobs[1].waits == ("7_3",)


def test_a_merge_that_was_lost_is_sent_alone() -> None:
    made = plan(needs(activations=ALL, logit_lens={0}, wiring=ALL, relp=ALL), [])
    assert tasks(made.jobs) == {"merge": ()}
    waiting = plan(needs(activations=ALL, logit_lens={0}, wiring=ALL), [queued(f"5_{i}", "relp") for i in range(4)])
    assert tasks(waiting.jobs) == {"merge": ()} and waiting.jobs[0].waits == ("5_0", "5_1", "5_2", "5_3")


def test_a_merge_that_waits_for_a_failed_job_is_replaced() -> None:
    stuck = queued("9", "merge", reason="DependencyNeverSatisfied")
    made = plan(needs(activations=ALL, logit_lens={0}, wiring=ALL, relp=ALL), [stuck])
    assert tasks(made.jobs) == {"merge": ()} and made.cancel == ("9",) and made.kept == ()


def test_nothing_when_the_atlas_is_up_to_date() -> None:
    assert plan([], [], out_of_date=False).jobs == ()
    assert plan([], [queued("9", "merge", "RUNNING")]).jobs == ()


def test_a_running_merge_is_not_undermined() -> None:
    with pytest.raises(AtlasError, match="job 9 is building this atlas; wait"):
        plan(needs(), [queued("9", "merge", "RUNNING")])


@pytest.mark.parametrize("other", [{"of": 8}, {"of": 40}, {"key": "e" * 32}])
def test_another_count_or_recipe_in_the_queue_is_refused(other: dict) -> None:
    with pytest.raises(InputError, match=r"job 7 measures activations in .*scancel 7"):
        plan(needs(), [queued("7_0", "activations", **other)])


def test_jobs_of_other_atlases_and_of_other_people_are_not_ours() -> None:
    elsewhere = Queued("7_0", job_name("activations", Path("/other"), key=KEYS["activations"], of=4), 0, "RUNNING")
    made = plan(needs(), [elsewhere, Queued("8", "bash", 0, "RUNNING"), Queued("9", "atlas-notes", 0, "PENDING")])
    assert tasks(made.jobs)["activations"] == (0, 1, 2, 3) and made.kept == () and made.cancel == ()


# -- options and template -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("partition", "a b"),
        ("partition", "cpu\n#SBATCH --uid=0"),
        ("account", 'x"y'),
        ("time", "two hours"),
        ("memory", "16 GB"),
        ("gpus", "many"),
        ("cpus", 0),
        ("max_running", 0),
    ],
)
def test_values_that_sbatch_would_misread_are_refused(option: str, value: object) -> None:
    with pytest.raises(InputError, match="--" + {"memory": "mem"}.get(option, option).replace("_", "-")):
        Resources(**{"partition": "cpu", option: value})


@pytest.mark.parametrize(
    ("indexes", "text"), [([0], "0"), ([0, 1, 2, 3], "0-3"), ([3, 7], "3,7"), ([0, 1, 5], "0-1,5")]
)
def test_spans(indexes: list[int], text: str) -> None:
    assert spans(indexes) == text


def test_a_template_with_a_wrong_mark_is_refused_by_name(tmp_path: Path) -> None:
    text = template_file().read_text()
    (tmp_path / "t").write_text(text.replace("@SETUP@", "@SETTUP@"))
    with pytest.raises(InputError, match="@SETTUP@ is unknown") as refused:
        read_site(python=Path(sys.executable), template=tmp_path / "t")
    assert "@SETUP@ is missing" in str(refused.value)


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe in a folder whose name needs quotes."""
    pytest.importorskip("torch")
    from small_build import write_recipe

    folder = tmp_path / "it's 50% done"
    folder.mkdir()
    return write_recipe(folder)


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without SLURM's programs."""
    (tmp_path / "bin").mkdir()
    for program in ("bash", "env"):
        (tmp_path / "bin" / program).symlink_to(f"/usr/bin/{program}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def jobs_of(script: str) -> list[str]:
    return re.findall(r"<<'END_OF_JOB'\n(.*?)END_OF_JOB\n", script, re.DOTALL)


@pytest.mark.usefixtures("no_slurm")
def test_dry_run_is_bash_and_writes_nothing(recipe: Path, run) -> None:
    setup = recipe.parent / "setup.sh"
    setup.write_text("module load cuda # @JOB_NAME@ stays\n")
    words = ("--array", 3, "--gpus", "a100:1", "--max-running", 2, "--setup", setup, "--dry-run")
    shown = run("submit", recipe, "--partition", "cpu", *words)
    assert shown.code == 0, shown.err
    assert not (recipe.parent / "small.duckdb.build").exists()
    scripts = jobs_of(shown.out)
    assert len(scripts) == 8
    for text in (shown.out, *scripts):
        assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    activations, merge = scripts[0], scripts[-1]
    assert "#SBATCH --array=0-2%2\n" in activations and "#SBATCH --gpus=a100:1\n" in activations
    assert "--array" not in merge and "--gpus" not in merge
    assert "module load cuda # @JOB_NAME@ stays" in merge
    folder = str(recipe.parent).replace("%", "%%")
    assert f'#SBATCH --output="{folder}/small.duckdb.build/slurm/activations-%A_%a.log"\n' in activations


@pytest.mark.usefixtures("no_slurm")
def test_the_command_of_a_task_survives_bash(recipe: Path, run) -> None:
    """What bash hands to the interpreter, with spaces, quotes and the task's number in place."""
    shown = run("submit", recipe, "-p", "cpu", "--array", 3, "--dry-run")
    lines = [script.splitlines()[-1] for script in jobs_of(shown.out)]
    assert all(line.startswith("exec ") for line in lines)
    bash = "SLURM_ARRAY_TASK_ID=2\nprintf '%s\\n' " + lines[0].removeprefix("exec ")
    words = subprocess.run(["bash", "-c", bash], text=True, capture_output=True).stdout.splitlines()
    task = ["measure", "activations", str(recipe), "--shard", "2/3", "--workers", "2"]
    assert words == [str(Path(sys.executable)), "-m", "atlas", *task]
    assert shlex.split(lines[-1])[2:] == ["-m", "atlas", "build", str(recipe), "--workers", "2"]


@pytest.mark.usefixtures("no_slurm")
def test_no_sbatch_is_one_line_with_the_next_step(recipe: Path, run) -> None:
    shown = run("submit", recipe, "-p", "cpu", "--array", 3)
    assert shown.code == 1 and shown.out == ""
    assert shown.err.count("\n") == 1 and "--dry-run" in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--array", 0), "--array"),
        (("--array", 100000), "--array"),
        (("--time", "soon"), "--time"),
        (("--python", "/no/such/python"), "no Python at /no/such/python"),
        (("--setup", "/no/such/file"), "--setup"),
    ],
)
def test_bad_values_are_refused(recipe: Path, run, words: tuple, said: str) -> None:
    shown = run("submit", recipe, "-p", "cpu", *words, "--dry-run")
    assert shown.code == 2 and said in shown.err and "Traceback" not in shown.err


def test_an_unknown_recipe_is_refused(run, tmp_path: Path) -> None:
    shown = run("submit", tmp_path / "none.toml", "-p", "cpu", "--dry-run")
    assert shown.code == 2 and "no recipe at" in shown.err


@pytest.mark.usefixtures("no_slurm")
def test_a_finished_atlas_needs_nothing(small: Path, run) -> None:
    shown = run("submit", small.with_suffix(".toml"), "-p", "cpu", "--array", 5, "--dry-run")
    assert shown.code == 0 and jobs_of(shown.out) == []
    assert "up to date" in shown.err


@pytest.mark.usefixtures("no_slurm")
def test_shards_that_are_there_in_another_count_stay(small: Path, recipe: Path, run) -> None:
    """The atlas is gone, its shards (two of each array step) are there: only the merge is left."""
    import shutil

    shutil.copytree(small.with_name("small.duckdb.build"), recipe.parent / "small.duckdb.build")
    shown = run("submit", recipe, "-p", "cpu", "--array", 5, "--dry-run")
    assert [script.splitlines()[-1].split()[4] for script in jobs_of(shown.out)] == ["build"]
    relp = next((recipe.parent / "small.duckdb.build").glob("relp-*/shard-00001-of-00002"))
    shutil.rmtree(relp)
    shown = run("submit", recipe, "-p", "cpu", "--dry-run")  # goes on with two
    assert "note: relp" not in shown.err
    first, merge = jobs_of(shown.out)
    assert "#SBATCH --array=1\n" in first and '"$SLURM_ARRAY_TASK_ID"/2' in first and " build " in merge
    other = run("submit", recipe, "-p", "cpu", "--array", 5, "--dry-run")
    assert "#SBATCH --array=0-4\n" in other.out
    assert "note: relp was begun in 2 shards, which do not merge with 5; --array 2 goes on with those" in other.err


def test_what_sbatch_refuses_is_shown_and_what_was_sent_is_found_again(
    recipe: Path, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs with SLURM's names that keep a queue in a file: the second sbatch fails, the second submit goes on."""
    programs = tmp_path / "programs"
    programs.mkdir()
    queue = tmp_path / "queue"
    queue.touch()
    sbatch = f"""#!/bin/bash
    for file; do :; done
    n=$(( $(wc -l <{queue}) + 1 ))
    [ $n = 2 ] && [ ! -e {tmp_path}/mended ] && echo "Invalid account" >&2 && exit 1
    echo "$n|N/A|PENDING|None|$(sed -n 's/^#SBATCH --job-name=//p' "$file")" >>{queue}
    echo "$n;cluster"
    """
    for name, text in {"sbatch": sbatch, "squeue": f"#!/bin/bash\ncat {queue}", "scancel": "#!/bin/bash"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    refused = run("submit", recipe, "-p", "cpu", "--array", 1, "--format", "json")
    assert refused.code == 1 and "Invalid account" in refused.err and refused.err.count("\n") == 1
    (tmp_path / "mended").touch()
    rows = {
        row["step"]: row for row in json.loads(run("submit", recipe, "-p", "cpu", "--array", 1, "--format", "json").out)
    }
    assert rows["activations"]["state"] == "pending" and rows["activations"]["job"] == "1"
    assert rows["wiring"]["after"] == "afterok:1"
    assert rows["merge"]["after"].split(":")[1:] == [*(str(n) for n in range(2, 8)), "1"]
    again = run("submit", recipe, "-p", "cpu", "--array", 1)
    assert again.code == 0 and "nothing to submit" in again.err and "submitted" not in again.out
