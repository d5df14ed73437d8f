"""`atlas search` as a person runs it: marks on a terminal, pages, --like, what is refused."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import WordEmbedder, small  # noqa: F401

import atlas
from atlas.cli.main import main
from atlas.query import semantic as module

MARK = re.compile(r"\x1b\[33m\x1b\[1m(.*?)\x1b\[0m")


@pytest.fixture(autouse=True)
def embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_embedder", lambda name: WordEmbedder())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], small: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    def called(command: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as end:
            main(["search", *shlex.split(command), "--atlas", str(small)])
        out = capsys.readouterr()
        return int(end.value.code or 0), out.out, out.err

    return called


def on_terminal(command: str, file: Path) -> str:
    """What a person sees: stdout is a terminal of its own."""
    here, there = pty.openpty()
    words = [sys.executable, "-m", "atlas", "search", *shlex.split(command), "--atlas", str(file)]
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(words, stdout=there, stderr=subprocess.DEVNULL, env=kept | {"TERM": "xterm"}) as process:
        os.close(there)
        seen = b""
        while chunk := _read(here):
            seen += chunk
    os.close(here)
    assert process.returncode == 0
    return seen.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says so when the other side is closed
        return b""


@pytest.mark.parametrize(
    ("command", "marked"),
    [
        ("dogs", {"dog"}),
        ("'promoted nothing'", {"promotes"}),
        ("'aspirin me*'", {"aspirin", "meowing"}),
        ("PIRI --mode substring", {"piri"}),
        ("'do?g|c[aeiou]t' --mode regex", {"cat", "dog"}),
        ("aspirni --mode fuzzy", {"aspirin"}),
        ("'(?U)dog' --mode regex", set()),  # RE2 knows it, Python does not
        ("--like L0/N0", set()),
    ],
)
def test_matches_stand_out_on_a_terminal(small: Path, command: str, marked: set[str]) -> None:  # noqa: F811
    seen = on_terminal(command, small)
    assert set(MARK.findall(seen)) == marked and len(seen.splitlines()) > 1


def test_nothing_is_marked_elsewhere(run, small: Path, tmp_path: Path) -> None:  # noqa: F811
    assert "\x1b" not in run("dog")[1]
    seen = on_terminal(f"dog -o {tmp_path}/out.txt", small) + on_terminal("dog --format json", small)
    assert "\x1b" not in seen and "\x1b" not in (tmp_path / "out.txt").read_text()
    assert json.loads(seen)[0]["label"] == "dog words"


def ids(out: str) -> list[tuple[int, int]]:
    return [(row["layer"], row["neuron"]) for row in map(json.loads, out.splitlines())]


def test_pages_are_the_list_in_parts(run) -> None:
    whole = ids(run("dog --format jsonl --limit 0")[1])
    pages = [ids(run(f"dog --format jsonl --limit 3 --page {page}")[1]) for page in (1, 2)]
    assert pages[0] + pages[1] == whole and [len(page) for page in pages] == [3, 1]
    assert ids(run("dog --format jsonl --limit 2 --page 2")[1]) == ids(
        run("dog --format jsonl --limit 2 --offset 2")[1]
    )
    assert ids(run("dog --format jsonl --limit 1 --page 2 --offset 2")[1]) == whole[3:4]
    assert "note: 1 of 4 rows" in run("dog --limit 1 --page 2")[2]
    code, _, err = run("dog --limit 3 --page 3")
    assert code == 0 and "note: no rows after the first 6" in err
    assert run("dog --page 0")[0] == 2


def test_neurons_like_another(run, small: Path) -> None:  # noqa: F811
    code, out, _ = run("--like L0/N0 --format jsonl --limit 3")
    with atlas.open(small) as a:
        expected = [(row["layer"], row["neuron"]) for row in module.like(a, "L0/N0", limit=3).rows()]
    assert (code, ids(out)) == (0, expected) and (0, 0) not in expected
    assert ids(run("--like 0:0 --format jsonl --limit 2 --page 2")[1])[:1] == expected[2:3]
    for command, says in [
        ("", "give WORDS to search for, or --like NEURON, and not both"),
        ("dog --like L0/N0", "and not both"),
        ("--like L0/N7", "L0/N7 has no label to be like"),
        ("--like L9/N0", "L9/N0"),
        ("--like dog", "dog"),
    ]:
        code, out, err = run(command)
        assert (code, out) == (2, "") and says in err and len(err.splitlines()) == 1, command
