"""The commands as a person runs them: output, formats, notes, failures in one line, exit codes."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pyarrow.parquet
import pytest
from synthetic import edge_sides, small, small_tables, write_atlas  # noqa: F401

from atlas.cli import main as cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def file(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.setenv("ATLAS_FILE", str(small))
    return small


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("neuron L1/N2", ["aspirin and drugs", "<- L0/N0", "⟦ aspirin⟧"]),
        ("search dog", ["L0/N0", "dog words"]),
        ("search dog --explain", ["idf", "tf"]),
        ("search ^dog --mode regex", ["L2/N7"]),
        ("tokens cluster:1", ["' dog'"]),
        ("tokens 0_0 --contexts", ["⟦ dog⟧"]),
        ("tokens 0_0 --polarity -", ["' cat'"]),
        ("fires-on dog cat", ["cat words"]),
        ("fires-on dog --contexts", ["⟦ dog⟧"]),
        ("edges --from layer:0 --to 1_2", ["L0/N0", "L1/N2", "0.5774"]),
        ("edges --by-cluster --level 1", ["animals", "module 2"]),
        ("ego 1_2 --top 2", ["nodes", "edges", "L0/N1"]),
        ("cluster list --level 1", ["animals"]),
        ("cluster list --search animals", ["animals"]),
        ("cluster show 1", ["Members", "Neighbours", "conductance"]),
        ("cluster members 2", ["L2/N7"]),
        ("prune --threshold 25", ["L0/N1", "fisher"]),
        ("prune --summary", ["candidates"]),
        ("prune --method weights --scope global --threshold 25", ["L0/N0", "weights"]),
        ("info --hash", ["toy", "relp_direct", "hash", "completeness residual", "70.0%", "wiring.parquet"]),
        ("check", ["ok    edges_sorted"]),
    ],
)
def test_commands_answer(capsys: pytest.CaptureFixture[str], command: str, parts: list[str]) -> None:
    code, out, err = run(capsys, *command.split())
    assert code == 0, err
    for part in parts:
        assert part in out
    assert "\x1b" not in out  # plain when piped


def test_one_answer_in_every_format(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = json.loads(run(capsys, "search", "dog", "--format", "json")[1])
    assert [r["neuron"] for r in rows] == [0, 7, 2, 3]
    lines = run(capsys, "search", "dog", "--format", "jsonl")[1].splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = list(csv.DictReader(io.StringIO(run(capsys, "search", "dog", "--format", "csv")[1])))
    assert [float(r["score"]) for r in table] == [r["score"] for r in rows]
    target = tmp_path / "dog.parquet"
    assert run(capsys, "search", "dog", "--format", "parquet", "-o", str(target))[:2] == (0, "")
    assert pyarrow.parquet.read_table(target).to_pylist() == rows
    assert run(capsys, "search", "dog", "--format", "json", "-o", str(tmp_path / "x"))[1] == ""
    assert json.loads((tmp_path / "x").read_text()) == rows


@pytest.mark.parametrize("command", ["neuron 0_0", "ego 0_0", "cluster show 1", "info", "check"])
def test_structures_as_json(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, *command.split(), "--format", "json")
    assert code == 0 and json.loads(out)


@pytest.mark.parametrize(("extra", "total"), [((), 6), (("--layer", "1"), 2), (("--all",), 6)])
def test_candidates_as_the_seed_document(
    capsys: pytest.CaptureFixture[str], extra: tuple[str, ...], total: int
) -> None:
    code, out, err = run(capsys, "prune", "--threshold", "25", "--limit", "1", "--format", "json", *extra)
    found = json.loads(out)
    assert code == 0 and list(found) == ["candidates", "total_candidates", "threshold_percentile"]
    assert (found["total_candidates"], found["threshold_percentile"]) == (total, 25.0)
    fields = {"layer_index", "neuron_index", "weight_magnitude", "weight_rank", "is_pruning_candidate", "pruning_score"}
    assert len(found["candidates"]) == 1 and fields <= found["candidates"][0].keys()
    assert "note: 1 of" in err


def test_limits_say_what_they_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert "note: 2 of 4 rows; --limit 0 shows all" in run(capsys, "search", "dog", "--limit", "2")[2]
    assert "rows;" not in run(capsys, "search", "dog", "--limit", "4")[2]
    assert "rows;" not in run(capsys, "search", "dog", "--limit", "0")[2]
    assert "note: 3 of 24 rows" in run(capsys, "sql", "FROM neurons", "--limit", "3")[2]
    assert "'dog' means the tokens" in run(capsys, "fires-on", "dog")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["neuron", "L9/N0"], 2, "layers 0..2"),
        (["neuron", "dog"], 2, "cannot read a neuron"),
        (["cluster", "show", "9.9"], 2, "no module '9.9'"),
        (["fires-on", "dgo"], 2, "nearest: ' dog'"),
        (["edges", "label:dog", "layer:1"], 2, "use --from and --to: atlas edges --from label:dog --to layer:1"),
        (["search", "(", "--mode", "regex"], 2, "not a regular expression"),
        (["search", ""], 2, "empty query"),
        (["search", "dog", "--layers", "x"], 2, "cannot read layers"),
        (["sql", "DELETE FROM neurons"], 2, "read-only"),
        (["sql", "SELECT nope FROM neurons"], 2, "nope"),
        (["info", "--atlas", "missing.duckdb"], 2, "no atlas at missing.duckdb"),
        (["search", "dog", "--format", "parquet"], 2, "-o FILE"),
        (["search", "dog", "--format", "parquet", "-o", "/dev/null/x"], 2, "cannot write /dev/null/x"),
        (["search", "dog", "--format", "csv", "-o", "/dev/null/x"], 2, "cannot write /dev/null/x"),
        (["neuron", "0_0", "--format", "json", "-o", "/dev/null/x"], 2, "cannot write /dev/null/x"),
        (["info", "--format", "csv"], 2, "json"),
        (["prune", "--eval-id", "e7"], 2, "no scores of evaluation 'e7'"),
        (["prune", "--threshold", "101"], 2, "no percentile"),
    ],
)
def test_failures_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert err.startswith("atlas: ") and err.count("\n") == 1 and message in err


def test_a_failed_check_ends_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tables = small_tables()
    tables["edges_in"] = edge_sides(tables["edges"])["edges_in"][:-1]
    code, out, err = run(capsys, "check", "--atlas", str(write_atlas(tmp_path / "bad.duckdb", tables)))
    assert code == 1 and "FAIL  edges_in_equal: 1 bad rows" in out and "checks passed" in err


def test_the_only_atlas_under_data_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path
) -> None:
    monkeypatch.delenv("ATLAS_FILE")
    monkeypatch.chdir(tmp_path)
    assert "set ATLAS_FILE" in run(capsys, "info")[2]
    (tmp_path / "data" / "demo").mkdir(parents=True)
    shutil.copy(file, tmp_path / "data" / "demo" / "a.duckdb")
    assert run(capsys, "info")[0] == 0
    shutil.copy(file, tmp_path / "data" / "b.duckdb")
    code, _, err = run(capsys, "info")
    assert code == 2 and "several atlases" in err and "b.duckdb" in err


def test_ids_and_sql_from_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("L0/N0\n0_1\n"))
    assert "' cat'" in run(capsys, "tokens", "-")[1]
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 42 AS answer"))
    assert run(capsys, "sql", "-", "--format", "csv")[1] == "answer\n42\n"


def test_help_has_an_example_for_every_command() -> None:
    for name, (target, text) in cli.COMMANDS.items():
        assert text.endswith(".")
        if not target.startswith(("atlas.cli.query", "atlas.cli.inspect")):
            continue
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        for one in command.commands.values() if isinstance(command, click.Group) else [command]:
            assert one.epilog and one.epilog.startswith("Example: atlas "), one.name


def test_help_imports_no_command() -> None:
    script = (
        "import sys\nfrom atlas.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m in ('duckdb', 'atlas.cli.query', 'atlas.cli.build', 'rich')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and "fires-on" in done.stdout


def test_a_closed_pipe_is_quiet(file: Path) -> None:
    script = "import sys; from atlas.cli.main import main; main(['sql', 'FROM range(200000)'])"
    command = f'"{sys.executable}" -c "{script}" | head -n 1'
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "ATLAS_FILE": str(file)}
    )
    assert done.stdout.strip() == "range" and done.stderr == ""
    left = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, cwd=ROOT, check=False)
    assert left.returncode == 0


def test_a_search_without_rows_says_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "search", "zzz")
    assert (code, out) == (0, "(no rows)\n")
    assert err.startswith("note: no label matches") and "trailing *" in err and "--mode regex" in err
    assert "--mode regex" not in run(capsys, "search", "zzz", "--mode", "regex")[2]
    assert run(capsys, "search", "zzz", "--format", "json")[1] == "[]\n"
    assert run(capsys, "search", "dog")[2] == ""


def test_an_atlas_of_a_store_alone_says_what_it_lacks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tables = {name: [] for name in small_tables()}
    facts = {"edge_unit_type": "transcoder_feature", "edges_cut": 5, "edge_observations_cut": 7, "min_edge_count": 3}
    tables["neurons"] = [
        {**row, **dict.fromkeys(("label", "description", "input_label", "output_label"))}
        for row in small_tables()["neurons"]
    ]
    tables["graphs"] = [{"graph_id": 1, "edge_method": "transcoder_direct"}]
    file = str(write_atlas(tmp_path / "bare.duckdb", tables, **facts))
    code, out, err = run(capsys, "search", "dog", "--atlas", file)
    assert (code, "no neuron of bare.duckdb has a label" in err, "trailing" in err) == (0, True, False)
    code, out, err = run(capsys, "fires-on", "dog", "--atlas", file)
    assert (code, "built without a vocabulary" in err, "several tokens" in err) == (1, True, False)
    code, out, err = run(capsys, "info", "--atlas", file)
    assert code == 0 and "median unknown" not in out and "None" not in out
    assert "graphs    1, how much they explain is not known" in out
    assert "          5 with fewer than 3 observations (7 in all) left out" in out
    assert "features  24 = 3 layers x 8" in out


def test_notes_name_their_table(capsys: pytest.CaptureFixture[str]) -> None:
    err = run(capsys, "cluster", "show", "1", "--limit", "1")[2]
    assert err.splitlines() == [
        "note: 1 of 2 parts; --limit 0 shows all",
        "note: 1 of 5 members; --limit 0 shows all",
        "note: 1 of 4 edges; --limit 0 shows all",
        "note: 1 of 6 tokens; --limit 0 shows all",
    ]
    assert "edges; --limit 0" in run(capsys, "ego", "1_2", "--limit", "1")[2]


def test_an_unknown_truncation_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    silent = write_atlas(tmp_path / "silent.duckdb", small_tables(), edge_truncation="")
    _, out, err = run(capsys, "info", "--atlas", str(silent))
    assert "truncation unknown" in out and err.startswith("note: edge truncation is unknown (silent.duckdb")
    _, out, err = run(capsys, "info")
    assert "truncation none" in out and err == ""


class _Interrupted(io.StringIO):
    def read(self, size: int | None = -1) -> str:
        raise KeyboardInterrupt


def test_an_interrupted_question_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", _Interrupted())
    assert run(capsys, "sql", "-") == (130, "", "\natlas: interrupted\n")  # click ends the line of ^C


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_an_interrupted_build_says_that_it_goes_on(tmp_path: Path) -> None:
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from atlas.cli.main import main; main(sys.argv[1:])"
    )
    recipe = tmp_path / "recipe.toml"
    os.mkfifo(recipe)
    command = [sys.executable, "-c", script, "build", str(recipe)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        pipe = None
        while pipe is None and process.poll() is None:
            try:
                pipe = os.open(recipe, os.O_WRONLY | os.O_NONBLOCK)  # succeeds once the build waits for its recipe
            except OSError:
                time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert (process.returncode, err) == (130, "\natlas: interrupted; run the same command again to go on\n")
